"""CLIP-Adapter and Task Residual against modules and loops written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.adapt import CLIPAdapter, TaskResidual, ZeroShotClassifier
from binderclip.errors import UsageError

NAMES = ["ant", "bee", "cat"]


def toy() -> tuple[np.ndarray, np.ndarray, Tensor]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 8))
    x = np.repeat(centres, 4, axis=0) + 0.9 * rng.normal(size=(12, 8))
    text = centres + rng.normal(size=(3, 8))
    x, text = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, text))
    return x, np.repeat(NAMES, 4), torch.tensor(text)


def by_hand(parameters: list[Tensor], logits: Callable[[], Tensor], lr: float, steps: int) -> Tensor:
    """Full batches of Adam with a cosine to 0; the logits at the end."""
    optimizer = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        F.cross_entropy(logits(), torch.arange(3).repeat_interleave(4)).backward()
        optimizer.step()
    return logits().detach()


def test_clip_adapter_is_its_published_module() -> None:
    x, y, text = toy()
    head = CLIPAdapter(text, classes=NAMES, ratio=0.4, reduction=2, epochs=5, seed=3).fit(x, y)
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(8, 4, bias=False), nn.ReLU(), nn.Linear(4, 8, bias=False), nn.ReLU())
    rows = torch.tensor(x).float()

    def logits() -> Tensor:
        return 100.0 * F.normalize(0.4 * net(rows) + 0.6 * rows, dim=-1) @ text.float().T

    expected = by_hand(list(net.parameters()), logits, 1e-3, 5)
    np.testing.assert_allclose(head.decision_function(x), expected.numpy(), atol=2e-3)
    assert head.n_trainable_ == 2 * 8 * 4


def test_task_residual_is_its_published_update_and_a_prior_of_others() -> None:
    x, y, text = toy()
    head = TaskResidual(text, classes=NAMES, alpha=0.5, lr=0.05, epochs=5).fit(x, y)
    residual = torch.zeros(3, 8, requires_grad=True)
    rows = torch.tensor(x).float()
    expected = by_hand([residual], lambda: 100.0 * rows @ F.normalize(text.float() + 0.5 * residual, dim=-1).T, 0.05, 5)
    np.testing.assert_allclose(head.decision_function(x), expected.numpy(), atol=2e-3)
    np.testing.assert_allclose(ZeroShotClassifier(head).decision_function(x), head.decision_function(x), atol=1e-9)
    assert head.score(x, y) > ZeroShotClassifier(text, classes=NAMES).score(x, y)


def test_without_texts_the_class_means_stand_in() -> None:
    x, y, _ = toy()
    head = TaskResidual(epochs=0).fit(x, y)
    means = x.reshape(3, 4, 8).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(head.decision_function(x), 100 * x @ means.T, atol=1e-4)


def test_bad_settings_are_named() -> None:
    x, y, text = toy()
    for settings, words in [({"ratio": 1.5}, r"ratio must be in \[0, 1\], got 1.5"), ({"reduction": 0}, "reduction")]:
        with pytest.raises(UsageError, match=words):
            CLIPAdapter(text, classes=NAMES, **settings).fit(x, y)
    with pytest.raises(UsageError, match="lr must be at least 0"):
        TaskResidual(text, classes=NAMES, lr=-1.0).fit(x, y)

"""Correlation of maps of two classes (p066)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import GradCAM, class_sensitivity, map_correlation


def test_the_correlation_is_numpys(conv_net: nn.Module, images: torch.Tensor) -> None:
    logits = conv_net.eval()(images).detach()
    method = GradCAM(signed=True)
    first = method(conv_net, images, logits.argmax(1).tolist()).maps()
    second = method(conv_net, images, logits.argmin(1).tolist()).maps()
    want = [np.corrcoef(a.flatten(), b.flatten())[0, 1] for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    found = class_sensitivity(method, conv_net, images)
    assert found.values.tolist() == pytest.approx(want, abs=1e-5)
    assert found.mean == pytest.approx(np.mean(want), abs=1e-5)
    assert found.standard_error == pytest.approx(np.std(want, ddof=1) / 3**0.5, abs=1e-5)


def test_a_method_that_ignores_its_target_scores_one(conv_net: nn.Module, images: torch.Tensor) -> None:
    found = class_sensitivity(lambda model, x, target: x.sum(1), conv_net, images, 0, 1)
    assert found.values.tolist() == pytest.approx([1, 1, 1], abs=1e-6)
    opposite = class_sensitivity(lambda model, x, target: x.sum(1) * (1 - 2 * target), conv_net, images, 0, 1)
    assert opposite.values.tolist() == pytest.approx([-1, -1, -1], abs=1e-6)


def test_constant_maps_give_numbers() -> None:
    flat, other = torch.full((1, 4, 4), 0.1), torch.rand(1, 4, 4)
    assert map_correlation(flat, 3 * flat).tolist() == [1.0]
    assert map_correlation(flat, other).tolist() == map_correlation(other, flat).tolist() == [0.0]


def test_what_does_not_fit_is_named(clip_model, conv_net: nn.Module, images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="no classes"):
        class_sensitivity(GradCAM(), clip_model, torch.rand(1, 3, 32, 32))
    with pytest.raises(UsageError, match="must give an Attribution or maps"):
        class_sensitivity(lambda model, x, target: [1], conv_net, images)
    with pytest.raises(UsageError, match="one shape"):
        map_correlation(torch.rand(1, 3, 3), torch.rand(1, 4, 4))

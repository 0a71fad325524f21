"""Attention rollout: products written out, and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import AttentionRollout
from binderclip.models.towers.trace import Record, Site, trace


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def attention(model, pictures) -> list[np.ndarray]:
    seen = trace(model.image_tower, model.preprocess(pictures), record=Record("attn"))
    return [seen.value(Site("attn", block)).detach().numpy() for block in range(2)]


@pytest.mark.parametrize("fuse", ["mean", "max", "min"])
def test_the_product_written_out(clip_model, pictures, fuse):
    found = AttentionRollout(fuse=fuse)(clip_model, pictures, "a cat").layers[0]
    for image in range(2):
        row = np.zeros(17)
        row[0] = 1.0
        for block in reversed(attention(clip_model, pictures)):
            one = getattr(block[image], fuse)(axis=0)
            one = one / one.sum(axis=1, keepdims=True)
            row = np.array([sum(row[i] * (0.5 * one[i, j] + 0.5 * (i == j)) for i in range(17)) for j in range(17)])
        np.testing.assert_allclose(found[image].flatten(), row[1:], rtol=1e-4)


def test_attention_without_a_residual_keeps_its_mass(clip_model, pictures):
    last = AttentionRollout(residual=0.0, layers=1)(clip_model, pictures, "a cat").layers[0]
    expected = attention(clip_model, pictures)[-1].mean(axis=1)[:, 0, 1:]
    np.testing.assert_allclose(last.flatten(1), expected, rtol=1e-4)
    raw, other = (AttentionRollout()(clip_model, pictures, text).layers[0] for text in ("a cat", "a dog"))
    assert torch.equal(raw, other)  # it does not know the target


def test_gradients_make_it_specific(clip_model, pictures):
    method = AttentionRollout(gradient=True)
    found = method(clip_model, pictures, "a cat").layers[0]
    assert not torch.allclose(found, method(clip_model, pictures, "a dog").layers[0])
    seen = trace(clip_model.image_tower, clip_model.preprocess(pictures), record=Record("attn"))
    text = clip_model.encode_text("a cat").detach()
    cosine = F.cosine_similarity(seen.embedding, text)
    relevance = torch.eye(17).expand(2, -1, -1)
    for block in range(2):
        weights = seen.value(Site("attn", block))
        grads = torch.autograd.grad(cosine.sum(), weights, retain_graph=True)[0]
        relevance = relevance + (grads * weights).relu().mean(1).detach() @ relevance
    assert torch.allclose(found.flatten(1), relevance[:, 0, 1:], atol=1e-7)


def test_errors_name_what_is_wrong(pictures):
    with pytest.raises(UsageError, match="residual must be"):
        AttentionRollout(residual=1.0)
    with pytest.raises(UsageError, match="fuse must be one of mean, max, min"):
        AttentionRollout(fuse="median")
    with pytest.raises(UsageError, match="at least 1"):
        AttentionRollout(layers=0)
    with pytest.raises(NotSupported, match="Conv2d has no transformer tower"):
        AttentionRollout()(torch.nn.Conv2d(3, 1, 1), pictures, 0)

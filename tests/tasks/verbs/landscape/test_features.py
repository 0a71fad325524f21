"""A tower is run again only where its weights have changed, by counting what goes through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.landscape import interpolation_curve, straggler_layers, weight_layers
from binderclip.models import ImageTextModel, load
from binderclip.tasks.verbs.landscape.features import weights_read
from binderclip.tasks.verbs.landscape.naming import NamingLoss

TEXTS = ("a cat", "two dogs", "a red car", "the sea", "a tree")
GRID = [0.0, 0.5, 1.0]


def moved(folder: Path, *parts: str) -> ImageTextModel:
    """The model with other weights in the towers that are named by a part of their weights' names."""
    model, generator = load(str(folder)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim and any(part in name for part in parts):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Texts and pictures that go through the model."""
    counts = {"text": 0, "image": 0}

    def count(tower: str) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            counts[tower] += len(inputs[0])

        return hook

    hooks = [
        model.backbone.token_embedding.register_forward_pre_hook(count("text")),
        model.backbone.visual.conv1.register_forward_pre_hook(count("image")),
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def plain_loss(model: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """As the definition has it: everything is encoded at every call."""
    pixels, target = batch
    text = model.encode_text(list(TEXTS), normalize=True)
    logits = model.scale() * F.normalize(model.encode_pixels(pixels), dim=-1) @ text.T
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@pytest.mark.parametrize("parts", [("visual",), ("backbone.transformer", "ln_final"), ("visual", "transformer")])
def test_a_tower_is_run_once_for_weights_of_the_same_values(
    tiny_clip: Callable[[int], Path], parts: tuple[str, ...]
) -> None:
    first, second = load(str(tiny_clip(2))), moved(tiny_clip(2), *parts)
    generator = torch.Generator().manual_seed(1)
    pixels, target = torch.randn(7, 3, 32, 32, generator=generator), torch.arange(7) % len(TEXTS)
    halves = {"a": [(pixels[::2], target[::2])], "b": [(pixels[1::2], target[1::2])]}
    loss = NamingLoss(TEXTS, torch.arange(len(TEXTS)), len(TEXTS), 64)
    with counted(second) as counts:
        curve = interpolation_curve(first, second, halves, alphas=GRID, loss=loss)
        texts_moved, pictures_moved = ("ln_final" in parts or "transformer" in parts), "visual" in parts
        # one of each is run to see which weights it reads
        assert counts == {
            "text": 1 + len(TEXTS) * (3 if texts_moved else 1),
            "image": 1 + len(pixels) * (3 if pictures_moved else 1),
        }
        before = dict(counts)
        report = straggler_layers(first, second, halves["a"], alphas=GRID, loss=loss)
    layers = [any(".visual." in name for name in weight_layers(second)[layer]) for layer in report.layers]
    assert len(layers) > 1
    if not texts_moved:  # the model at weight 1 is the last of the curve
        assert counts["text"] == before["text"]
        assert counts["image"] == before["image"] + len(layers) * 2 * len(pixels[::2])
    elif not pictures_moved:
        assert counts["image"] == before["image"]
        assert counts["text"] == before["text"] + len(layers) * 2 * len(TEXTS)
    else:  # and once back to the second model's, where the layers of the other tower begin
        assert counts["text"] <= before["text"] + (layers.count(False) * 2 + 1) * len(TEXTS)
        assert counts["image"] <= before["image"] + (layers.count(True) * 2 + 1) * len(pixels[::2])
    expected = interpolation_curve(first, second, halves, alphas=GRID, loss=plain_loss)
    for name in halves:
        torch.testing.assert_close(curve.loss[name], expected.loss[name], rtol=1e-5, atol=1e-6)
    whole = straggler_layers(first, second, halves["a"], alphas=GRID, loss=plain_loss)
    torch.testing.assert_close(report.error, whole.error)


def test_weights_that_are_read_are_those_with_a_gradient(tiny_clip: Callable[[int], Path]) -> None:
    model = load(str(tiny_clip(2)))
    named = dict(model.named_parameters())
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for forward in (lambda: model.encode_text(["a cat"]), lambda: model.encode_pixels(pixels)):
        gradients = torch.autograd.grad(forward().sum(), list(named.values()), allow_unused=True)
        expected = {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
        assert 0 < len(expected) < len(named)
        assert weights_read(named, forward) == expected

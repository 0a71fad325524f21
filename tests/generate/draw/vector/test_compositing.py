"""Layers over each other: the plain loop as the reference, and its gradient where a layer is opaque."""

from __future__ import annotations

import pytest
import torch

from binderclip.generate import composite_over


@pytest.mark.parametrize("pixels", [1, 7])
def test_values_and_gradients_are_those_of_the_loop_also_through_opaque_layers(pixels: int) -> None:
    g = torch.Generator().manual_seed(0)
    alpha = torch.rand(5, 7, generator=g, dtype=torch.float64)
    alpha[2, 3], alpha[4, 1], alpha[1, 2] = 1, 1, 0
    colour = torch.rand(5, 3, pixels, generator=g, dtype=torch.float64)
    background = torch.rand(3, 1, generator=g, dtype=torch.float64)
    weight = torch.rand(3, 7, generator=g, dtype=torch.float64)
    inputs = alpha.requires_grad_(), colour.requires_grad_()
    picture = background.expand(3, 7)
    for a, c in zip(alpha, colour, strict=True):
        picture = a * c + (1 - a) * picture
    ours = composite_over(alpha, colour, background)
    torch.testing.assert_close(ours, picture)
    expected = torch.autograd.grad((picture * weight).sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad((ours * weight).sum(), inputs), expected)


def test_no_layer_shows_the_background() -> None:
    alpha = torch.zeros(0, 4, requires_grad=True)
    assert torch.equal(composite_over(alpha, torch.zeros(0, 3, 1), torch.full((3, 1), 0.3)), torch.full((3, 4), 0.3))

"""The full-gradient decomposition adds up for every kind of tower, through our blocks and through the library's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from binderclip.explain import full_gradients


class Seen(nn.Module):
    """A forward as a module from pixels to numbers."""

    def __init__(self, module: nn.Module, forward) -> None:
        super().__init__()
        self.module, self.run = module, forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def test_terms_add_up_to_the_embedding(case, pixels: Tensor) -> None:
    for forward in (case.tower, case.forward):
        found = full_gradients(Seen(case.module, forward), pixels, 3)
        torch.testing.assert_close(found.value, case.forward(pixels)[:, 3].detach(), rtol=1e-4, atol=1e-5)
        # Absolute, since one of the values is nearly zero.
        assert float((found.completeness_error() * found.value.abs()).max()) < 1e-5
        # Without the terms of non-linearities there is no sum: the test does not pass by itself.
        explicit = sum(term.total() for term in found.terms if not term.implicit)
        rest = found.input.flatten(1).double().sum(1) + explicit - found.value
        assert float((rest / found.value).abs().max()) > 0.01
        tokens = [term for term in found.terms if term.layout is not None and term.layout.kind == "tokens"]
        assert len(tokens) >= 3 * len(case.tower.blocks)

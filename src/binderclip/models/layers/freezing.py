"""A model that is used, not trained, while something around it learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for a gradient and all are in eval mode; what was before is put back.

    Gradients still flow through them to whatever else asks for one: prompts, pixels, low-rank updates. Parameters that
    are added inside the block, such as LoRA's, are left alone.

    Args:
        modules: every module that the trained part looks through.
    """
    asked = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    modes = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for parameter, _ in asked:
            parameter.requires_grad_(False)
        for module in modules:
            module.eval()
        yield
    finally:
        for parameter, before in asked:
            parameter.requires_grad_(before)
        for part, training in modes:
            part.training = training

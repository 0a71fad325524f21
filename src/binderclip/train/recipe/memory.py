"""What a process of a training stage keeps in memory, counted on a copy of the model without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit.optimizers import make_optimizer
from binderclip.train.recipe.cost import shaped
from binderclip.train.recipe.passes import TowerPasses, frozen_in
from binderclip.train.recipe.stage import Stage

__all__ = ["StageMemory", "saved_bytes", "stage_memory"]


@dataclass(frozen=True)
class StageMemory:
    """Bytes of a process with the whole model, in float32.

    Attributes:
        weights: of the model, and of the copies that the stage keeps (an average, a frozen teacher).
        gradients: of what learns.
        state: of the optimizer; None where it cannot be made without weights.
        sample: what torch keeps of one pair for the backward pass; None where the forward pass looks at values.
    """

    weights: int
    gradients: int
    state: int | None
    sample: int | None

    @property
    def model(self) -> int | None:
        """All that does not depend on the batch."""
        return None if self.state is None else self.weights + self.gradients + self.state


def stage_memory(stage: Stage, backbone: nn.Module, seen: TowerPasses) -> StageMemory:
    """Count what a stage keeps.

    Args:
        stage: of a recipe.
        backbone: of open_clip, on the `meta` device.
        seen: how the towers see a sample.
    """
    with _learning(stage, backbone, seen) as learning:
        weights = sum(parameter.nbytes for parameter in backbone.parameters())
        copies = int(stage.ema is not None) + int(stage.teacher is not None) + int(seen.copied_pictures > 0)
        state = _state_bytes(stage, learning)
        sample = _sample_bytes(stage, backbone, seen)
    gradients = sum(parameter.nbytes for parameter in learning)
    return StageMemory(weights * (1 + copies), gradients, state, sample)


@contextlib.contextmanager
def _learning(stage: Stage, backbone: nn.Module, seen: TowerPasses) -> Iterator[list[nn.Parameter]]:
    """What learns in a stage, the rest without gradients as long as the block runs."""
    rests = {True: not seen.pictures, False: not seen.captions}  # by whether a parameter is of the image tower
    frozen = [
        parameter for name, parameter in backbone.named_parameters()
        if parameter.requires_grad and (frozen_in(stage, name) or rests[name.startswith("visual.")])
    ]  # fmt: skip
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def _state_bytes(stage: Stage, learning: list[nn.Parameter]) -> int | None:
    """The optimizer's state after a step; None where it needs values."""
    own = [nn.Parameter(torch.empty_like(parameter)) for parameter in learning]
    if not own:
        return 0
    try:
        optimizer = make_optimizer(stage.optimizer, own, stage.lr)
        for parameter in own:
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    except UsageError:
        raise
    except Exception:  # an optimizer that looks at values: a plan must not stop for it
        return None
    tensors = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(tensor.nbytes for tensor in tensors)


def _sample_bytes(stage: Stage, backbone: Any, seen: TowerPasses) -> int | None:
    """What is kept of one pair: its views and its texts."""
    with shaped(stage, backbone, seen) as shape, contextlib.ExitStack() as stack:
        if shape.side is None or shape.length is None:
            return None
        backbone.train()
        if stage.grad_checkpointing and hasattr(backbone, "set_grad_checkpointing"):
            backbone.set_grad_checkpointing(True)
            stack.callback(backbone.set_grad_checkpointing, False)
        pixels = torch.empty(1, 3, shape.side, shape.side, device="meta")
        ids = torch.zeros(1, shape.length, dtype=torch.long, device="meta")
        parameters = list(backbone.parameters())
        image = saved_bytes(lambda: backbone.encode_image(pixels), parameters)
        text = saved_bytes(lambda: backbone.encode_text(ids), parameters)
    if image is None or text is None:
        return None
    return seen.pictures * (image + pixels.nbytes) + seen.captions * text


def saved_bytes(forward: Callable[[], object], without: list[nn.Parameter]) -> int | None:
    """Bytes that torch keeps of a forward pass for the backward pass; None where it needs values.

    Args:
        forward: the pass.
        without: parameters, which are there anyway.
    """
    known = {parameter.untyped_storage()._cdata for parameter in without}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in known:
            kept.setdefault(storage, tensor)
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        try:
            forward()
        except UsageError:
            raise
        except Exception:  # a forward pass that looks at values: a plan must not stop for it
            return None
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

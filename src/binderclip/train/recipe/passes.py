"""How a kind of stage says what a sample costs it: what entries of `train.PASSES` return, and how it is counted.

Operations are counted by torch on modules without weights (the `meta` device), which takes no memory and no time to
speak of. A kind whose samples go through the two towers of the model says how often (`TowerPasses`); one that trains
something else makes that on the model without weights and counts a step of it (`OwnCount`); one whose step cannot be
known before it runs says why (`Uncounted`).
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from binderclip.models.operations import count_operations
from binderclip.settings import part_name
from binderclip.train.recipe.registry import PASSES

if TYPE_CHECKING:
    from binderclip.train.recipe.stage import Stage

__all__ = [
    "OwnCount", "Passes", "SampleCost", "TowerPasses", "Uncounted", "forward_operations", "frozen_in",
    "passes_of", "side_in", "step_operations", "with_frozen_groups",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TowerPasses:
    """How often the towers see a sample of a stage; an entry of `train.PASSES`.

    Args:
        pictures, captions: views of its picture, and texts, that the towers learn from.
        copied_pictures, copied_captions: views and texts that go forward through copies of the towers which do not
            learn, with all patches; less than 1 where a picture is encoded once and seen in several epochs.
        teacher: a model whose image tower sees the picture once, at the size that gives it the stage's grid.
        kept: from the grid (h, w) to how many patches of a view stay; default as the stage's `image_tokens` say.
        trains: False for a stage that sees no sample.
    """

    pictures: int = 1
    captions: int = 1
    copied_pictures: float = 0
    copied_captions: float = 0
    teacher: str | None = None
    kept: Callable[[tuple[int, int]], int] | None = None
    trains: bool = True


@dataclass(frozen=True, kw_only=True)
class SampleCost:
    """What a sample costs in a stage that counts itself.

    Attributes:
        image_tokens, text_tokens: that are learned from, as the blocks see them.
        operations: of a step, forward and backward, a sample.
        samples: of the whole stage, where its length is not that of the recipe.
        left_out: what is not counted, in words; "" for nothing but losses and the optimizer.
    """

    image_tokens: int
    text_tokens: int = 0
    operations: float
    samples: int | None = None
    left_out: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnCount:
    """How a stage is counted that trains something else than the two towers; an entry of `train.PASSES`.

    Args:
        count: called with the model without weights, all stages of the recipe and the number of this one; what it
            cannot do without values may raise.
        pictures: gives how many pictures an epoch has; default those of the stage's data.
    """

    count: Callable[[Any, Sequence[Stage], int], SampleCost]
    pictures: Callable[[], int] | None = None


@dataclass(frozen=True)
class Uncounted:
    """Why something is not counted, in words that end a sentence."""

    reason: str


Passes: TypeAlias = "TowerPasses | OwnCount | Uncounted"


def passes_of(stage: Stage) -> Passes:
    """How a stage's samples are counted."""
    kind = stage.kind if isinstance(stage.kind, dict) else {"name": stage.kind}
    name = part_name(kind)
    if name not in PASSES:
        return Uncounted(f"kind {name!r} has no entry in train.PASSES")
    passes: Passes = PASSES[name](stage, **{key: value for key, value in kind.items() if key != "name"})
    return passes


def side_in(stage: Stage, model: Any) -> int:
    """Side of a stage's pictures in pixels, as `StageContext.image_size`."""
    size = model.image_size if stage.image_size is None else stage.image_size
    return size if isinstance(size, int) else max(size)


def frozen_in(stage: Stage, name: str) -> bool:
    """Whether the first group of the stage that knows a parameter freezes it."""
    groups = (group for group in stage.groups if any(fnmatch.fnmatchcase(name, each) for each in group.patterns))
    return next((group.freeze for group in groups), False)


@contextlib.contextmanager
def with_frozen_groups(stage: Stage, backbone: nn.Module) -> Iterator[None]:
    """What the stage's groups freeze asks for no gradient as long as the block runs."""
    frozen = [p for name, p in backbone.named_parameters() if p.requires_grad and frozen_in(stage, name)]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


def forward_operations(forward: Callable[[], Any]) -> int:
    """Operations of a forward pass without gradients, see `count_operations`."""
    with torch.no_grad():
        return count_operations(forward)


def step_operations(step: Callable[[], Tensor]) -> int:
    """Operations of a forward pass and of the backward pass from what it gives, summed."""
    with torch.enable_grad():
        return count_operations(lambda: step().sum().backward())

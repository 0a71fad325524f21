"""What a recipe costs, before anything runs: samples, tokens and floating-point operations of each stage.

The operations are counted by torch on a copy of the model without weights (the `meta` device), which is given one
picture and one caption of the stage's size, with the stage's tokens and positions in place. How often a sample goes
through the towers says its kind of stage (`TowerPasses`); a kind that trains something else counts a step of that
(`OwnCount`). What stands beside them (losses, optimizer, and the heads beside two towers) is not counted. What stays
unknown is told with the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from binderclip.errors import BinderclipError, UsageError
from binderclip.models.towers import open_image_tower
from binderclip.train.recipe.bare import bare_model, towers_of, without_weights
from binderclip.train.recipe.passes import (
    OwnCount,
    TowerPasses,
    Uncounted,
    forward_operations,
    frozen_in,
    passes_of,
)
from binderclip.train.tokens.image import Resize, TokenReduction
from binderclip.train.tokens.place import (
    check_size,
    input_side,
    patch_grid,
    prefix_tokens,
    reduced_tokens,
    short_context,
)

if TYPE_CHECKING:
    from binderclip.train.recipe.recipe import Recipe
    from binderclip.train.recipe.stage import Stage

__all__ = ["Cost", "StageCost", "recipe_cost", "shaped"]

VALUES = "a forward pass of the model goes by values that it has only when it runs"
LENGTH = "it is as long as `epochs` of its data, whose number of pictures is not known yet"


@dataclass(frozen=True, kw_only=True)
class _FirstPatches(TokenReduction):
    """As many patches as a kind of stage keeps, whichever they are."""

    number: Callable[[tuple[int, int]], int]

    def count(self, grid: tuple[int, int]) -> int:
        return self.number(grid)

    def select(
        self, batch: int, grid: tuple[int, int], *, device: torch.device | str = "cpu",
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B k"]:  # fmt: skip
        return torch.arange(self.count(grid), device=device).expand(batch, -1)


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage.

    Args:
        name: of the stage.
        samples: pairs it sees; None where the number of pictures is not known.
        image_tokens: of all views of a picture that are learned from, class token and registers included; None for a
            tower without tokens.
        text_tokens: of all texts of a picture that are learned from, start and end included.
        image_flops, text_flops: operations of one forward pass of these views and texts, a multiplication and an
            addition counted as two; None for a model, or a kind of stage, that is not counted.
        image_passes, text_passes: what a training step costs in such forward passes: 3 (a backward pass counts as two),
            1 more with `micro_batch` and 1 more with `grad_checkpointing`; of a tower that is wholly frozen 1, or 2
            with `micro_batch`.
        beside: operations a sample of towers that do not learn: a teacher, a momentum copy.
        operations: of a step, a sample, where the kind counts all of it itself; the fields of the towers are None then.
        unknown: why something is None, in words; "" where all is known.
        left_out: what of the stage is not counted, in words.
    """

    name: str
    samples: int | None
    image_tokens: int | None
    text_tokens: int | None
    image_flops: int | None
    text_flops: int | None
    image_passes: int = 3
    text_passes: int = 3
    beside: int = 0
    operations: float | None = None
    unknown: str = ""
    left_out: str = ""

    @property
    def tokens(self) -> int | None:
        """Image and text tokens of the whole stage."""
        if self.samples is None or self.image_tokens is None or self.text_tokens is None:
            return None
        return self.samples * (self.image_tokens + self.text_tokens)

    @property
    def flops(self) -> int | None:
        """Operations of the whole stage."""
        if self.samples is not None and self.operations is not None:
            return round(self.samples * self.operations)
        if self.samples is None or self.image_flops is None or self.text_flops is None:
            return None
        learned = self.image_passes * self.image_flops + self.text_passes * self.text_flops
        return self.samples * (learned + self.beside)


@dataclass(frozen=True)
class Cost:
    """Cost of a recipe; `str` of it is a table, and below it why a figure is unknown.

    Args:
        stages: in order.
    """

    stages: tuple[StageCost, ...]

    @property
    def flops(self) -> int | None:
        """Of all stages."""
        return _total([stage.flops for stage in self.stages])

    @property
    def tokens(self) -> int | None:
        """Of all stages."""
        return _total([stage.tokens for stage in self.stages])

    @property
    def samples(self) -> int | None:
        """Of all stages."""
        return _total([stage.samples for stage in self.stages])

    @property
    def remarks(self) -> list[str]:
        """Why figures are unknown, and what is left out of those that are known; a line each."""
        remarks: dict[str, list[str]] = {}
        for stage in self.stages:
            for what in filter(None, (stage.unknown and f"unknown (?): {stage.unknown}", stage.left_out)):
                remarks.setdefault(what, []).append(stage.name)
        return [f"{', '.join(names)}: {what}" for what, names in remarks.items()]

    def __str__(self) -> str:
        header = ["stage", "samples", "tokens a picture", "a caption", "tokens", "FLOPs", "share"]
        rows = [
            [s.name, *map(_short, (s.samples, s.image_tokens, s.text_tokens, s.tokens, s.flops)), self._share(s)]
            for s in self.stages
        ]
        if len(rows) > 1:
            rows.append(["together", *map(_short, (self.samples, None, None, self.tokens, self.flops)), ""])
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [header, *rows]
        ]
        return "\n".join([*(line.rstrip() for line in lines), *self.remarks])

    def _share(self, stage: StageCost) -> str:
        return f"{stage.flops / self.flops:.0%}" if stage.flops is not None and self.flops else "?"


def _total(values: list[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _short(value: int | None) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if value < 1_000_000 else f"{value:.3g}"


def recipe_cost(recipe: Recipe, model: Any = None, *, samples: Sequence[int | None] = ()) -> Cost:
    """What each stage of a recipe costs; see `Recipe.cost`."""
    bare = bare_model(recipe.model) if model is None else without_weights(model)
    given = [*samples, *[None] * len(recipe.stage)]
    return Cost(tuple(_stage(recipe.stage, index, bare, given[index]) for index in range(len(recipe.stage))))


def _stage(stages: Sequence[Stage], index: int, bare: Any, known: int | None) -> StageCost:
    stage = stages[index]
    each = stage.batch_size * stage.accumulate
    samples = known if stage.samples is None else max(1, round(stage.samples / each)) * each
    length = LENGTH if samples is None else ""
    seen = passes_of(stage)
    if isinstance(seen, TowerPasses) and not seen.trains:
        return StageCost(stage.name, 0, 0, 0, 0, 0)
    reason = next((one.reason for one in (seen, bare) if isinstance(one, Uncounted)), "")
    if not reason and isinstance(seen, OwnCount):
        return _own(stages, index, bare, seen, samples)
    towers = towers_of(bare)
    if not reason and towers is None:
        reason = f"towers of {getattr(bare, 'kind', type(bare).__name__)} are not counted, those of open_clip are"
    if reason or not isinstance(seen, TowerPasses):
        return StageCost(stage.name, samples, None, None, None, None, unknown=reason)
    with shaped(stage, towers, seen) as shape:
        if shape.side is None or shape.length is None:
            tokens, reason = (shape.image_tokens, shape.length), "the size of the model's input is not known"
            return StageCost(stage.name, samples, *tokens, None, None, unknown=reason)
        image, text = _count_pair(towers, shape.side, shape.length)
        beside = _beside(towers, seen, shape.side, shape.length)
    if image is None or text is None or isinstance(beside, Uncounted):
        reason = beside.reason if isinstance(beside, Uncounted) else VALUES
        return StageCost(stage.name, samples, shape.image_tokens, shape.length, None, None, unknown=reason)
    passes = (_passes(stage, towers, of_image=True), _passes(stage, towers, of_image=False))
    many = None if shape.image_tokens is None else seen.pictures * shape.image_tokens
    if not length and many is None:
        length = "its image tower has no tokens"
    return StageCost(
        stage.name, samples, many, seen.captions * shape.length, seen.pictures * image, seen.captions * text, *passes,
        beside, unknown=length,
    )  # fmt: skip


def _own(stages: Sequence[Stage], index: int, bare: Any, seen: OwnCount, samples: int | None) -> StageCost:
    """A stage of a kind that counts itself."""
    name = stages[index].name
    try:
        counted = seen.count(bare, stages, index)
    except UsageError:
        raise
    except BinderclipError as error:
        return StageCost(name, samples, None, None, None, None, unknown=str(error))
    except Exception:  # what it trains looks at values: an estimate must not stop a run
        return StageCost(name, samples, None, None, None, None, unknown=VALUES)
    samples = samples if counted.samples is None else counted.samples
    return StageCost(
        name, samples, counted.image_tokens, counted.text_tokens, None, None, operations=counted.operations,
        unknown=LENGTH if samples is None else "", left_out=counted.left_out,
    )  # fmt: skip


@dataclass(frozen=True)
class StageShape:
    """What the towers are given in a stage.

    Args:
        side: of its pictures in pixels; None where it is not known.
        image_tokens: of one, as the blocks see them; None for a tower without tokens.
        length: of its captions in tokens; None where it is not known.
    """

    side: int | None
    image_tokens: int | None
    length: int | None


@contextlib.contextmanager
def shaped(stage: Stage, backbone: Any, seen: TowerPasses) -> Iterator[StageShape]:
    """The backbone with a stage's tokens and positions in place, as long as the block runs.

    Args:
        stage: whose.
        backbone: of open_clip, also without weights.
        seen: how the towers see a sample.
    """
    tokens = stage.reduction() if seen.kept is None else _FirstPatches(number=seen.kept)
    length = stage.text_length or getattr(backbone, "context_length", None)
    side, image_tokens = _image_shape(stage, backbone, tokens)
    if side is None or length is None:
        yield StageShape(side, image_tokens, length)
        return
    asked = side if stage.image_size is not None or isinstance(tokens, Resize) else None
    check_size(backbone, stage.positions, asked)
    with contextlib.ExitStack() as stack:
        shape = {"image_size": asked, "text_length": stage.text_length}
        stack.enter_context(reduced_tokens(backbone, tokens, stage.positions, **shape))
        stack.enter_context(short_context(backbone, length))
        yield StageShape(side, image_tokens, length)


def _passes(stage: Stage, backbone: nn.Module, *, of_image: bool) -> int:
    """Forward passes that a step of a tower costs; fewer where no gradient comes to any of its parameters."""
    again = 0 if stage.micro_batch is None else 1
    own = [
        (name, parameter) for name, parameter in backbone.named_parameters()
        if name.startswith("visual.") == of_image and not name.startswith("logit_")
    ]  # fmt: skip
    if all(not parameter.requires_grad or frozen_in(stage, name) for name, parameter in own):
        return 1 + again
    return 3 + again + int(stage.grad_checkpointing)


def _beside(backbone: nn.Module, seen: TowerPasses, side: int, length: int) -> int | Uncounted:
    """Operations a sample of the towers that do not learn."""
    total = 0
    if seen.copied_pictures or seen.copied_captions:
        image, text = _count_pair(backbone, side, length, training=False)
        if image is None or text is None:
            return Uncounted(VALUES)
        total += round(seen.copied_pictures * image + seen.copied_captions * text)
    if seen.teacher is not None:
        bare = bare_model(seen.teacher)
        if isinstance(bare, Uncounted):
            return bare
        known, grid = towers_of(bare), patch_grid(backbone, side)
        if known is None or grid is None or patch_grid(known) is None:
            return Uncounted(f"the teacher {seen.teacher} or the model has no grid of patches that is counted")
        tower = open_image_tower(known.eval())
        pixels = torch.empty(1, 3, grid[0] * tower.patch, grid[1] * tower.patch, device="meta")
        image = _count(lambda: tower.run(tower.embed(pixels)))
        if image is None:
            return Uncounted(VALUES)
        total += image
    return total


def _image_shape(stage: Stage, backbone: Any, tokens: TokenReduction | None) -> tuple[int | None, int | None]:
    """(side of the pictures that the tower is given in pixels, tokens of one that its blocks see)."""
    own = stage.image_size or getattr(backbone.visual, "image_size", None)
    if own is None:
        return None, None
    side = input_side(backbone, tokens, own if isinstance(own, int) else max(own))
    grid = patch_grid(backbone, side if stage.image_size is not None or isinstance(tokens, Resize) else None)
    if grid is None:
        return side, None
    kept = grid[0] * grid[1] if tokens is None or isinstance(tokens, Resize) else tokens.count(grid)
    return side, prefix_tokens(backbone) + kept


def _count_pair(backbone: Any, side: int, length: int, *, training: bool = True) -> tuple[int, int] | tuple[None, None]:
    """Operations of the forward pass of one picture and of one caption; None if it needs values.

    Patches are dropped in training mode only.
    """
    backbone.train(training)
    pixels = torch.empty(1, 3, side, side, device="meta")
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    image = _count(lambda: backbone.encode_image(pixels))
    text = None if image is None else _count(lambda: backbone.encode_text(ids))
    return (None, None) if image is None or text is None else (image, text)


def _count(forward: Callable[[], Any]) -> int | None:
    """Operations of a forward pass without gradients; None if it needs values."""
    try:
        return forward_operations(forward)
    except UsageError:
        raise
    except Exception:  # a forward pass that looks at values: an estimate must not stop a run
        return None

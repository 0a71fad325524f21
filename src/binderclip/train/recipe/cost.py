"""What a recipe costs, before anything runs: samples, tokens and floating-point operations of each stage.

The operations are counted by torch on a copy of the model without weights (the `meta` device), which is given one
picture and one caption of the stage's size, with the stage's tokens and positions in place.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.train.recipe.architecture import open_clip_config, reopen
from binderclip.train.tokens.image import Resize, TokenReduction
from binderclip.train.tokens.place import check_size, input_side, patch_grid, prefix_tokens, reduced, short_context

if TYPE_CHECKING:
    from binderclip.train.recipe.recipe import Recipe
    from binderclip.train.recipe.stage import Stage

__all__ = ["Cost", "StageCost", "recipe_cost"]


@dataclass(frozen=True)
class StageCost:
    """Cost of a stage.

    Args:
        name: of the stage.
        samples: pairs it sees; None where the number of pictures is not known.
        image_tokens: of a picture, class token and registers included; None for a tower without tokens.
        text_tokens: of a caption, start and end included.
        image_flops, text_flops: operations of one forward pass of one picture and of one caption, a multiplication and
            an addition counted as two; None for a model that is not counted.
        passes: what a training step costs in forward passes of the towers: 3 (a backward pass counts as two), 4 with
            `micro_batch`.
    """

    name: str
    samples: int | None
    image_tokens: int | None
    text_tokens: int | None
    image_flops: int | None
    text_flops: int | None
    passes: int = 3

    @property
    def tokens(self) -> int | None:
        """Image and text tokens of the whole stage."""
        if self.samples is None or self.image_tokens is None or self.text_tokens is None:
            return None
        return self.samples * (self.image_tokens + self.text_tokens)

    @property
    def flops(self) -> int | None:
        """Operations of the whole stage."""
        if self.samples is None or self.image_flops is None or self.text_flops is None:
            return None
        return self.samples * self.passes * (self.image_flops + self.text_flops)


@dataclass(frozen=True)
class Cost:
    """Cost of a recipe; `str` of it is a table.

    Args:
        stages: in order. Stages that do not train images against captions count as unknown.
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
        return "\n".join(line.rstrip() for line in lines)

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
    backbone = _start(recipe) if model is None else _structure(model)
    given = [*samples, *[None] * len(recipe.stage)]
    return Cost(tuple(_stage(stage, backbone, known) for stage, known in zip(recipe.stage, given, strict=False)))


def _start(recipe: Recipe) -> Any:
    """The recipe's model without weights; None where it is none of open_clip's."""
    if isinstance(recipe.model, str):
        return _structure(reopen(recipe.model))
    if recipe.model["arch"] != "open_clip":
        return None
    from binderclip.models.image_text.open_clip import construct

    settings = {key: value for key, value in recipe.model.items() if key != "arch"}
    with torch.device("meta"):
        return construct(open_clip_config(**settings))


def _structure(model: Any) -> Any:
    """The backbone of an open_clip model without weights; None for others."""
    backbone: Any = getattr(model, "backbone", None)
    known = hasattr(backbone, "encode_text") and hasattr(backbone, "visual")
    return _without_weights(backbone) if known else None


def _without_weights(backbone: nn.Module) -> nn.Module:
    """A copy with the same structure on the `meta` device, which takes no memory."""
    memo: dict[int, Any] = {}
    for parameter in backbone.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    for buffer in backbone.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(backbone, memo)


def _stage(stage: Stage, backbone: Any, known: int | None) -> StageCost:
    each = stage.batch_size * stage.accumulate
    samples = known if stage.samples is None else max(1, round(stage.samples / each)) * each
    kind = stage.kind if isinstance(stage.kind, str) else stage.kind["name"]
    if kind != "contrastive" or backbone is None:
        return StageCost(stage.name, samples, None, None, None, None)
    tokens, length = stage.reduction(), stage.text_length or getattr(backbone, "context_length", None)
    side, image_tokens = _image_shape(stage, backbone, tokens)
    if side is None or length is None:
        return StageCost(stage.name, samples, image_tokens, length, None, None)
    asked = side if stage.image_size is not None or isinstance(tokens, Resize) else None
    check_size(backbone, stage.positions, asked)
    with contextlib.ExitStack() as stack:
        shape = {"image_size": asked, "text_length": stage.text_length}
        stack.enter_context(reduced(backbone, tokens, stage.positions, **shape))
        stack.enter_context(short_context(backbone, length))
        image, text = _count_pair(backbone, side, length)
    passes = 3 if stage.micro_batch is None else 4
    return StageCost(stage.name, samples, image_tokens, length, image, text, passes)


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


def _count_pair(backbone: Any, side: int, length: int) -> tuple[int, int] | tuple[None, None]:
    """Operations of the forward pass of one picture and of one caption, in training mode; None if it needs values."""
    from torch.utils.flop_counter import FlopCounterMode

    backbone.train()
    pixels = torch.empty(1, 3, side, side, device="meta")
    ids = torch.zeros(1, length, dtype=torch.long, device="meta")
    found = []
    for encode, given in ((backbone.encode_image, pixels), (backbone.encode_text, ids)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            try:
                encode(given)
            except UsageError:
                raise
            except Exception:  # a forward pass that looks at values: an estimate must not stop a run
                return None, None
        found.append(counter.get_total_flops())
    return found[0], found[1]

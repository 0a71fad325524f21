"""What a recipe costs, before anything runs: samples, tokens and floating-point operations of each stage.

The operations are counted by torch on a copy of the model without weights (the `meta` device), which is given one
picture and one caption of the stage's size, with the stage's tokens and positions in place. How often a sample goes
through the towers says its kind of stage (`TowerPasses`). What stands beside them (heads, losses, optimizer) is not
counted.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.models.towers import open_image_tower
from binderclip.settings import part_name
from binderclip.train.recipe.architecture import open_clip_config, reopen
from binderclip.train.recipe.registry import PASSES
from binderclip.train.tokens.image import Resize, TokenReduction
from binderclip.train.tokens.place import check_size, input_side, patch_grid, prefix_tokens, reduced, short_context

if TYPE_CHECKING:
    from binderclip.train.recipe.recipe import Recipe
    from binderclip.train.recipe.stage import Stage

__all__ = ["Cost", "StageCost", "TowerPasses", "passes_of", "recipe_cost", "shaped", "started"]


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
        learned = self.image_passes * self.image_flops + self.text_passes * self.text_flops
        return self.samples * (learned + self.beside)


@dataclass(frozen=True)
class Cost:
    """Cost of a recipe; `str` of it is a table.

    Args:
        stages: in order. Kinds of stages without an entry in `train.PASSES` count as unknown.
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
    backbone = started(recipe) if model is None else _structure(model)
    given = [*samples, *[None] * len(recipe.stage)]
    return Cost(tuple(_stage(stage, backbone, known) for stage, known in zip(recipe.stage, given, strict=False)))


def started(recipe: Recipe) -> Any:
    """The recipe's model without weights; None where it is none of open_clip's."""
    from binderclip.models.image_text.open_clip import construct

    if isinstance(recipe.model, str):
        config = _open_clip_config(recipe.model)
        if config is None:
            return _structure(reopen(recipe.model))
        with torch.device("meta"):
            return construct(config)
    if recipe.model["arch"] != "open_clip":
        return None

    settings = {"tokenizer": "captions"} | {key: value for key, value in recipe.model.items() if key != "arch"}
    with torch.device("meta"):
        return construct(open_clip_config(**settings))


def _open_clip_config(name: str) -> dict[str, Any] | None:
    """The architecture of `open_clip:ARCH/PRETRAINED`, for which no weights are fetched; None for other models."""
    if not name.startswith("open_clip:"):
        return None
    import open_clip

    found: dict[str, Any] | None = open_clip.get_model_config(name.removeprefix("open_clip:").split("/")[0])
    whole = found is not None and "hf_model_name" not in found.get("text_cfg", {})  # whose tower is a download
    return found if whole else None


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
    seen = passes_of(stage)
    if seen is not None and not seen.trains:
        return StageCost(stage.name, 0, 0, 0, 0, 0)
    if seen is None or backbone is None:
        return StageCost(stage.name, samples, None, None, None, None)
    with shaped(stage, backbone, seen) as shape:
        if shape.side is None or shape.length is None:
            return StageCost(stage.name, samples, shape.image_tokens, shape.length, None, None)
        image, text = _count_pair(backbone, shape.side, shape.length)
        beside = _beside(backbone, seen, shape.side, shape.length)
    image_tokens, length = shape.image_tokens, shape.length
    if image is None or text is None or beside is None:
        return StageCost(stage.name, samples, image_tokens, length, None, None)
    passes = (_passes(stage, backbone, of_image=True), _passes(stage, backbone, of_image=False))
    many = None if image_tokens is None else seen.pictures * image_tokens
    return StageCost(
        stage.name, samples, many, seen.captions * length, seen.pictures * image, seen.captions * text, *passes, beside
    )


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
        stack.enter_context(reduced(backbone, tokens, stage.positions, **shape))
        stack.enter_context(short_context(backbone, length))
        yield StageShape(side, image_tokens, length)


def passes_of(stage: Stage) -> TowerPasses | None:
    """How the towers see a sample of a stage; None for a kind that does not say."""
    kind = stage.kind if isinstance(stage.kind, dict) else {"name": stage.kind}
    counted = PASSES.get(part_name(kind))
    return counted and counted(stage, **{key: value for key, value in kind.items() if key != "name"})


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


def frozen_in(stage: Stage, name: str) -> bool:
    """Whether the first group of the stage that knows a parameter freezes it."""
    groups = (group for group in stage.groups if any(fnmatch.fnmatchcase(name, each) for each in group.patterns))
    return next((group.freeze for group in groups), False)


def _beside(backbone: nn.Module, seen: TowerPasses, side: int, length: int) -> int | None:
    """Operations a sample of the towers that do not learn; None where they are not counted."""
    total = 0
    if seen.copied_pictures or seen.copied_captions:
        image, text = _count_pair(backbone, side, length, training=False)
        if image is None or text is None:
            return None
        total += round(seen.copied_pictures * image + seen.copied_captions * text)
    if seen.teacher is not None:
        known, grid = _structure(reopen(seen.teacher)), patch_grid(backbone, side)
        if known is None or grid is None or patch_grid(known) is None:
            return None
        tower = open_image_tower(known.eval())
        pixels = torch.empty(1, 3, grid[0] * tower.patch, grid[1] * tower.patch, device="meta")
        image = _count(lambda: tower.run(tower.embed(pixels)))
        if image is None:
            return None
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
    """Operations of a forward pass without gradients."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            forward()
        except UsageError:
            raise
        except Exception:  # a forward pass that looks at values: an estimate must not stop a run
            return None
    return int(counter.get_total_flops())

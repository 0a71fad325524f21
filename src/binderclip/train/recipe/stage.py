"""One stage of a recipe, and the tables in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from binderclip.settings import build_part
from binderclip.train.recipe.check import MOST, check_stage
from binderclip.train.tokens.image import TOKENS, RandomPatches, TokenReduction
from binderclip.train.tokens.positions import Positions
from binderclip.train.tokens.text import TextKind

__all__ = ["MOST_SEED", "DataSpec", "EvaluationSpec", "Group", "Part", "Precision", "Stage", "Strict"]

Part = str | dict[str, Any]
# Far above what anyone trains with, and far below what no machine could hold or no generator be seeded with.
MOST_PICTURES, MOST_EPOCHS, MOST_SIDE, MOST_TOKENS, MOST_SEED = 1_000_000, 1_000_000, 8_192, 65_536, (1 << 32) - 1
Precision = Literal["float32", "bfloat16", "float16"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class DataSpec(Strict):
    """One source of pictures: anything `load_data` takes.

    Args:
        name: `openclipart`, `noto-emoji`, `icons`, `packs`, a folder, shard URLs `x-{000..009}.tar`, or a name in
            `train.SOURCES`.
        split: split of a named set, or of a folder that has it; a folder without it is taken whole.
        weight: how often a picture of this source is drawn relative to others; 0.5 takes half of them each pass.
        limit: use only the first so many.
        hold_out: share of the pictures, chosen by their content, that `split = "val"` has and no other split, of data
            that has no splits of its own. Give it to training and evaluation alike.
        options: settings for a source of `train.SOURCES`.
    """

    name: str
    split: str | None = "train"
    weight: float = Field(1.0, gt=0)
    limit: int | None = Field(None, ge=1)
    hold_out: float = Field(0.0, ge=0, lt=1)
    options: dict[str, Any] = {}

    # Set by `run(allow_pipe=)` alone: no recipe can allow its own commands.
    _allow_pipe: bool = PrivateAttr(False)


class Group(Strict):
    """Parameters by name pattern, and how they learn.

    Args:
        match: shell pattern or patterns over parameter names of the model (`visual.*`).
        lr: multiplier of the stage's rate.
        freeze: no training at all.
        weight_decay: False switches weight decay off for them.
        layer_decay: multiplier of the rate per layer below the top of their tower; None is the stage's.
    """

    match: str | list[str]
    lr: float = Field(1.0, ge=0)
    freeze: bool = False
    weight_decay: bool = True
    layer_decay: float | None = Field(None, gt=0, le=1)

    @property
    def patterns(self) -> list[str]:
        return [self.match] if isinstance(self.match, str) else self.match


def _as_data(value: Any) -> Any:
    """A name, a table, or a list of these."""
    items = value if isinstance(value, list) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in items]


def _as_validation(value: Any) -> Any:
    items = _as_data(value)
    return [{"split": "val", **item} if isinstance(item, dict) else item for item in items]


DataList = Annotated[list[DataSpec], BeforeValidator(_as_data)]


class EvaluationSpec(Strict):
    """What is measured during and after training.

    Args:
        data: held-out sources; their split defaults to `val`.
        every: optimizer steps between two measurements; 0 measures at the end of each stage only.
        templates: sentences around class names for zero-shot accuracy.
        batch_size: pictures encoded at once.
    """

    data: Annotated[list[DataSpec], BeforeValidator(_as_validation)] = []
    every: int = Field(0, ge=0, le=MOST)
    templates: str = "simple"
    batch_size: int = Field(256, ge=1, le=MOST_PICTURES)


class Stage(Strict):
    """One stage of training; every entry has a default but the data and the length.

    Args:
        name: for messages and folders.
        kind: what runs: a name of `train.STAGES`, with settings of its own where it has some.
        data: training sources.
        augment: settings of `data.Augment`; `false` uses the pictures as they are. `cutout = 0.5`, or a table of
            settings of `data.Cutout`, takes squares out of them.
        image_size: side of the training pictures in pixels; None is the model's own.
        text_length: tokens of a caption, start and end included; None is the model's own.
        batch_size: pictures a batch, over all processes together; a step takes `accumulate` of them.
        samples, epochs: length, one of the two; an epoch is one pass with every weight counted.
        lr, weight_decay, schedule, warmup, floor: `warmup` below 1 is a share of the stage, otherwise samples.
        optimizer: a name of `fit.OPTIMIZERS` with settings.
        clip: a name of `optim.METHODS` with settings, a number (a norm), or several; None clips nothing (norms are
            plotted all the same).
        grad_transform: a name of `optim.GRAD_TRANSFORMS` with settings: `tract` trains the first layer of the image
            tower by its outputs (TrAct, arXiv 2410.23970). Comes before the clip; None changes nothing.
        loss: a name of `losses.METHODS` with settings.
        terms: further losses of `train.TERMS`, each with a `weight`.
        teacher: `start` keeps a frozen copy of the model as the stage finds it, which encodes each batch as the model
            sees it, for a loss that asks for `teacher_image` and `teacher_text` (`clip-refine`); None keeps none.
        ema: decay of an average of the weights that is evaluated and saved in their place.
        accumulate: micro-batches a step; each compares pictures only with its own captions.
        micro_batch: pictures encoded at once; the contrastive loss still sees the whole batch (GradCache), at the price
            of a second forward pass. None encodes the batch at once.
        precision: `float32`, or `bfloat16`/`float16` by autocast.
        image_tokens: which image tokens are kept in training (CLIPA, arXiv 2305.07017): a name of `train.TOKENS` with
            settings, such as `{name = "random", keep = 0.5}`: `resize` (a smaller picture), `random`, `grid`, `block`.
            None keeps all. Held-out pictures are always whole.
        patch_dropout: the short form of `image_tokens = {name = "random", keep = 1 - patch_dropout}` (FLIP, arXiv
            2212.00794).
        text_tokens: which tokens of a caption longer than `text_length` are kept: `truncate` (the first), `random`,
            `block` (a random run), `syntax` (nouns, then adjectives, then verbs).
        positions: of pictures and captions of other sizes than the model's own: `fixed` (refuses such pictures; short
            captions have the first positions), `interpolated` (learned at the stage's size, then resampled to the
            model's), `sincos` (sine and cosine of the place for pictures, not learned; captions as before).
        groups: rates and freezing by name; the first match counts.
        layer_decay: multiplier of the rate per layer below the top.
        channels_last: memory format of pictures and convolutions; faster with convolutional towers.
        grad_checkpointing: recompute activations to save memory.
        checkpoint_every: optimizer steps between checkpoints.
    """

    name: str = "train"
    kind: Part = "contrastive"
    data: DataList = []
    augment: dict[str, Any] | bool = {}
    image_size: int | None = Field(None, ge=8, le=MOST_SIDE)
    text_length: int | None = Field(None, ge=3, le=MOST_TOKENS)
    batch_size: int = Field(256, ge=1, le=MOST_PICTURES)
    samples: int | None = Field(None, ge=1, le=MOST)
    epochs: float | None = Field(None, gt=0, le=MOST_EPOCHS)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    schedule: str = "cosine"
    warmup: float = Field(0.05, ge=0)
    floor: float = Field(0.0, ge=0, le=1)
    optimizer: Part = "adamw"
    clip: Part | float | list[Part | float] | None = None
    grad_transform: Part | None = None
    loss: Part = "clip"
    terms: list[dict[str, Any]] = []
    teacher: Literal["start"] | None = None
    ema: float | None = Field(None, ge=0, lt=1)
    accumulate: int = Field(1, ge=1, le=MOST_PICTURES)
    micro_batch: int | None = Field(None, ge=1, le=MOST_PICTURES)
    precision: Precision = "float32"
    image_tokens: Part | None = None
    patch_dropout: float = Field(0.0, ge=0, lt=1)
    text_tokens: TextKind = "truncate"
    positions: Positions = "fixed"
    groups: list[Group] = []
    layer_decay: float = Field(1.0, gt=0, le=1)
    channels_last: bool = False
    grad_checkpointing: bool = False
    checkpoint_every: int = Field(100, ge=1, le=MOST)

    @model_validator(mode="after")
    def _check(self) -> Stage:
        if self.samples is not None and self.epochs is not None:
            raise ValueError("samples: give samples or epochs, not both")
        if self.samples is None and self.epochs is None:
            raise ValueError("samples: say how long the stage lasts: samples = 100_000, or epochs = 10")
        check_stage(self)
        return self

    def reduction(self) -> TokenReduction | None:
        """The reduction of image tokens that the stage asks for, None where all are kept."""
        if self.image_tokens is not None:
            return build_part(self.image_tokens, TOKENS, "image_tokens")
        return RandomPatches(keep=1.0 - self.patch_dropout) if self.patch_dropout else None

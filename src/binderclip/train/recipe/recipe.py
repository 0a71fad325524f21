"""A training recipe: what is trained on what, how, and for how long.

A recipe is a list of stages. A file with `[[stage]]` tables lists them, entries above the first table hold for every
stage; a flat file is one stage. Parts (`clip`, `loss`, `optimizer`, `augment`, ...) are `{name = ..., **settings}`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from binderclip.errors import UsageError
from binderclip.settings import apply_override, brief, check_depth, hint, locate, parse_override, read_toml
from binderclip.train.recipe.check import MOST, check_model, check_stage

__all__ = ["DataSpec", "EvaluationSpec", "Group", "Recipe", "Stage", "list_recipes", "load_recipe"]

Part = str | dict[str, Any]
# Far above what anyone trains with, and far below what no machine could hold or no generator be seeded with.
MOST_PICTURES, MOST_EPOCHS, MOST_SIDE, MOST_TOKENS, MOST_SEED = 1_000_000, 1_000_000, 8_192, 65_536, (1 << 32) - 1
Precision = Literal["float32", "bfloat16", "float16"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class DataSpec(_Strict):
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


class Group(_Strict):
    """Parameters by name pattern, and how they learn.

    Args:
        match: shell pattern or patterns over parameter names of the model (`visual.*`).
        lr: multiplier of the stage's rate.
        freeze: no training at all.
        weight_decay: False switches weight decay off for them.
    """

    match: str | list[str]
    lr: float = Field(1.0, ge=0)
    freeze: bool = False
    weight_decay: bool = True

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


class EvaluationSpec(_Strict):
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


class Stage(_Strict):
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
        loss: a name of `losses.METHODS` with settings.
        terms: further losses of `train.TERMS`, each with a `weight`.
        teacher: `start` keeps a frozen copy of the model as the stage finds it, which encodes each batch as the model
            sees it, for a loss that asks for `teacher_image` and `teacher_text` (`clip-refine`); None keeps none.
        ema: decay of an average of the weights that is evaluated and saved in their place.
        accumulate: micro-batches a step; each compares pictures only with its own captions.
        micro_batch: pictures encoded at once; the contrastive loss still sees the whole batch (GradCache), at the price
            of a second forward pass. None encodes the batch at once.
        precision: `float32`, or `bfloat16`/`float16` by autocast.
        patch_dropout: share of patch tokens left out in training (FLIP, arXiv 2212.00794).
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
    loss: Part = "clip"
    terms: list[dict[str, Any]] = []
    teacher: Literal["start"] | None = None
    ema: float | None = Field(None, ge=0, lt=1)
    accumulate: int = Field(1, ge=1, le=MOST_PICTURES)
    micro_batch: int | None = Field(None, ge=1, le=MOST_PICTURES)
    precision: Precision = "float32"
    patch_dropout: float = Field(0.0, ge=0, lt=1)
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


class Recipe(_Strict):
    """A whole training recipe; see `load_recipe` for files and `Stage` for what a stage holds.

    Args:
        name: for people.
        model: anything `load` takes, or a table that describes a new model (see `train.build_model`).
        seed: of weights, order and augmentation.
        workers: background threads (pictures in memory) or processes (streamed ones) that prepare batches.
        cache_mb: decoded training pictures are kept in memory up to this many megabytes, streamed beyond it.
        evaluation: what is measured on held-out data.
        save_dtype: precision of the saved weights; training itself keeps float32.
        scaling: how this recipe was changed by `scaled`, empty for an original.
        stage: the stages in order.
    """

    name: str = "recipe"
    model: Part = "small"
    seed: int = Field(0, ge=0, le=MOST_SEED)
    workers: int = Field(1, ge=0, le=1024)
    cache_mb: int = Field(2048, ge=0, le=1 << 30)
    evaluation: EvaluationSpec = Field(default_factory=lambda: EvaluationSpec.model_validate({}))
    save_dtype: Precision = "float32"
    scaling: dict[str, Any] = {}
    stage: list[Stage] = Field(min_length=1)

    _origin: str = PrivateAttr("")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        check_model(self.model)
        names = [stage.name for stage in self.stage]
        if len(names) > 1 and len(set(names)) < len(names):
            raise ValueError(f"stage: every stage needs a name of its own, got {', '.join(names)}")
        return self

    @classmethod
    def from_dict(
        cls, document: Mapping[str, Any], *, text: str = "", source: str = "recipe", overrides: Iterable[str] = ()
    ) -> Recipe:
        """Check a document as a TOML file gives it.

        Args:
            document: the entries.
            text: the file, for line numbers.
            source: its name, for messages.
            overrides: `KEY=VALUE` texts, as `--set` takes them.

        Raises:
            UsageError: an unknown entry or a wrong value; names the entry, the line and what is close.
        """
        check_depth(document, source)
        staged = _with_stages(copy.deepcopy(dict(document)), source, text)
        changed: set[str] = set()
        for override in overrides:
            path, value = parse_override(override)
            apply_override(staged, path, value, RECIPE_KEYS, STAGE_KEYS)
            changed |= {key for key in path if key != "stage" and not key.isdigit()}
        check_depth(staged, source)
        try:
            recipe = cls.model_validate(staged)
        except ValidationError as error:
            raise UsageError(_explain(error, text, source, changed)) from error
        recipe._origin = source
        return recipe

    def overridden(self, overrides: Iterable[str] = (), **entries: Any) -> Recipe:
        """A copy with `--set` texts and entries (`lr=3e-4` reaches every stage) applied.

        Raises:
            UsageError: as `from_dict`.
        """
        document = self.document()
        for override in overrides:
            path, value = parse_override(override)
            apply_override(document, path, value, RECIPE_KEYS, STAGE_KEYS)
        for key, value in entries.items():
            apply_override(document, [key], value, RECIPE_KEYS, STAGE_KEYS)
        return Recipe.from_dict(document, source=self._origin or self.name)

    def scaled(self, samples: float = 1.0, *, batch_size: int | None = None, image_size: int | None = None) -> Recipe:
        """A visibly smaller copy with the same proportions; its name and `scaling` entry say what was changed.

        Args:
            samples: factor on the length of every stage.
            batch_size: a new batch size; rates change in proportion, as they are rates per batch.
            image_size: a new side in pixels.
        """
        document = self.document()
        for stage in document["stage"]:
            if stage["samples"] is not None:
                stage["samples"] = max(1, round(stage["samples"] * samples))
            else:
                stage["epochs"] *= samples
            if stage["warmup"] >= 1:
                stage["warmup"] = max(1.0, stage["warmup"] * samples)
            if batch_size is not None:
                stage["lr"] *= batch_size / stage["batch_size"]
                stage["batch_size"] = batch_size
            if image_size is not None:
                stage["image_size"] = image_size
        changes: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "image_size": image_size}
        changes = {key: value for key, value in changes.items() if value not in (None, 1.0)}
        document["scaling"] = {**document.get("scaling", {}), **changes}
        shown = ", ".join(
            f"{key} x{value:g}" if key == "samples" else f"{key} {value}" for key, value in changes.items()
        )
        document["name"] = f"{self.name} (scaled: {shown or 'unchanged'})"
        return Recipe.from_dict(document, source=self._origin or self.name)

    def document(self) -> dict[str, Any]:
        """The recipe as plain tables, every default written out."""
        return _plain(self.model_dump())


RECIPE_KEYS = tuple(key for key in Recipe.model_fields if key != "stage")
STAGE_KEYS = tuple(Stage.model_fields)


PACKAGED = Path(__file__).parents[1] / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package; `load_recipe` takes them as they are."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def load_recipe(path: str | Path, set: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a TOML file, or the name of a packaged recipe (`list_recipes`) where no such file is.
        set: `KEY=VALUE` overrides.

    Raises:
        UsageError: no such file or name, not TOML, an unknown entry or a wrong value.
    """
    file = _recipe_file(path)
    document, text = read_toml(file)
    document.setdefault("name", file.stem)
    return Recipe.from_dict(document, text=text, source=str(path), overrides=set)


def _recipe_file(path: str | Path) -> Path:
    """The file of a path or of a bare name; a file of the user's goes before a packaged one."""
    file = Path(path)
    # A bare name has neither folder nor suffix: `./mine` and `mine.toml` are always files.
    if file.is_file() or file.suffix or str(path) != file.name:
        return file
    names = list_recipes()
    if file.name in names:
        return PACKAGED / f"{file.name}.toml"
    near = get_close_matches(file.name, names, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(
        f"there is no recipe {file.name!r}: {meant}packaged: {', '.join(names)}; a recipe of your own is given by its "
        "path, such as mine.toml"
    )


def _with_stages(document: dict[str, Any], source: str, text: str) -> dict[str, Any]:
    """Move what belongs to a stage into `stage` tables."""
    stages = document.pop("stage", None)
    wide = {key: document.pop(key) for key in list(document) if key in RECIPE_KEYS}
    shared = {key: document.pop(key) for key in list(document) if key in STAGE_KEYS}
    if document:
        key = next(iter(document))
        known = {*RECIPE_KEYS, *STAGE_KEYS, "stage"}
        raise UsageError(f"{_where(source, text, [key])}: there is no entry {brief(key)}; {hint(key, known)}")
    if stages is None:
        stages = [{}]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise UsageError(f"{_where(source, text, ['stage'])}: write stages as [[stage]], with two brackets")
    named = [{"name": f"stage-{i}"} if len(stages) > 1 else {} for i in range(len(stages))]
    return {**wide, "stage": [{**name, **shared, **stage} for name, stage in zip(named, stages, strict=True)]}


def _explain(error: ValidationError, text: str, source: str, changed: Collection[str] = ()) -> str:
    """One line a problem; what an override set is not looked for in the file."""
    lines = []
    for problem in error.errors()[:5]:
        path = [
            part for part in problem["loc"] if not (isinstance(part, str) and part.startswith(("function-", "dict[")))
        ]
        message = str(problem["msg"]).removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            fields = _fields_at(path[:-1])
            message = f"there is no entry {brief(path[-1])}; {hint(str(path[-1]), fields)}"
        elif problem["type"] == "value_error" and (entry := _entry_of(message)):
            # Checks of a whole stage say themselves which entry they mean.
            path, message = [*path, *entry], message.split(": ", 1)[1]
        elif "input" in problem and not isinstance(problem["input"], dict):
            message = f"{message}, got {brief(problem['input'])}"
        shown = ".".join(map(str, path)) or "recipe"
        place = "--set" if any(str(part) in changed for part in path) else _where(source, text, path)
        lines.append(f"{place}: {shown}: {message}")
    return "\n".join(lines)


def _entry_of(message: str) -> list[str | int]:
    """The entry that a message begins with, `model.vision.layers: ...`; nothing where it begins otherwise."""
    entry, colon, _ = message.partition(": ")
    parts = entry.split(".")
    if not colon or not all(part.isidentifier() or part.isdigit() for part in parts):
        return []
    return [int(part) if part.isdigit() else part for part in parts]


def _fields_at(path: Sequence[Any]) -> Iterable[str]:
    """Entries of the table at a path."""
    if not path:
        return {*RECIPE_KEYS, *STAGE_KEYS}
    inner: dict[str, type[BaseModel]] = {
        "data": DataSpec,
        "groups": Group,
        "evaluation": EvaluationSpec,
        "stage": Stage,
    }
    names = [str(part) for part in path if str(part) in inner]
    return inner[names[-1]].model_fields if names else ()


def _where(source: str, text: str, path: Iterable[str | int]) -> str:
    line = locate(text, path) if text else None
    return f"{source}, line {line}" if line else source


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value

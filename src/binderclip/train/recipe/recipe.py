"""A training recipe: what is trained on what, how, and for how long.

A recipe is a list of stages. A file with `[[stage]]` tables lists them, entries above the first table hold for every
stage; a flat file is one stage. Parts (`clip`, `loss`, `optimizer`, `augment`, ...) are `{name = ..., **settings}`.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator

from binderclip.errors import UsageError
from binderclip.settings import apply_override, brief, check_depth, hint, locate, parse_override, read_toml
from binderclip.train.recipe.check import check_model, check_parts
from binderclip.train.recipe.stage import MOST_SEED, DataSpec, EvaluationSpec, Group, Part, Precision, Stage, Strict

if TYPE_CHECKING:
    from binderclip.train.recipe.cost import Cost

__all__ = ["DataSpec", "EvaluationSpec", "Group", "Recipe", "Stage", "list_recipes", "load_recipe"]


class Recipe(Strict):
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
        check_parts(self.stage)
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

    def cost(self, model: Any = None, *, samples: Sequence[int | None] = ()) -> Cost:
        """Samples, tokens and floating-point operations of every stage, before anything runs; `print` shows a table.

        Args:
            model: the model that training starts from, where it is open already. Default the recipe's; a new one is
                counted without being built.
            samples: length of each stage in pairs, for those that the recipe gives in `epochs`; without, they count as
                unknown.
        """
        from binderclip.train.recipe.cost import recipe_cost

        return recipe_cost(self, model, samples=samples)

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

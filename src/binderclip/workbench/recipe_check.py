"""What a page may write into a recipe: no folder, file, address or command that the workbench was not opened on."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.train import Recipe

Place = tuple[str | int, ...]
Field = tuple[str, ...]
"""Where a text stands, without the numbers of lists: `("stage", "data", "name")`."""

CHECKED: frozenset[Field] = frozenset(
    {("name",), ("save_dtype",), ("model", "arch"), ("stage", "name"), ("stage", "schedule"), ("stage", "precision"),
     ("stage", "terms", "name"), ("stage", "groups", "match"), ("stage", "data", "split"),
     ("evaluation", "data", "split"),
     *(("stage", part, *more) for part in ("kind", "loss", "optimizer", "clip") for more in ((), ("name",)))}
)  # fmt: skip
"""Texts that nothing opens: titles, patterns and splits, which are compared, and names that were looked up."""
DATA: frozenset[Field] = frozenset({("stage", "data", "name"), ("evaluation", "data", "name")})
MODEL: frozenset[Field] = frozenset(
    {("model",), ("model", "tokenizer"), ("model", "text_tower"), ("model", "stem"), ("stage", "terms", "teacher")}
)
OWN_WORDS: Mapping[Field, frozenset[str]] = {
    ("model", "tokenizer"): frozenset({"captions", "clip"}),
    ("model", "stem"): frozenset({"none"}),
}


def check_recipe(recipe: Recipe, shipped: Recipe, open_folder: Callable[[str], Path]) -> None:
    """Whether every text in a recipe is the packaged recipe's own, a name of the library, or an opened folder.

    All texts are walked, those of settings too; one of a field that is not known here is refused, unless it is a word
    that the part's own signature lists (`Literal`). Numbers and switches are free.

    Args:
        recipe: with the changes of a page.
        shipped: the same without them.
        open_folder: gives the folder that a text names, or raises.

    Raises:
        UsageError: a text names anything else: another folder or file, an address, a command.
    """
    own = {(_field(place), text) for place, text in _texts(shipped.document())}
    stages = {stage.name for stage in recipe.stage}
    for place, text in _texts(recipe.document()):
        field = _field(place)
        if (field, text) in own or _is_free(field, text, stages):
            continue
        try:
            open_folder(text)
        except UsageError as error:
            raise UsageError(
                f"{'.'.join(map(str, place))}: {error}; else a page names here {_instead(field)}, and a recipe file of "
                "your own names anything: binderclip train FILE"
            ) from error


def _texts(value: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
    """Every text in nested tables and lists, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, (*place, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*place, index))


def _field(place: Place) -> Field:
    return tuple(part for part in place if isinstance(part, str))


def _is_free(field: Field, text: str, stages: Iterable[str]) -> bool:
    from binderclip.data import list_data
    from binderclip.models.text.templates import resolve_templates

    if field in DATA:
        return {part.strip() for part in text.split(",")} <= set(list_data())
    if field in MODEL:
        return text in _models() | OWN_WORDS.get(field, frozenset())
    if field == ("evaluation", "templates"):
        resolve_templates(text)  # says what would be right; nothing is read
        return True
    if field == ("stage", "kind", "of"):
        return text in stages
    return field in CHECKED or text in _listed().get(field, frozenset())


def _models() -> frozenset[str]:
    from binderclip.models.files.registry import bundled_folders

    return frozenset(bundled_folders())


def _instead(field: Field) -> str:
    """What stands in a field, besides folders."""
    from binderclip.data import list_data

    words = list_data() if field in DATA else _listed().get(field, frozenset())
    if field in MODEL:
        words = _models() | OWN_WORDS.get(field, frozenset())
    return ", ".join(sorted(words)) or "nothing but what the packaged recipe says"


@cache
def _listed() -> dict[Field, frozenset[str]]:
    """The words of settings, from the signatures of what a recipe may name, and from the tables of those rooms."""
    from binderclip import losses, optim
    from binderclip.data.augment.augment import BACKGROUNDS, Augment
    from binderclip.data.augment.cutout import Cutout
    from binderclip.data.synthetic_scenes import background
    from binderclip.fit import OPTIMIZERS
    from binderclip.train import MODELS, STAGES, TERMS
    from binderclip.train.stages.contrastive import TARGETS

    parts: dict[Field, Iterable[Callable[..., Any]]] = {
        ("model",): MODELS.values(),
        ("stage", "kind"): STAGES.values(),
        ("stage", "terms"): TERMS.values(),
        ("stage", "loss"): [*losses.METHODS.values(), losses.ContrastiveLoss],
        ("stage", "clip"): [*optim.METHODS.values(), optim.Clip],
        ("stage", "optimizer"): OPTIMIZERS.values(),
        ("stage", "augment"): [Augment],
        ("stage", "augment", "cutout"): [Cutout],
    }
    allowed: dict[Field, frozenset[str]] = {
        ("stage", "loss", "targets"): frozenset({"diagonal", *TARGETS}),
        ("stage", "augment", "background"): frozenset(BACKGROUNDS),
        ("stage", "kind", "backgrounds"): frozenset(background.BACKGROUNDS),
    }
    for field, makers in parts.items():
        for make in makers:
            hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
            for name, hint in hints.items():
                key = (*field, name)
                allowed[key] = allowed.get(key, frozenset()) | _words(hint)
    return allowed


def _words(hint: Any) -> frozenset[str]:
    """Texts of every `Literal` in an annotation."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return frozenset(word for word in inner if isinstance(word, str))
    return frozenset[str]().union(*map(_words, inner))

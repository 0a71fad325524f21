"""The candidates of a selection: which heads take part, and how each is built from texts, model and seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from binderclip.adapt.heads.base import InputLevel
from binderclip.adapt.heads.tuned import TunedHead
from binderclip.adapt.zero_shot.classifier import ZeroShotClassifier
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel, TextBank

Cost = Literal["closed form", "trained on features", "trained through the text tower", "trained on images"]
ORDER: tuple[Cost, ...] = (
    "closed form", "trained on features", "trained through the text tower", "trained on images"
)  # fmt: skip


def catalogue() -> dict[str, Any]:
    """Every candidate by name: `adapt.METHODS`, and what needs all sentences of a class instead of one prototype."""
    from binderclip.adapt.few_shot.sentence_adapter import SentenceAttentionAdapter
    from binderclip.adapt.methods import METHODS

    pooled = {f"zero-shot-{pool}": partial(ZeroShotClassifier, pool=pool) for pool in ("auto", "max")}
    return {**METHODS, **pooled, "sentence-attention": SentenceAttentionAdapter}


@dataclass(frozen=True)
class Candidate:
    """One candidate.

    Attributes:
        name: as the table shows it; a name of `catalogue`.
        cost: what training it takes; cheap ones go first.
        level: what X it wants.
        build: seed -> unfitted estimator.
    """

    name: str
    cost: Cost
    level: InputLevel
    build: Callable[[int], Any]


def candidates(
    methods: str | Sequence[str], model: ImageTextModel | None, bank: TextBank | None, known: dict[str, Any]
) -> list[Candidate]:
    """The candidates, cheapest first.

    Args:
        methods: `auto` (all but those trained on images, which take hours on a processor), `all`, or names.
        model: for heads that work through its towers.
        bank: the classes' sentences, for heads with a text prior.
        known: name -> constructor, see `catalogue`.

    Raises:
        UsageError: an unknown or doubled name.
    """
    refuse_bare_module(model, "candidates")
    names = list(known) if methods in ("auto", "all") else [methods] if isinstance(methods, str) else list(methods)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise UsageError(f"method {name!r} is unknown: {hint}")
    if len(set(names)) < len(names):
        raise UsageError(f"methods names {next(n for n in names if names.count(n) > 1)!r} more than once")
    entries = [_entry(name, known[name], model, bank) for name in names]
    if methods == "auto":
        entries = [entry for entry in entries if entry.cost != "trained on images"]
    return sorted(entries, key=lambda entry: (ORDER.index(entry.cost), _grids(known[entry.name])))


def _grids(constructor: Any) -> int:
    """Settings that a head searches itself: the more there are, the later it is run."""
    takes = inspect.signature(constructor).parameters
    return sum(f"{name}s" in takes for name in takes)


def _entry(name: str, constructor: Any, model: ImageTextModel | None, bank: TextBank | None) -> Candidate:
    kind = constructor if isinstance(constructor, type) else getattr(constructor, "func", constructor)
    takes = inspect.signature(constructor).parameters
    level: InputLevel = getattr(kind, "input_level", "features")
    offered: dict[str, Any] = {"model": model, "projection": model, "bank": bank}
    if bank is not None:
        offered["text_prior"] = ZeroShotClassifier(bank).fit()

    def build(seed: int) -> Any:
        given = {key: value for key, value in offered.items() if key in takes and value is not None}
        return constructor(**given, **({"seed": seed} if "seed" in takes else {}))

    return Candidate(name, _cost(kind, level, "model" in takes), level, build)


def _cost(kind: Any, level: InputLevel, through_model: bool) -> Cost:
    if not (isinstance(kind, type) and issubclass(kind, TunedHead)):
        return "closed form" if level != "images" else "trained on images"
    if level == "images":
        return "trained on images"
    return "trained through the text tower" if through_model else "trained on features"

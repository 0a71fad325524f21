"""What recipes may name beside the methods of the other rooms: stages, terms, sources, experts and new models.

All are plain dictionaries. A stage is `function(context, **settings)`; what it costs can be counted where `PASSES` has
`function(stage, **settings) -> TowerPasses | OwnCount | Uncounted` of the same name. A term is built by
`function(context, **settings)`, a source is `function(spec, **options) -> data set`, an expert is built by
`function(context, **settings) -> PseudoLabeler`, a model is `function(*, seed, captions, **settings)
-> model` (see `StageContext.model`), and what it costs can be counted where `BARE` has `function(**settings) -> model`
of the same name, whose weights may be missing (the `meta` device) or any; settings are keyword-only arguments and are
checked by name when the recipe is read, and so is what a part demands of the recipe (`demands`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = [
    "BARE",
    "DEMANDS",
    "EXPERTS",
    "MODELS",
    "PASSES",
    "SOURCES",
    "STAGES",
    "TERMS",
    "Demands",
    "demands",
    "register",
]

STAGES: dict[str, Callable[..., Any]] = {}
PASSES: dict[str, Callable[..., Any]] = {}
TERMS: dict[str, Callable[..., Any]] = {}
SOURCES: dict[str, Callable[..., Any]] = {}
MODELS: dict[str, Callable[..., Any]] = {}
BARE: dict[str, Callable[..., Any]] = {}
EXPERTS: dict[str, Callable[..., Any]] = {}


@dataclass(frozen=True)
class Demands:
    """What a stage, a term or an expert refuses before any stage trains.

    Attributes:
        check: called with (all stages of the recipe, number of the stage, settings of the part) when the recipe is
            read; raises `UsageError` where they do not go together. It sees no model and no data.
        one_process: whether a run of several processes is refused.
        keeps_model: whether the stage leaves the model as it was, so that measuring it again says nothing of the stage.
    """

    check: Callable[..., None] | None = None
    one_process: bool = False
    keeps_model: bool = False


DEMANDS: dict[Callable[..., Any], Demands] = {}

F = TypeVar("F", bound=Callable[..., Any])


def register(table: dict[str, Callable[..., Any]], name: str) -> Callable[[F], F]:
    """Decorator: put a function into one of the tables, `@register(STAGES, "contrastive")`."""

    def put(function: F) -> F:
        table[name] = function
        return function

    return put


def demands(
    *, check: Callable[..., None] | None = None, one_process: bool = False, keeps_model: bool = False
) -> Callable[[F], F]:
    """Decorator below `register`: what the function demands of a recipe, see `Demands`."""

    def put(function: F) -> F:
        DEMANDS[function] = Demands(check, one_process, keeps_model)
        return function

    return put

"""What recipes may name beside the methods of the other rooms: stages, terms, sources, experts and new models.

All are plain dictionaries. A stage is `function(context, **settings)`; what it costs can be counted where `PASSES` has
`function(stage, **settings) -> TowerPasses` of the same name. A term is built by `function(context,
**settings)`, a source is `function(spec, **options) -> data set`, an expert is built by
`function(context, **settings) -> PseudoLabeler`, a model is `function(*, seed, captions, **settings)
-> model` (see `StageContext.model`); settings are keyword-only arguments and are checked by name when the recipe is
read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["EXPERTS", "MODELS", "PASSES", "SOURCES", "STAGES", "TERMS", "register"]

STAGES: dict[str, Callable[..., Any]] = {}
PASSES: dict[str, Callable[..., Any]] = {}
TERMS: dict[str, Callable[..., Any]] = {}
SOURCES: dict[str, Callable[..., Any]] = {}
MODELS: dict[str, Callable[..., Any]] = {}
EXPERTS: dict[str, Callable[..., Any]] = {}

F = TypeVar("F", bound=Callable[..., Any])


def register(table: dict[str, Callable[..., Any]], name: str) -> Callable[[F], F]:
    """Decorator: put a function into one of the tables, `@register(STAGES, "contrastive")`."""

    def put(function: F) -> F:
        table[name] = function
        return function

    return put

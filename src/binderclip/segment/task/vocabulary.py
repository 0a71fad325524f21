"""The bundled vocabulary: what a task's noun may mean."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

from binderclip.documents import parse_toml
from binderclip.segment.task.words import noun_of

__all__ = ["bundled_words"]


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return parse_toml(files("binderclip.segment.task").joinpath("vocabulary.toml").read_text(encoding="utf-8"))


def bundled_words(task: str) -> tuple[str, ...]:
    """Words that the noun of a task may mean: of its category, or all there are where it is none.

    Args:
        task: such as "the hidden animal"; the last word counts.
    """
    words, also = _table()["words"], _table()["also"]
    noun = noun_of(task)
    for key, own in words.items():
        if noun == key or noun in also.get(key, ()):
            return tuple(own)
    return tuple(dict.fromkeys(word for own in words.values() for word in own))

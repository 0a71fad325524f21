"""Models of tasks: loaded anew, or once where somebody keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from binderclip.tasks.models import cached_models, image_text_model


def test_a_cache_loads_each_model_once_for_a_place_and_a_precision(tiny_clip: Callable[[int], Path]) -> None:
    name, kept = str(tiny_clip(1)), dict[tuple[str, str], Any]()

    def cache(kind: str, key: str, load: Callable[[], Any]) -> Any:
        return kept[kind, key] if (kind, key) in kept else kept.setdefault((kind, key), load())

    with cached_models(cache):
        first = image_text_model(name)
        assert image_text_model(name) is first
        half = image_text_model(name, dtype="bfloat16")
    assert half is not first
    assert {kind for kind, _ in kept} == {"image-text"}
    assert len(kept) == 2
    # Outside of the block nothing is kept.
    assert image_text_model(name) is not first

"""Models of tasks: loaded anew, or once where somebody keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip import tasks
from binderclip.models import load
from binderclip.tasks.events import Counted, Event
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


@pytest.mark.parametrize("task", ["landscape", "interpolate"])
def test_the_model_of_a_cache_is_never_moved(tiny_clip: Callable[[int], Path], tmp_path: Path, task: str) -> None:
    """So that nobody finds a model somewhere else who looks at it meanwhile, or after a task was stopped."""
    kept, first = dict[str, Any](), load(str(tiny_clip(1)))
    second = load(str(tiny_clip(1)))
    with torch.no_grad():
        for weight in second.parameters():
            weight.mul_(1.1)
    models = {"first": str(first.save(tmp_path / "first")), "second": str(second.save(tmp_path / "second"))}
    weights = {models["first"]: first.state_dict(), models["second"]: second.state_dict()}

    def cache(kind: str, key: str, make: Callable[[], Any]) -> Any:
        return kept[key] if key in kept else kept.setdefault(key, make())

    def look(event: Event) -> None:
        seen.append(event)
        for name, model in kept.items():
            for key, value in model.state_dict().items():
                assert torch.equal(value, weights[name][key]), key

    seen: list[Event] = []
    given = {"model": models["first"]} if task == "landscape" else models
    with cached_models(cache):
        carry_out = getattr(tasks, task)
        request = carry_out.request(**given, data="digits", split="all", limit=6, points=3, report=False)
        carry_out.run(request, progress=look)
    assert len(kept) == len(given)
    assert sum(isinstance(event, Counted) for event in seen) > 3

"""How long a stage is planned to be."""

from __future__ import annotations

from typing import Any

import pytest

from binderclip.errors import UsageError
from binderclip.train import Recipe
from binderclip.train.feed.length import planned_samples


def planned(tiny: dict[str, Any], **entries: Any) -> int | None:
    document = {key: value for key, value in {**tiny, **entries}.items() if value is not None}
    return planned_samples(Recipe.from_dict(document).stage[0])


def test_whole_steps_of_whole_passes(tiny: dict[str, Any]) -> None:
    assert planned(tiny) == 192
    # 64 pictures are six batches of 10 a pass
    assert planned(tiny, batch_size=10) == 180
    assert planned(tiny, batch_size=10, accumulate=3) == 180
    assert planned(tiny, epochs=None, samples=100) == 96
    half = [{"name": "noto-emoji", "limit": 64, "weight": 0.5}, {"name": "noto-emoji", "limit": 32}]
    assert planned(tiny, data=half, epochs=1) == 64


def test_too_large_a_batch_is_found_before_training(tiny: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="64 pictures of one pass"):
        planned(tiny, batch_size=65)

"""Held-out figures do not depend on how the pictures are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from binderclip.data import load_data, write_shards
from binderclip.errors import DataError
from binderclip.models import load
from binderclip.train.evaluator import Evaluator
from binderclip.train.recipe import Evaluation


def test_shards_are_measured_like_the_table_they_were_made_from(tmp_path: Path) -> None:
    model, part = load("small"), load_data("noto-emoji", "val").subset(range(48))
    write_shards(part, tmp_path / "s-%02d.tar", per_shard=20)
    url = str(tmp_path / "s-{00..02}.tar")

    def measured(*data: dict[str, Any]) -> dict[str, float]:
        found = Evaluator(Evaluation.model_validate({"data": list(data)}), model)(model)
        return {key.rsplit(data[0]["name"], 1)[-1]: value for key, value in found.items()}

    table = measured({"name": "noto-emoji", "limit": 48})
    shards = measured({"name": url})
    assert table["/count"] == shards["/count"] == 48
    recalls = [key for key in shards if "/R@" in key]
    assert len(recalls) == 6
    for key in recalls:
        assert shards[key] == pytest.approx(table[key], abs=0.03), key
    fewer = Evaluator(Evaluation.model_validate({"data": [{"name": url, "limit": 7}]}), model)
    assert len(fewer.held[0].pixels) == 7


def test_a_stream_without_a_readable_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar")
    with pytest.raises(DataError, match="no picture can be read"):
        Evaluator(Evaluation.model_validate({"data": [str(tmp_path / "x.tar")]}), load("small"))

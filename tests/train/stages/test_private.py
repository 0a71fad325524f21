"""A private head as a stage: within its budget, better than chance, and the towers untouched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.privacy import Ledger
from binderclip.train import Recipe, run
from binderclip.train.stages.private import _features


def recipe(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": "private",
        "seed": 1,
        "model": "small",
        "data": [{"name": "noto-emoji", "limit": 400}],
        "batch_size": 80,
        "epochs": 20,
        "stage": [{"name": "head", "kind": {"name": "private-head", "epsilon": 4.0}}],
        "evaluation": {"data": [{"name": "noto-emoji", "limit": 120}]},
    }
    return document | changes


def test_the_summary_states_a_budget_that_the_accountant_confirms(tmp_path: Path) -> None:
    result = run(Recipe.from_dict(recipe()), out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    notes = summary["stages"][0]["notes"]
    assert notes["pictures"] == 400
    ((sigma, rate, count),) = notes["privacy"]["entries"]
    assert (rate, count) == (0.2, 100)
    assert Ledger([(sigma, rate, count)]).epsilon(1e-5) == pytest.approx(notes["privacy"]["epsilon"])
    assert notes["privacy"]["epsilon"] <= 4.0
    assert notes["privacy"]["not_covered"]
    # the commonest class is a fifth of the validation pictures
    assert notes["accuracy"]["noto-emoji"] > 0.4
    folder = next((tmp_path / "run" / "stages").glob("00-head"))
    with safe_open(folder / "head.safetensors", "pt") as file:
        assert file.get_tensor("weight").shape == (len(json.loads(file.metadata()["classes"])), 384)
    before, after = load("small").backbone.state_dict(), load(result.out / "model").backbone.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-3, atol=1e-3)


def test_unreadable_pictures_are_named_in_the_summary_and_train_nothing(tmp_path: Path) -> None:
    part = load_data("noto-emoji", "val").subset(range(6))
    for row in range(6):
        folder = tmp_path / "pictures" / ("first" if row < 3 else "second")
        folder.mkdir(parents=True, exist_ok=True)
        part[row].image.save(folder / f"{row}.png")
    (tmp_path / "pictures" / "first" / "broken.png").write_bytes(b"no picture")
    stage = {"name": "head", "kind": {"name": "private-head", "epsilon": 4.0, "seeded": False}}
    document = recipe(data=[str(tmp_path / "pictures")], batch_size=3, epochs=4, evaluation={}, stage=[stage])
    run(Recipe.from_dict(document), out=tmp_path / "run", progress=False)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert [Path(key).name for key, _ in summary["skipped"]] == ["broken.png"]
    assert summary["stages"][0]["skipped"] == 1
    assert summary["stages"][0]["data_hash"]
    notes = summary["stages"][0]["notes"]
    assert (notes["pictures"], notes["classes"]) == (6, 2)
    # the rate is over the pictures that are trained on
    assert [tuple(entry[1:]) for entry in notes["privacy"]["entries"]] == [(0.5, 8)]
    # the same recipe gives another head, because its seed was not to be used
    run(Recipe.from_dict(document), out=tmp_path / "again", progress=False)
    first, second = ((tmp_path / name / "stages/00-head/head.safetensors").read_bytes() for name in ("run", "again"))
    assert first != second


def test_pictures_without_a_label_are_no_records() -> None:
    data, model = load_data("noto-emoji", "val").subset(range(5)), load("small")
    data.labels = np.array([2, -1, 0, -1, 1])
    features, labels = _features(model, data)
    assert labels.tolist() == [2, 0, 1]
    expected = model.encode_image([data[row].image for row in (0, 2, 4)])
    torch.testing.assert_close(F.normalize(features, dim=1), F.normalize(expected, dim=1), rtol=1e-4, atol=1e-5)


def test_data_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has none"):
        run(
            Recipe.from_dict(recipe(data=[str(_folder(tmp_path))], evaluation={})), out=tmp_path / "run", progress=False
        )


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    part = load_data("noto-emoji", "val").subset(range(4))
    for row in range(4):
        part[row].image.save(folder / f"{row}.png")
        (folder / f"{row}.txt").write_text(part.captions[row])
    return folder

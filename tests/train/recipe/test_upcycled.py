"""A recipe that starts from an upcycled model: trained, saved, opened and resumed like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.errors import UsageError
from binderclip.models import MoEMLP, load
from binderclip.train import Recipe, run


@pytest.fixture(scope="module")
def dense(tiny_document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense") / "run"
    run(Recipe.from_dict({**tiny_document, "epochs": 1, "evaluation": {}}), out=out, progress=False)
    return out


@pytest.fixture
def sparse(tiny: dict[str, Any], dense: Path) -> dict[str, Any]:
    tiny |= {"model": {"arch": "upcycled", "base": str(dense), "experts": 3}, "epochs": 2, "evaluation": {}}
    return tiny | {"terms": [{"name": "router"}]}


def test_it_trains_is_saved_and_resumed(sparse: dict[str, Any], goes_on_exactly: Any) -> None:
    whole, _ = goes_on_exactly(Recipe.from_dict(sparse), at=5)
    history = whole.stages[0].history
    # 0.01 times a balance of at least 1 and at most 3, and something for the logits
    assert np.all(history["loss/router"] > 0.01)
    assert np.all(history["loss/router"] < 0.04)
    assert sum(isinstance(module, MoEMLP) for module in load(whole.out).backbone.modules()) == 2


def test_what_does_not_go_together_is_said(sparse: dict[str, Any], tiny_document: dict[str, Any], tmp_path: Path):
    with pytest.raises(UsageError, match="leave micro_batch out"):
        Recipe.from_dict(sparse | {"micro_batch": 4})
    with pytest.raises(UsageError, match="no expert layers"):
        run(Recipe.from_dict({**tiny_document, "terms": [{"name": "router"}]}), out=tmp_path / "b", progress=False)

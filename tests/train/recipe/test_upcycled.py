"""A recipe that starts from an upcycled model: trained, saved, opened and resumed like any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import Callback
from binderclip.models import MoEMLP, load
from binderclip.train import Recipe, run
from binderclip.train.engine import context as context_module


@pytest.fixture(scope="module")
def dense(tiny_document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dense") / "run"
    run(Recipe.from_dict({**tiny_document, "epochs": 1, "evaluation": {}}), out=out, progress=False)
    return out


@pytest.fixture
def sparse(tiny: dict[str, Any], dense: Path) -> dict[str, Any]:
    tiny |= {"model": {"arch": "upcycled", "base": str(dense), "experts": 3}, "epochs": 2, "evaluation": {}}
    return tiny | {"terms": [{"name": "router"}]}


class _Cut(Exception):
    pass


def test_it_trains_is_saved_and_resumed(
    sparse: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = run(Recipe.from_dict(sparse), out=tmp_path / "whole", progress=False).stages[0].history
    # 0.01 times a balance of at least 1 and at most 3, and something for the logits
    assert np.all(history["loss/router"] > 0.01)
    assert np.all(history["loss/router"] < 0.04)

    class Cut(Callback):
        def after_step(self, step: int) -> None:
            if step == 5:
                raise _Cut

    with monkeypatch.context() as patch:
        plain = context_module.fit
        patch.setattr(context_module, "fit", lambda *a, **k: plain(*a, **{**k, "callbacks": [*k["callbacks"], Cut()]}))
        with pytest.raises(_Cut):
            run(Recipe.from_dict(sparse), out=tmp_path / "cut", progress=False)
    run(Recipe.from_dict(sparse), out=tmp_path / "cut", progress=False, resume=True)
    one, two = (load(tmp_path / name).backbone for name in ("whole", "cut"))
    assert sum(isinstance(module, MoEMLP) for module in one.modules()) == 2
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_what_does_not_go_together_is_said(sparse: dict[str, Any], tiny_document: dict[str, Any], tmp_path: Path):
    with pytest.raises(NotSupported, match="leave micro_batch out"):
        run(Recipe.from_dict(sparse | {"micro_batch": 4}), out=tmp_path / "a", progress=False)
    with pytest.raises(UsageError, match="no expert layers"):
        run(Recipe.from_dict({**tiny_document, "terms": [{"name": "router"}]}), out=tmp_path / "b", progress=False)

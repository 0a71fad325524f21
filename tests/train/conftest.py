"""A recipe small enough to be run many times: two layers of width 64 on 64 emoji."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.fit import Callback
from binderclip.models import load
from binderclip.train import Recipe, RunResult, run
from binderclip.train.engine import context as context_module
from binderclip.train.engine import engine as engine_module

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": [{"name": "noto-emoji", "limit": 64}],
    "epochs": 3,
    "batch_size": 16,
    "lr": 1e-3,
    "checkpoint_every": 3,
    "model": {
        "arch": "open_clip",
        "embed_dim": 32,
        "vocabulary": 300,
        "context": 12,
        "vision": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text": {"width": 64, "heads": 2, "layers": 2},
    },
    "evaluation": {"data": [{"name": "noto-emoji", "limit": 32}]},
}


@pytest.fixture(scope="session")
def tiny_document() -> dict[str, Any]:
    """The recipe, not to be changed; for fixtures of wider scope."""
    return TINY


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The recipe as a document; change it freely."""
    return copy.deepcopy(TINY)


@pytest.fixture
def plotted() -> None:
    """Asked for by tests that look at the curves a run draws."""


@pytest.fixture(autouse=True)
def _plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of other tests draw none: that takes as long as the whole training of a tiny recipe."""
    if "plotted" not in request.fixturenames:
        monkeypatch.setattr(engine_module, "plot_run", lambda *args, **settings: [])


class Killed(Exception):
    """What ends a run in its middle."""


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path, int], None]:
    """Runs a recipe, and stops it dead after so many optimizer steps of this process."""

    def stopped(recipe: Recipe, out: Path, at: int) -> None:
        count = 0

        class Cut(Callback):
            def after_step(self, step: int) -> None:
                nonlocal count
                count += 1
                if count == at:
                    raise Killed

        original = context_module.Watchers.__init__

        def with_cut(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            self.callbacks.append(Cut())

        with monkeypatch.context() as patch:
            patch.setattr(context_module.Watchers, "__init__", with_cut)
            with pytest.raises(Killed):
                run(recipe, out=out, progress=False)

    return stopped


@pytest.fixture
def goes_on_exactly(
    cut: Callable[[Recipe, Path, int], None], tmp_path: Path
) -> Callable[..., tuple[RunResult, RunResult]]:
    """Runs a recipe whole, and once more cut `at` a step and resumed: weights and losses are the same to the last bit.

    Returns both results; their folders are `whole` and `cut`.
    """

    def compared(recipe: Recipe, *, at: int) -> tuple[RunResult, RunResult]:
        whole = run(recipe, out=tmp_path / "whole", progress=False)
        cut(recipe, tmp_path / "cut", at)
        torch.manual_seed(77)
        np.random.seed(77)
        again = run(recipe, out=tmp_path / "cut", resume=True, progress=False)
        assert any(stage.resumed_from for stage in again.stages)
        one, other = (load(tmp_path / name).backbone.state_dict() for name in ("whole", "cut"))
        assert all(torch.equal(one[name], other[name]) for name in one)
        for left, right in zip(whole.stages, again.stages, strict=True):
            np.testing.assert_array_equal(left.history["loss"], right.history["loss"])
        return whole, again

    return compared

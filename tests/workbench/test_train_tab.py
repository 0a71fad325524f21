"""The tab that trains: a short run with its curves, its files, and the line that gives it again."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from binderclip.errors import UsageError

pytest.importorskip("gradio", reason="the workbench needs Gradio: pip install binderclip[workbench]")

from binderclip.models import load
from binderclip.train import load_recipe
from binderclip.workbench.tabs import train as tab

SHORT = "evaluation.data=[]\nstage.0.batch_size=16\nstage.0.data=['icons']"


def test_a_short_run_leaves_curves_and_a_model_that_loads(run_of, tmp_path: Path):
    outcome = tab.work(run_of(), "scratch-64", "", 0.02, "norm", SHORT, False, "")
    loss, norm, *_ = outcome.values
    assert Path(loss).is_file()
    assert Path(norm).is_file()
    names = [path.name for path in outcome.files]
    assert names[:2] == ["scratch-64-model.zip", "summary.json"]
    import zipfile

    with zipfile.ZipFile(outcome.files[0]) as packed:
        packed.extractall(tmp_path / "model")
    assert load(str(tmp_path / "model")).encode_text(["a cat"]).shape == (1, 256)
    # What the page says to type is the recipe that was carried out.
    words = shlex.split(outcome.again.shell)
    changes = [word for before, word in pairwise(words) if before == "--set"]
    again = load_recipe("scratch-64", set=changes)
    assert again.stage[0].epochs == pytest.approx(0.08)
    assert again.stage[0].clip in ("norm", {"name": "norm"})


def test_a_wrong_setting_is_said_before_anything_is_trained(run_of):
    run = run_of()
    with pytest.raises(UsageError, match="lrr"):
        tab.work(run, "scratch-64", "", 1.0, tab.AS_IN_RECIPE, "stage.lrr=1", False, "")
    assert not (run.folder / "run").exists()


def test_a_folder_that_the_workbench_was_not_opened_on_is_refused(run_of, tmp_path: Path):
    with pytest.raises(UsageError, match="was not opened on"):
        tab.work(run_of(), "scratch-64", str(tmp_path), 1.0, tab.AS_IN_RECIPE, "", False, "")

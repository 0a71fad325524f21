"""The `clip` of a recipe: every method by name and by table, checked early, resumed exactly, and logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.optim import METHODS, read_clip_log
from binderclip.train import Recipe, run

# Settings under which each method acts on the tiny recipe, whose gradients have norms around 10, within four steps.
ACTING: dict[str, dict[str, Any]] = {
    "norm": {"max_norm": 0.5},
    "value": {"clip_value": 0.01},
    "zclip": {"warmup_steps": 2, "z_thresh": 0.01, "max_grad_norm": 5.0},
    "autoclip": {"percentile": 10.0},
    "adagc": {"warmup_steps": 2, "lambda_rel": 0.9},
    "agc": {"clipping": 0.01},
    "coordinate": {"fraction": 0.1},
}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).backbone.state_dict()


def short(document: dict[str, Any], clip: Any) -> Recipe:
    entries = {key: value for key, value in document.items() if key not in ("epochs", "evaluation")}
    return Recipe.from_dict({**entries, "samples": 64, "clip": clip})


def test_the_table_of_settings_covers_every_method() -> None:
    assert set(ACTING) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_by_name_and_by_table(tiny: dict[str, Any], tmp_path: Path, name: str) -> None:
    result = run(short(tiny, {"name": name, **ACTING[name]}), out=tmp_path / "a", progress=False)
    assert result.recipe.stage[0].clip == {"name": name, **ACTING[name]}
    history = read_clip_log(tmp_path / "a" / "clipping" / "00-train")
    assert history.clips[0].startswith(type(METHODS[name]()).__name__)
    assert history.step.tolist() == [1, 2, 3, 4]
    assert history.clipped.any()
    np.testing.assert_allclose(history.norm, result.stages[0].history["grad_norm"], rtol=1e-5)
    assert Recipe.from_dict({**tiny, "clip": name}).stage[0].clip == name


def test_a_list_is_one_clip_after_the_other(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(short(tiny, [{"name": "value", "clip_value": 0.05}, 0.5]), out=tmp_path / "a", progress=False)
    history = read_clip_log(tmp_path / "a" / "clipping" / "00-train")
    assert [text.split("(")[0] for text in history.clips] == ["ValueClip", "NormClip"]
    np.testing.assert_allclose(history.limit, 0.5)


def test_without_a_clip_the_norm_is_logged_and_nothing_is_clipped(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(short(tiny, None), out=tmp_path / "a", progress=False)
    history = read_clip_log(tmp_path / "a" / "clipping" / "00-train")
    assert np.isfinite(history.norm).all()
    assert not history.clipped.any()
    assert (history.limit == np.inf).all()


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        ("zclpi", "did you mean 'zclip'?"),
        ({"name": "zclip", "z_tresh": 3}, "clip 'zclip' has no setting 'z_tresh': did you mean 'z_thresh'?"),
        ({"name": "agc", "warmup_steps": 3}, "clip 'agc' has no setting 'warmup_steps'"),
        ({"z_thresh": 3}, "needs a name"),
        ({"name": "autoclip", "percentile": 200}, "percentile"),
        ({"name": "zclip", "alpha": 2.0}, "alpha"),
        ({"name": "norm", "nonfinite": "ignore"}, "nonfinite must be one of"),
        ({"name": "norm", "max_norm": -1}, "at least 0"),
        (["zclip", "nrom"], "did you mean 'norm'?"),
        (-1.0, "at least 0"),
    ],
    ids=str,
)
def test_mistakes_are_told_before_anything_is_opened(tiny: dict[str, Any], clip: Any, said: str) -> None:
    with pytest.raises(UsageError) as told:
        Recipe.from_dict({**tiny, "clip": clip, "data": "no-such-data"})
    assert said in str(told.value)
    assert "clip" in str(told.value)
    assert len(str(told.value)) < 400


@pytest.mark.usefixtures("plotted")
def test_the_plot_shows_limit_and_spikes(tiny: dict[str, Any], tmp_path: Path) -> None:
    run(short(tiny, {"name": "norm", "max_norm": 2.0}), out=tmp_path / "a", progress=False)
    with Image.open(tmp_path / "a" / "plots" / "gradient-norm.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # the dashes of a limit that runs through the whole picture
    columns = np.nonzero(np.abs(pixels - (102, 102, 102)).sum(-1) < 30)[1]
    assert columns.max() - columns.min() > 0.6 * pixels.shape[1]


DRIVER = textwrap.dedent("""
    import json, os, signal, sys
    from pathlib import Path
    import torch
    from binderclip.train import Recipe, run
    from binderclip.train.engine import watchers

    torch.set_num_threads(1)
    recipe, folder = Recipe.from_dict(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
    child = os.fork()
    if child == 0:
        original = watchers.Watchers.after_step
        def killing(self, step):
            original(self, step)
            if step == 8:
                os.kill(os.getpid(), signal.SIGKILL)
        watchers.Watchers.after_step = killing
        run(recipe, out=folder / "cut", progress=False)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    resumed = run(recipe, out=folder / "cut", resume=True, progress=False)
    whole = run(recipe, out=folder / "whole", progress=False)
    print(json.dumps([resumed.stages[0].resumed_from, whole.stages[0].steps]))
""")


def test_killed_in_the_middle_of_zclips_warm_up(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Killed with SIGKILL at step 8 of a warm-up of 10; the last checkpoint is of step 6."""
    tiny.pop("evaluation")
    # a rate at which the norm goes on fluctuating, so that the z-score keeps acting
    tiny |= {"checkpoint_every": 3, "epochs": 5, "lr": 1e-6, "schedule": "constant"}
    tiny["clip"] = {"name": "zclip", "warmup_steps": 10, "z_thresh": 0.05, "max_grad_norm": None}
    (tmp_path / "recipe.json").write_text(json.dumps(tiny))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path / "recipe.json"), str(tmp_path)],
        capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    resumed_from, steps = json.loads(done.stdout.splitlines()[-1])
    assert resumed_from == 6
    history = read_clip_log(tmp_path / "whole" / "clipping" / "00-train")
    assert history.step.tolist() == list(range(1, steps + 1))
    # the memory that the warm-up made decides steps after the resume
    assert not history.clipped[:10].any()
    assert history.clipped[10:].sum() >= 2
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    logs = [(tmp_path / name / "clipping" / "00-train" / "clip.jsonl").read_text() for name in ("whole", "cut")]
    assert logs[0] == logs[1]

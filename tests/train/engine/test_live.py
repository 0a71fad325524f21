"""A run read while it goes on, from files written by hand."""

from __future__ import annotations

import json

import numpy as np

from binderclip.train.engine.live import read_progress


def lines(*rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def step(stage, number, loss, samples):
    return {"stage": stage, "name": f"s{stage}", "step": number, "loss": loss, "lr": 0.1, "samples": samples}


def test_steps_evaluations_and_stages_are_put_one_after_the_other(tmp_path):
    found = {"stage": 1, "name": "s1", "step": 4, "pets/text_to_image/R@10": 0.5}
    rows = [step(0, 2, 3.0, 8), step(0, 4, 2.0, 16), step(1, 2, 1.5, 8), step(1, 4, 1.0, 16), found]
    (tmp_path / "metrics.jsonl").write_text(lines(*rows) + '{"stage": 1, "name": "s1", "st')
    progress = read_progress(tmp_path)
    assert (progress.steps, progress.samples, progress.stage, progress.index) == (8, 16, "s1", 1)
    np.testing.assert_allclose(progress.history["loss"], [3.0, 2.0, 1.5, 1.0])
    assert progress.boundaries == [(0, "s0"), (4, "s1")]
    assert progress.evaluations == [{"step": 8, "pets/text_to_image/R@10": 0.5}]
    assert "loss.png" in {path.name for path in progress.plot(tmp_path / "plots")}


def test_a_run_that_has_not_begun_has_nothing_to_draw(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        progress = read_progress(folder)
        assert progress.steps == 0
        assert progress.plot(tmp_path / "plots") == []

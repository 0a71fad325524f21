"""Tracers as folders: what comes back traces alike, and what is not one is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.folders import write_folder
from binderclip.segment import LocalPathNet, TubularTracer, line_accuracy, load_tracer, save_tracer


def tracer() -> TubularTracer:
    torch.manual_seed(0)
    net = LocalPathNet(3, (4, 6, 8))
    net(torch.rand(8, 3, 9, 7))  # so that the running statistics are not those of the start
    return TubularTracer(net.eval().scores, length=9, radius=3, eps=0.1, unknown=0.4, threshold=0.6)


@pytest.mark.parametrize("masks", [False, True])
def test_a_saved_tracer_traces_as_before(corner: Any, tmp_path: Path, masks: bool) -> None:
    before = tracer()
    if masks:
        before = replace(before, mask=before.score.__self__.masks)
    after = load_tracer(save_tracer(before, tmp_path / "mine", card={"data": "a corner"}))
    assert {name: getattr(after, name) for name in ("length", "radius", "eps", "unknown", "threshold")} == {
        "length": 9, "radius": 3, "eps": 0.1, "unknown": 0.4, "threshold": 0.6
    }  # fmt: skip
    one, two = (each(corner.image, corner.start, corner.end) for each in (before, after))
    assert torch.equal(one.path, two.path)
    assert one.cost == two.cost
    assert (one.mask is None) == (two.mask is None)


def test_what_is_no_tracer_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"only a tracer whose score is LocalPathNet.scores"):
        save_tracer(TubularTracer(lambda strips: strips.mean((1, 2, 3))), tmp_path / "x")
    with pytest.raises(UsageError, match="no tracer or folder 'nothing'; bundled: small-tracer"):
        load_tracer("nothing")
    own = tracer()
    for wrong in (replace(own, mask=lambda strips: strips[:, 0]), replace(own, score=own.score.__self__.forward)):
        with pytest.raises(UsageError, match="whose mask is that network's"):
            save_tracer(wrong, tmp_path / "x")
    other = write_folder(tmp_path / "other", kind="vision", config={}, state={"a": torch.zeros(1)}, card={})
    with pytest.raises(CheckpointError, match="'vision' model, and a 'tracer' one"):
        load_tracer(other)
    broken = save_tracer(tracer(), tmp_path / "broken")
    config = (broken / "config.json").read_text()
    (broken / "config.json").write_text(config.replace('"length": 9', '"length": 1'))
    with pytest.raises(CheckpointError, match="length must be at least 3"):
        load_tracer(broken)


def test_the_bundled_tracer_prefers_a_tube_to_the_ground(corner: Any) -> None:
    trace = load_tracer()(corner.image, corner.start, corner.end)
    assert line_accuracy(trace, corner.line) > 0.8
    assert corner.mask[trace.path[:, 0], trace.path[:, 1]].float().mean() > 0.8

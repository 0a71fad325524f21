"""The shared segmentation table: its bounds by hand, its intervals by simulation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data.labelled.label_maps import Labelled, LabelledScenes
from binderclip.errors import UsageError
from binderclip.segment import IoU, parts_of
from binderclip.segment.parts.context import Frame
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.tables import segment_table
from binderclip.studies.protocols.tables.segment_table import (
    ORACLE,
    OneLabel,
    TrueRegions,
    chance,
    gain,
    measured,
    table_rows,
)


def test_chance_is_what_random_labels_reach() -> None:
    labels = torch.tensor([0] * 600 + [1] * 300 + [2] * 99 + [-1] * 500).repeat(200, 1)

    class OneScene(LabelledScenes):
        def __init__(self) -> None:
            self.classes = ["a", "b", "c", "d"]

        def __iter__(self) -> Iterator[Labelled]:
            yield Labelled(Image.new("RGB", labels.shape[::-1]), labels, "scene 0")

    iou = IoU(4)
    iou.update(torch.randint(4, labels.shape, generator=torch.Generator().manual_seed(0)), labels)
    assert chance(OneScene()) == pytest.approx(iou.compute().miou, abs=2e-3)


def test_bounds_relabel_by_mean_logits() -> None:
    true = torch.tensor([[0, 0, 1, 1], [0, 0, 1, -1]])
    logits = torch.zeros(3, 2, 4)
    logits[2, :, 0] = 1.0  # only half of region 0, but more than anything else has there
    logits[0, :, 2:] = 0.6
    logits[1, 1, 2] = 1.0
    image = torch.rand(1, 3, 2, 4)
    frame = Frame(None, image, image)
    labels = torch.zeros(2, 4, dtype=torch.int32)
    found = TrueRegions({image.numpy().tobytes(): true})(labels, logits, frame)
    assert found.tolist() == [[2, 2, 0, 0], [2, 2, 0, -1]]
    assert set(OneLabel()(labels, logits, frame).flatten().tolist()) == {0}


def test_the_interval_of_all_seeds_is_that_of_all_scenes_together() -> None:
    rng, rows, every = np.random.default_rng(0), [], []
    for seed in range(3):
        gaps = rng.normal(0.1, 0.2 * (1 + seed), 40)
        every.append(gaps)
        half = 1.96 * gaps.std() / 40**0.5
        rows += [Row("gain", "a - b", gaps.mean(), "s", seed), Row("gain, half its interval", "a - b", half, "s", seed)]
    mean, low, high = gain(Table(rows), "a", "b", ["s"])
    draws = [np.mean([rng.choice(g, 40).mean() for g in every]) for _ in range(4000)]
    assert mean == pytest.approx(np.mean(every))
    np.testing.assert_allclose([low, high], np.quantile(draws, [0.025, 0.975]), atol=0.006)


def test_cells_are_measured_once_and_names_keep_their_meaning(monkeypatch) -> None:
    measure, asked = segment_table.measure_segmenters, []

    def counted(segmenters, data):
        asked.append(sorted(segmenters))
        return measure(segmenters, data)

    monkeypatch.setattr(segment_table, "measure_segmenters", counted)
    monkeypatch.setattr(segment_table, "_cells", {})
    first = measured(["value"], "scenes", 0, n=2)
    rows = table_rows(["value", "plain"], 0, sets=["scenes"], against=[("value", "plain")], n=2)
    assert asked == [["value"], ["one label for the scene", "plain", "true regions"]]
    values = {row.method: row.value for row in rows if row.metric == "mIoU"}
    assert values["value"] == first.scores["value"].miou
    assert values["chance"] < values["one label for the scene"] < values["value"] <= values[ORACLE] <= 1
    with pytest.raises(UsageError, match="measured with other parts before"):
        measured({"value": parts_of("plain")}, "scenes", 0, n=2)

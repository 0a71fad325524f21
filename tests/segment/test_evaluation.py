"""Presets on label maps: pooled scores by hand, paired intervals, matched classes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from binderclip.errors import DataError, UsageError
from binderclip.segment import IoU, Segmenter, measure_segmenters
from binderclip.segment.metrics import BoundaryF, CalibrationBins

CLASSES = ["a cat", "a dog", "green grass"]


class Samples(list):
    classes = CLASSES
    skipped = [("x", "damaged")]


def samples(n: int = 3) -> Samples:
    generator = torch.Generator().manual_seed(0)
    out = Samples()
    for index in range(n):
        labels = torch.randint(-1, 3, (32, 40), generator=generator)
        out.append(SimpleNamespace(image=torch.rand(3, 32, 40, generator=generator), labels=labels, key=f"{index}"))
    out.append(SimpleNamespace(image=torch.rand(3, 8, 8), labels=torch.full((8, 8), -1), key="nothing counts"))
    return out


def test_scores_are_those_of_single_calls(clip_model) -> None:
    data = samples()
    two = {"plain": Segmenter(clip_model, "plain"), "value": Segmenter(clip_model, "value")}
    found = measure_segmenters(two, data)
    assert found.keys == ("0", "1", "2")
    assert found.skipped == (("x", "damaged"),)
    for name, segmenter in two.items():
        pooled = IoU(3)
        for index, sample in enumerate(data[:3]):
            labels = segmenter(sample.image, CLASSES).labels
            pooled.update(labels, sample.labels)
            ious = []
            for c in range(3):
                hit = (labels == c) & (sample.labels == c)
                either = ((labels == c) & (sample.labels >= 0)) | (sample.labels == c)
                ious.append(float(hit.sum() / either.sum()))
            assert float(found.images[name][index]) == pytest.approx(sum(ious) / 3, abs=1e-6)
        assert found.scores[name].miou == pytest.approx(pooled.compute().miou)
    mean, low, high = found.difference("plain", "value")
    assert mean == pytest.approx(float((found.images["plain"] - found.images["value"]).mean()), abs=1e-6)
    assert low <= mean <= high
    assert found.difference("plain", "plain") == (0, 0, 0)
    one = measure_segmenters(two, samples(1))
    mean, low, high = one.difference("plain", "value")
    assert mean == pytest.approx(float((one.images["plain"] - one.images["value"]).mean()))
    assert mean == 0 or (math.isnan(low) and math.isnan(high)), "all resamples of one picture are alike"
    with pytest.raises(UsageError, match="'magic' was not measured"):
        found.difference("plain", "magic")


def test_a_background_of_words_is_the_class_background(clip_model) -> None:
    data = samples(1)
    data.classes = ["background", "a cat", "a dog"]
    segmenter = Segmenter(clip_model, background=["green grass"])
    found = measure_segmenters({"value": segmenter}, data)
    labels = segmenter(data[0].image, ["a cat", "a dog"]).labels
    pooled = IoU(3)
    pooled.update(labels, data[0].labels)
    assert found.scores["value"].miou == pytest.approx(pooled.compute().miou)


@pytest.mark.parametrize("ground", [False, True])
def test_details_are_boundaries_and_calibration_of_single_calls(clip_model, ground: bool) -> None:
    data = samples(2)
    data.classes = ["background", "a cat", "a dog"] if ground else CLASSES
    words = ["green grass"] if ground else []
    segmenter = Segmenter(clip_model, background=words).at(64)
    found = measure_segmenters({"value": segmenter}, data, details=True)
    boundary, bins = BoundaryF(3), CalibrationBins(3, per_class=False, foreground_only=ground)
    for sample in data[:2]:
        one = segmenter(sample.image, data.classes[1:] if ground else CLASSES)
        boundary.update(one.labels, sample.labels)
        bins.update(one.probs[None], sample.labels[None])
    assert found.boundaries["value"].mean == pytest.approx(boundary.compute().mean)
    assert found.calibration["value"].ece == pytest.approx(bins.compute().ece, abs=1e-5)
    assert found.calibration["value"].foreground_only == ground
    plain = measure_segmenters({"value": segmenter}, data)
    assert (plain.boundaries, plain.calibration) == ({}, {})
    assert plain.scores["value"].miou == found.scores["value"].miou


def test_without_two_classes_side_by_side_there_is_no_boundary(clip_model) -> None:
    data = samples(1)
    data[0].labels = torch.full((32, 40), 1)
    found = measure_segmenters({"value": Segmenter(clip_model)}, data, details=True)
    assert found.boundaries == {}
    assert found.calibration["value"].pixels == 32 * 40


def test_nothing_to_measure_is_an_error(clip_model) -> None:
    with pytest.raises(UsageError, match="segmenters is empty"):
        measure_segmenters({}, samples())
    empty = Samples()
    with pytest.raises(DataError, match=r"no picture could be measured: x: damaged$"):
        measure_segmenters({"value": Segmenter(clip_model)}, empty)
    empty.skipped = [("a.png", "labels/a.png: value 7 is no class"), ("b.png", "gone")]
    with pytest.raises(DataError, match=r"measured: labels/a\.png: value 7 is no class \(and 1 more\)$"):
        measure_segmenters({"value": Segmenter(clip_model)}, empty)
    empty.skipped = []
    empty.append(samples(0)[0])
    with pytest.raises(DataError, match="there is none in which a labelled pixel counts"):
        measure_segmenters({"value": Segmenter(clip_model)}, empty)

"""Rounds of `train_tracer` (p174) on plain tubes: they learn, repeat themselves, and the best round is kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from binderclip.errors import UsageError
from binderclip.segment import (
    TracerTraining,
    TubularTrace,
    TubularTracer,
    line_accuracy,
    line_distance,
    tailored_samples,
    train_tracer,
)
from binderclip.segment.tubular import training

SHORT: dict[str, Any] = {"rounds": 1, "steps": 30, "batch": 32, "count": 40, "length": 8, "radius": 5}


def trace_of(path: torch.Tensor) -> TubularTrace:
    return TubularTrace(path, 1.0, None, torch.zeros(0, 3, 2, dtype=torch.long), torch.zeros(0))


def test_accuracy_is_the_harmonic_mean_of_both_shares() -> None:
    line = torch.stack([torch.zeros(10, dtype=torch.long), torch.arange(10)], 1)
    assert line_accuracy(trace_of(line), line) == 1
    assert line_accuracy(trace_of(line[:5]), line, 0.5) == pytest.approx(2 / 3)  # all of it right, half of the line
    assert line_accuracy(trace_of(line + torch.tensor([3, 0])), line) == 0
    assert line_accuracy(trace_of(line + torch.tensor([2, 0])), line) == 1


def test_distance_is_that_of_nearest_neighbours_both_ways() -> None:
    line = torch.stack([torch.zeros(10, dtype=torch.long), torch.arange(10)], 1)
    assert line_distance(trace_of(line), line) == 0
    assert line_distance(trace_of(line + torch.tensor([3, 0])), line) == 3
    # a trace that ends halfway is nowhere wrong, but misses pixels 1 to 5 steps away
    assert line_distance(trace_of(line[:5]), line) == (0 + (1 + 2 + 3 + 4 + 5) / 10) / 2
    rng = np.random.default_rng(0)
    path, other = rng.integers(0, 60, (40, 2)), rng.integers(0, 60, (70, 2))
    expected = (cKDTree(other).query(path)[0].mean() + cKDTree(path).query(other)[0].mean()) / 2
    assert line_distance(trace_of(torch.from_numpy(path)), torch.from_numpy(other)) == pytest.approx(expected)


def test_a_trained_tracer_follows_the_tube_that_an_untrained_one_leaves(corner: Any) -> None:
    found = train_tracer([corner], [corner], **SHORT)
    assert [len(found.rounds), len(found.accuracies), len(found.counts)] == [2, 2, 2]
    assert found.counts[1] > found.counts[0]  # what it met was added
    rounds = [line_distance(each(corner.image, corner.start, corner.end), corner.line) for each in found.rounds]
    assert found.distances == pytest.approx(rounds)
    trace = found.best(corner.image, corner.start, corner.end)
    assert line_accuracy(trace, corner.line) > 0.9
    assert trace.mask is not None
    assert float((trace.mask & corner.mask).sum() / (trace.mask | corner.mask).sum()) > 0.7
    even = TubularTracer(lambda strips: torch.ones(len(strips)), length=8, radius=5)
    assert line_accuracy(even(corner.image, corner.start, corner.end), corner.line) < 0.8
    again = train_tracer([corner], [corner], **SHORT)
    assert again.accuracies == found.accuracies
    assert torch.equal(again.best(corner.image, corner.start, corner.end).path, trace.path)


@pytest.mark.parametrize("tailored", [True, False])
def test_a_later_round_learns_from_what_the_round_before_met(
    corner: Any, monkeypatch: pytest.MonkeyPatch, tailored: bool
) -> None:
    got, learn = [], training._learn
    monkeypatch.setattr(
        training, "_learn", lambda net, samples, *rest: got.append(samples) or learn(net, samples, *rest)
    )
    found = train_tracer([corner], [corner], **SHORT, tailored=tailored)
    before = found.rounds[0](corner.image, corner.start, corner.end)
    met = tailored_samples(corner.image, before, corner.lines, corner.mask, radius=SHORT["radius"])
    assert len(got) == 2
    first = len(got[0])
    if tailored:
        assert torch.equal(got[1].strips[first:], met.strips)
        assert torch.equal(got[1].labels[first:], met.labels)
    else:
        # As many, but cut along the annotation.
        assert len(got[1]) - first <= len(met)
        assert got[1].strips[first:].shape != met.strips.shape or not torch.equal(got[1].strips[first:], met.strips)


def test_the_first_of_the_best_rounds_is_kept() -> None:
    tracers = [TubularTracer(lambda strips: torch.ones(len(strips)), length=n) for n in (4, 5, 6)]
    assert TracerTraining(tracers, [0.5, 0.7, 0.7], [1, 2, 3]).best is tracers[1]


def test_nothing_to_learn_from_is_refused(corner: Any) -> None:
    with pytest.raises(UsageError, match="give pictures to train and to validate on"):
        train_tracer([], [corner])
    with pytest.raises(UsageError, match="batches of at least 2"):
        train_tracer([corner], [corner], batch=1)
    with pytest.raises(UsageError, match="rounds of at least 0"):
        train_tracer([corner], [corner], rounds=-1)

"""Labels of local paths (p174), and what the samples of both kinds show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment import TubularSamples, TubularTrace, annotated_samples, tailored_samples
from binderclip.segment.tubular.samples import path_labels


def across(column: int, first: int, count: int) -> torch.Tensor:
    return torch.stack([torch.arange(first, first + count), torch.full((count,), column)], 1)[None]


def along(row: int, first: int, count: int) -> torch.Tensor:
    return torch.stack([torch.full((count,), row), torch.arange(first, first + count)], 1)[None]


def test_labels_follow_the_share_the_course_and_the_newest_pixel(corner: Any) -> None:
    def label(paths: torch.Tensor) -> int:
        return int(path_labels(paths, [corner.line], corner.mask, 3.0))

    assert label(along(9, 8, 10)) == 1  # a pixel beside the line
    assert label(along(9, 8, 10).flip(1)) == 1  # backwards
    assert label(along(20, 8, 10)) == 0  # far away
    assert label(across(15, 8, 7).flip(1)) == 0  # more than half is near, but it leads out of the tube
    assert label(across(15, 8, 7)) == -1  # the other way round it leads into it
    assert label(across(15, 6, 5)) == -1  # all near and inside, but across the line
    # 80 % are enough, even where the newest pixel lies outside: a positive wins.
    assert label(torch.cat([torch.tensor([[[12, 8], [11, 9]]]), along(10, 10, 8)], 1)) == 1
    # Of several lines any counts, but one after the other does not make a way along one.
    both = [corner.line[:20], corner.line[20:32] + torch.tensor([20, 0])]
    assert int(path_labels(along(8, 8, 10), both, corner.mask, 3.0)) == 1
    assert int(path_labels(along(28, 26, 10), both, corner.mask, 3.0)) == 1
    # Between half and 80 %, inside: neither.
    assert label(torch.cat([along(10, 10, 7), torch.tensor([[[13, 17], [14, 18], [15, 19]]])], 1)) == -1


def test_annotated_samples_are_as_many_of_each_and_show_what_they_say(corner: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = annotated_samples(
        corner.image, [corner.line], corner.mask, length=8, radius=5, count=200, generator=generator
    )
    assert samples.strips.shape[1:] == (3, 8, 11)
    yes = samples.labels == 1
    assert int(yes.sum()) == 200
    assert 100 < int((~yes).sum()) <= 200  # those that happen to lie on the line are left out
    # The tube is the white of the strip, and the middle of a positive is tube.
    torch.testing.assert_close(samples.masks, (samples.strips[:, 0] >= 0.5).float())
    assert float(samples.masks[yes][:, :, 4:7].mean()) > 0.8
    assert float(samples.masks[~yes][:, :, 4:7].mean()) < 0.5


def test_tailored_samples_are_what_the_tracer_met(corner: Any) -> None:
    visited = torch.cat([along(9, 8, 8), along(20, 8, 8), across(15, 6, 8)])
    trace = TubularTrace(corner.line, 1.0, None, visited, torch.ones(3))
    samples = tailored_samples(corner.image, trace, [corner.line], corner.mask, radius=4)
    assert samples.labels.tolist() == [1.0, 0.0]  # the third runs across and is left out
    assert float(samples.masks[0].mean()) > float(samples.masks[1].mean()) == 0.0
    empty = tailored_samples(
        corner.image, replace(trace, visited=visited[:0], scores=torch.ones(0)), [corner.line], corner.mask, radius=4
    )
    assert len(empty) == 0
    assert len(TubularSamples.joined([samples, empty])) == 2


def test_a_line_that_is_too_short_and_no_samples_are_refused(corner: Any) -> None:
    with pytest.raises(UsageError, match="lines have 5 pixels, a local path 8"):
        annotated_samples(
            corner.image, [corner.line[:5]], corner.mask, length=8, radius=5, count=2, generator=torch.Generator()
        )
    with pytest.raises(UsageError, match="no samples"):
        TubularSamples.joined([])

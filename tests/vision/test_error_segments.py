"""Segments of an error (p091, arXiv 2408.15741): scikit-image's own steps, flat shapes by area, and one smooth ramp."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.filters import threshold_multiotsu, threshold_otsu
from skimage.morphology import binary_dilation, binary_erosion
from skimage.segmentation import watershed

from binderclip.errors import UsageError
from binderclip.vision import gradient_aware_segments
from binderclip.vision.error_segments import _edges, _first_of_two, _otsu, _regions


def shapes() -> torch.Tensor:
    """The error of a white canvas: a square, and a disc that is a radial ramp of colour."""
    error = torch.zeros(3, 48, 48)
    error[0, 5:15, 6:20] = 0.6
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    radius = torch.hypot(x - 30, y - 30)
    ramp = torch.stack([0.4 + 0.025 * radius, 0.9 - 0.02 * radius, 0.5 + 0 * radius])
    return torch.where(radius <= 12, ramp, error)


def test_two_shapes_are_two_segments_and_a_ramp_is_one() -> None:
    error = shapes()
    segments = gradient_aware_segments(error)
    square, disc = segments.labels[10, 12], segments.labels[30, 30]
    assert (segments.weights > 0).sum() == 2
    assert segments.weights[0] == 0
    assert segments.labels[0, 0] == 0
    assert float(segments.weights[square]) == pytest.approx(
        140 * 0.36, abs=4 * 0.36 + 1e-4
    )  # area x error, but for corners
    inside = error.square().sum(0) * (segments.labels == disc)
    assert float(segments.weights[disc]) == pytest.approx(float(inside.sum()), rel=1e-5)
    assert float((segments.labels == disc).sum()) == pytest.approx(math.pi * 144, rel=0.15)


def test_thresholds_are_scikit_images() -> None:
    for seed in range(4):
        values = np.random.default_rng(seed).gamma(0.7, size=(40, 50)) ** (1 + seed / 2)
        assert _otsu(values) == pytest.approx(threshold_otsu(values))
        assert _first_of_two(values) == pytest.approx(threshold_multiotsu(values)[0], abs=1.01 * np.ptp(values) / 256)


def test_regions_are_scikit_images_watershed_of_closed_edges() -> None:
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((3, 6, 6)), np.ones((1, 9, 9)))
    edges = _edges(coarse)
    assert 0.05 < edges.mean() < 0.6
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    closed = binary_erosion(binary_dilation(edges, cross), cross)
    assert (closed >= edges).all()
    assert (closed != edges).mean() < 0.05
    reference = watershed(edges.astype(np.int32), connectivity=2)
    ours = _regions(edges)
    pairs = np.unique(np.stack([ours[~edges], reference[~edges]]), axis=1)
    assert pairs.shape[1] == ours.max() + 1 == reference.max()  # the same parts, one to one
    names = np.zeros(ours.max() + 1, int)
    names[pairs[0]] = pairs[1]
    assert (names[ours] == reference).mean() > 0.95  # equally near regions may share an edge in another way


def test_no_error_one_colour_and_one_row_have_no_segment_to_mend() -> None:
    for error in (torch.zeros(3, 8, 8), torch.full((3, 1, 500), 0.01), torch.full((1, 1, 1), 0.2)):
        segments = gradient_aware_segments(error)
        assert segments.labels.shape == error.shape[1:]
        assert not bool(segments.weights.any())
    with pytest.raises(UsageError, match="finite"):
        gradient_aware_segments(torch.full((3, 4, 4), math.nan))
    with pytest.raises(UsageError, match="shape"):
        gradient_aware_segments(torch.zeros(3, 0, 4))

"""Zip's pieces, against scikit-learn, scikit-image and squares that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

from binderclip.errors import UsageError
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import (
    FixedWords,
    FragmentBoxes,
    LastRound,
    Loop,
    TaskGenericSegmenter,
    UnionOfMasks,
    fragment_boxes,
    lloyd,
)


def test_kmeans_is_scikit_learns_from_the_same_centres():
    points = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    places = torch.linspace(0, 299, 6).round().long()
    theirs = KMeans(6, init=points[places].numpy(), n_init=1, algorithm="lloyd", tol=0).fit(points.numpy())
    assert np.array_equal(lloyd(points, 6).numpy(), theirs.labels_)
    with pytest.raises(UsageError):
        lloyd(points, 301)


def test_two_squares_are_two_boxes():
    clusters = np.zeros((40, 40), dtype=int)
    clusters[4:14, 4:14] = 1
    clusters[20:36, 20:36] = 2
    active = clusters > 0
    assert fragment_boxes(clusters, active) == [(20, 20, 36, 36), (4, 4, 14, 14)]
    assert fragment_boxes(clusters, active & False) == []
    assert fragment_boxes(clusters, active, min_cells=0.1) == [(20, 20, 36, 36)]


def test_an_outline_cuts_touching_instances_apart():
    """Two squares that touch, both of one cluster; the outline of the second is a cluster of its own."""
    clusters = np.zeros((40, 60), dtype=int)
    clusters[10:30, 10:30] = 1
    clusters[10:30, 30:50] = 1
    active = clusters > 0
    assert fragment_boxes(clusters, active) == [(10, 10, 50, 30)]
    clusters[10:30, 30] = clusters[10:30, 49] = 2
    clusters[10, 30:50] = clusters[29, 30:50] = 2  # box over area is 400 / 76
    assert sorted(fragment_boxes(clusters, active)) == [(10, 10, 30, 30), (31, 11, 49, 29)]


def test_components_and_boxes_are_scikit_images():
    measure = pytest.importorskip("skimage.measure")
    rng = np.random.default_rng(0)
    clusters = np.kron(rng.integers(0, 4, (10, 12)), np.ones((4, 4), dtype=int))
    active = np.kron(rng.random((10, 12)) > 0.4, np.ones((4, 4), dtype=bool))
    union = np.zeros_like(active)
    for cluster in range(4):
        labels = measure.label(clusters == cluster, connectivity=1)
        for region in measure.regionprops(labels):
            y0, x0, y1, x1 = region.bbox
            place = labels == region.label
            if active[place].mean() > 0.3 and (y1 - y0) * (x1 - x0) / region.area < 3:
                union |= place
    regions = measure.regionprops(measure.label(union, connectivity=1))
    expected = {(r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]) for r in regions if r.area >= 0.006 * clusters.size}
    assert set(fragment_boxes(clusters, active)) == expected


def test_with_exact_features_every_instance_is_found():
    masks = torch.zeros(3, 48, 64, dtype=torch.bool)
    masks[0, 4:20, 4:24], masks[1, 4:20, 24:44], masks[2, 28:44, 30:58] = True, True, True
    ids = (masks * torch.tensor([1, 2, 3])[:, None, None]).sum(0)

    def features(image):
        return torch.nn.functional.one_hot(ids[::4, ::4], 4).permute(2, 0, 1).float()

    def localiser(image, words):
        return masks.any(0).float()[None, ::4, ::4]

    found = TaskGenericSegmenter(
        OracleSegmenter(masks), FixedWords(("x",)), localiser, FragmentBoxes(features, 4, min_cells=0.01),
        UnionOfMasks(), LastRound(), Loop(1, "none"),
    )(Image.new("RGB", (64, 48)), "every x")  # fmt: skip
    instances = {mask.numpy().tobytes() for mask in found.rounds[0].candidates.logits > 0}
    # the first two touch and are one box; the oracle gives the mask that fits it best
    assert masks[2].numpy().tobytes() in instances
    assert torch.equal(found.mask[28:], masks[2, 28:])

"""Zip's pieces, against scikit-learn, scikit-image and squares that are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

from binderclip.errors import UsageError
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import FragmentBoxes, Look, VocabularyScorer, best_first, fragment_boxes, lloyd


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


@pytest.mark.parametrize("unit", [True, False])
def test_features_are_clustered_by_direction_or_as_they_are(unit: bool) -> None:
    """Two directions in the upper half of a map, each short on the left and long on the right."""
    direction = torch.zeros(2, 4, 6)
    direction[0, :2], direction[1, 2:] = 1.0, 1.0
    length = torch.where(torch.arange(6) < 3, 1.0, 9.0)
    fragments = FragmentBoxes(lambda image: direction * length, ByColour(), k=2, unit=unit)
    found = fragments.clusters(Image.new("RGB", (6, 4)))
    points = (direction * length).flatten(1).T.numpy()
    points = points / np.linalg.norm(points, axis=1, keepdims=True) if unit else points
    theirs = KMeans(2, init=points[[0, -1]], n_init=1, algorithm="lloyd", tol=0).fit(points).labels_
    assert np.array_equal(found.ravel() == found[0, 0], theirs == theirs[0])
    if unit:
        assert np.array_equal(found == found[0, 0], np.repeat([[True], [True], [False], [False]], 6, axis=1))


class ByColour(VocabularyScorer):
    """Words are colours; a picture shows each as far as its mean is of that colour."""

    def __init__(self):
        super().__init__(None, ("red", "green", "blue"))

    def probabilities(self, images, texts):
        means = np.stack([np.asarray(image, dtype=float).reshape(-1, 3).mean(0) for image in images])
        shares = means / means.sum(1, keepdims=True)
        return torch.tensor(shares[:, [self.vocabulary.index(text) for text in texts]]).float()


@pytest.fixture
def herd():
    """Two red squares that touch, the second with an outline of its own colour cluster, and a green one."""
    masks = torch.zeros(3, 48, 64, dtype=torch.bool)
    masks[0, 4:20, 4:24], masks[1, 4:20, 24:44], masks[2, 28:44, 30:58] = True, True, True
    pixels = np.full((48, 64, 3), 90, dtype=np.uint8)
    pixels[(masks[0] | masks[1]).numpy()], pixels[masks[2].numpy()] = (200, 20, 20), (20, 200, 20)
    cells = torch.zeros(4, 48, 64)
    cells[1] = (masks[0] | masks[1]).float()
    cells[2] = masks[2].float()
    inner = torch.zeros(48, 64, dtype=torch.bool)
    inner[5:19, 25:43] = True
    outline = masks[1] & ~inner
    cells[3], cells[1] = outline.float(), cells[1] * ~outline
    cells[0] = 1 - cells[1:].amax(0)

    def localiser(image, words):
        own = {"red": (masks[0] | masks[1]).float(), "green": masks[2].float(), "blue": torch.rand(48, 64)}
        return torch.stack([own[word] for word in words])

    return Image.fromarray(pixels), masks, cells, localiser


def _look(herd, task="every thing", words=("red", "green")):
    picture, masks, _, localiser = herd
    oracle = OracleSegmenter(masks)
    return Look(picture, oracle, oracle.encode(picture), task, words, localiser(picture, words))


def test_instances_are_named_scored_and_apart(herd):
    _, masks, cells, _ = herd
    found = FragmentBoxes(lambda image: cells, ByColour(), 30, min_cells=0.01)(_look(herd))
    assert len(found) == 3
    assert sorted(found.names) == ["green", "red", "red"]
    assert {m.numpy().tobytes() for m in found.logits > 0} == {m.numpy().tobytes() for m in masks}
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    # the map is 1 inside, so that a score is the probability of a cut-out that is all of one colour
    assert found.scores.tolist() == pytest.approx([200 / 240] * 3, abs=1e-4)
    only = FragmentBoxes(lambda image: cells, ByColour(), 30, min_cells=0.01)(_look(herd, "every hidden green"))
    assert only.names == ("green",)
    assert torch.equal(only.logits[0] > 0, masks[2])
    # no word has passed the gate
    none = replace(_look(herd), words=(), maps=None)
    assert len(FragmentBoxes(lambda image: cells, ByColour(), 30)(none)) == 0
    with pytest.raises(UsageError, match="localiser"):
        FragmentBoxes(lambda image: cells, ByColour())(replace(_look(herd), maps=None))


def test_a_score_is_the_mean_of_the_map_inside_times_the_probability(herd):
    _, masks, cells, _ = herd
    look = _look(herd, words=("green",))
    heat = masks[2].float() * torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    heat[30, 40] = 1.0  # the map's maximum; its minimum is 0
    look = replace(look, maps=heat[None])
    found = FragmentBoxes(lambda image: cells, ByColour(), 30, min_cells=0.01)(look)
    place = {m.numpy().tobytes(): float(s) for m, s in zip(found.logits > 0, found.scores, strict=True)}
    expected = float(heat.numpy()[masks[2].numpy()].mean()) * 200 / 240
    assert place[masks[2].numpy().tobytes()] == pytest.approx(expected, rel=1e-4)


def test_the_better_of_two_that_overlap_stays_whatever_their_classes():
    masks = torch.zeros(4, 20, 20, dtype=torch.bool)
    masks[0, :10, :10], masks[1, :10, :8], masks[2, 12:, 12:], masks[3, :10, 4:14] = True, True, True, True
    # IoU with the second: 0.8 and 40 / 140; the fourth and the first 60 / 140
    assert best_first(masks, torch.tensor([0.6, 0.9, 0.1, 0.5])) == [1, 3, 2]
    assert best_first(masks, torch.tensor([0.6, 0.9, 0.1, 0.5]), overlap=0.2) == [1, 2]
    assert best_first(masks, torch.tensor([0.6, 0.9, 0.1, 0.5]), overlap=0.8) == [1, 0, 3, 2]

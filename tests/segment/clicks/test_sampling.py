"""Point prompts (p019): their places, k-medoids against chance, corners against OpenCV, entropy by definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from binderclip.errors import UsageError
from binderclip.segment.clicks import exclusion_points, sample_points
from binderclip.segment.clicks.sampling import EXCLUSION, INCLUSION, corner_points, medoids, patch_entropy


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.random((60, 80, 3)), (2, 2, 0))
    image = (image - image.min()) / np.ptp(image)
    mask = np.zeros((60, 80), dtype=bool)
    mask[5:30, 10:40] = True
    mask[40:55, 50:58] = True
    return image, mask


@pytest.mark.parametrize("strategy", [*INCLUSION, *EXCLUSION])
@pytest.mark.parametrize("n", [1, 4, 9])
def test_points_are_where_they_belong(scene, strategy, n):
    image, mask = scene
    for sample, where in ((sample_points, mask), (exclusion_points, ~mask)):
        if strategy in EXCLUSION and sample is sample_points:
            continue
        found, again = (sample(mask, n, strategy, image=image, seed=3) for _ in range(2))
        assert found.shape == (n, 2)
        assert np.array_equal(found, again)
        x, y = found.T
        assert where[y.astype(int), x.astype(int)].all()
        assert np.array_equal(found % 1, np.full((n, 2), 0.5))


def test_few_pixels_are_repeated():
    mask = np.zeros((9, 9), dtype=bool)
    mask[4, 4:6] = True
    for strategy in INCLUSION:
        found = sample_points(mask, 5, strategy, image=np.random.default_rng(0).random((9, 9)))
        assert found.shape == (5, 2)
        assert set(map(tuple, found)) <= {(4.5, 4.5), (5.5, 4.5)}


def test_medoids_cost_less_than_chance_and_find_clusters():
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0], [20, 0], [0, 20], [20, 20]])
    points = np.concatenate([c + rng.normal(0, 1, (50, 2)) for c in centres])
    chosen = medoids(points, 4, rng)

    def cost(indices):
        return np.linalg.norm(points[:, None] - points[indices], axis=-1).min(1).sum()

    assert sorted(np.linalg.norm(points[chosen][:, None] - centres, axis=-1).argmin(1)) == [0, 1, 2, 3]
    assert cost(chosen) <= min(cost(rng.choice(200, 4, replace=False)) for _ in range(100))
    # one medoid: the best point of all, tried one by one
    alone = medoids(points, 1, rng)
    assert cost(alone) == min(cost([i]) for i in range(200))


def test_corners_are_opencvs(scene):
    cv2 = pytest.importorskip("cv2")
    image, mask = scene
    grey = (image @ [0.299, 0.587, 0.114] * 255).round()
    ours = corner_points(grey, mask, 6, quality=0.001, distance=6)
    theirs = cv2.goodFeaturesToTrack(
        grey.astype(np.uint8), 6, 0.001, 6, mask=mask.astype(np.uint8), blockSize=3
    )[:, 0, ::-1]  # fmt: skip
    assert set(map(tuple, ours)) == set(map(tuple, theirs.astype(int)))


def test_entropy_of_patches():
    grey = np.zeros((20, 20))
    assert patch_entropy(grey, (10, 10)) == 0
    grey[:, 10:] = 1  # columns 4 below 10, 5 from 10 on
    share = np.array([4, 5]) / 9
    assert patch_entropy(grey, (10, 10)) == pytest.approx(-(share * np.log2(share)).sum())
    assert patch_entropy(np.arange(81).reshape(9, 9) / 255, (4, 4)) == pytest.approx(np.log2(81))
    assert patch_entropy(np.arange(81).reshape(9, 9) / 255, (0, 0)) == pytest.approx(np.log2(25))  # clipped


def test_the_far_points_are_the_farthest(scene):
    _, mask = scene
    found = sample_points(mask, 6, "max-distance", seed=0)
    first = found[0]
    far = np.hypot(*(found[1:] - first).T)
    every = np.argwhere(mask)[:, ::-1] + 0.5
    assert (far > np.quantile(np.hypot(*(every - first).T), 0.9)).all()


def test_every_object_gets_its_share(scene):
    _, mask = scene
    found = sample_points(mask, 5, "per-object")
    assert (found[:, 0] > 45).sum() == 2
    assert (found[:, 0] < 45).sum() == 3


def test_rings_and_far_sides(scene):
    _, mask = scene
    ring = exclusion_points(mask, 20, "boundary")
    away = ndimage.distance_transform_edt(~mask)
    assert (away[ring[:, 1].astype(int), ring[:, 0].astype(int)] == 1).all()
    one = np.zeros((40, 40), dtype=bool)
    one[30:38, 4:10] = True
    far = exclusion_points(one, 10, "far-side")
    # the gaps are 0.75 above, 0.75 right: the first of equal ones
    assert (far[:, 1] < 4).all()


def test_mistakes_are_named(scene):
    image, mask = scene
    for call, message in [
        (lambda: sample_points(mask & False, 2), "at least one pixel"),
        (lambda: sample_points(mask, 0), "at least 1"),
        (lambda: sample_points(mask, 2, "tarot"), "k-medoids.*got 'tarot'"),
        (lambda: sample_points(mask, 2, "saliency"), "give image"),
        (lambda: sample_points(mask, 2, "saliency", image=image[1:]), "image is"),
        (lambda: exclusion_points(mask | True, 2), "inside and outside"),
    ]:
        with pytest.raises(UsageError, match=message):
            call()

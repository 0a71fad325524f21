"""PatchCore and PaDiM against twins written with NumPy, SciPy and scikit-learn, and on planted defects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import distance
from sklearn.neighbors import NearestNeighbors

from binderclip.data import plant_defects
from binderclip.errors import NotSupported, UsageError
from binderclip.models import load_vision
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.segment.anomaly import MidLevelFeatures, PaDiM, PatchCore, core_set, mid_level_features
from binderclip.segment.metrics.anomaly import anomaly_scores

SIDE = 24


class Maps:
    """A backbone whose maps are those of a table: stride 4 with 3 channels, stride 8 with 5."""

    def __init__(self) -> None:
        self.preprocess = Preprocess(size=(SIDE, SIDE), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.seen: list[Any] = []

    def feature_maps(self, images: Any, *, strides: Any, batch_size: int) -> list[torch.Tensor]:
        self.seen.append(self.preprocess)
        found = []
        for stride in strides:
            generator = torch.Generator().manual_seed(stride)
            mix = torch.randn(3, {4: 3, 8: 5}[stride], generator=generator)
            cells = torch.nn.functional.avg_pool2d(images, stride)
            found.append(torch.einsum("bchw,cd->bdhw", cells, mix).tanh())
        return found


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.rand(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def features_by_numpy(pictures: torch.Tensor, neighbourhood: int) -> np.ndarray:
    """(B, 6, 6, 8): each map averaged cell by cell, the coarse one resized to the fine one's grid."""
    maps = [each.numpy() for each in Maps().feature_maps(pictures, strides=(4, 8), batch_size=1)]
    averaged = []
    for each in maps:
        out = np.zeros_like(each)
        reach = neighbourhood // 2
        for i in range(each.shape[2]):
            for j in range(each.shape[3]):
                window = each[:, :, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
                out[:, :, i, j] = window.mean(axis=(2, 3))
        averaged.append(out)
    fine, coarse = averaged
    # Bilinear from 3 to 6 cells with half-pixel centres: cell i lies at (i + 0.5) / 2 - 0.5.
    places = np.clip((np.arange(6) + 0.5) / 2 - 0.5, 0, 2)
    low, share = np.floor(places).astype(int), places - np.floor(places)
    high = np.minimum(low + 1, 2)
    rows = coarse[:, :, low] * (1 - share)[:, None] + coarse[:, :, high] * share[:, None]
    larger = rows[..., low] * (1 - share) + rows[..., high] * share
    return np.moveaxis(np.concatenate([fine, larger], axis=1), 1, -1)


def blurred(maps: np.ndarray, sigma: float) -> np.ndarray:
    """(B, 6, 6) cells as pictures of 24 px, then SciPy's Gaussian with mirrored borders."""
    large = torch.nn.functional.interpolate(torch.from_numpy(maps)[:, None], size=(SIDE, SIDE), mode="bilinear")[:, 0]
    return np.stack([ndimage.gaussian_filter(each, sigma, mode="mirror", truncate=4.0) for each in large.numpy()])


@pytest.mark.parametrize("neighbourhood", [1, 3])
def test_features_are_averaged_and_stacked_on_the_finest_grid(pictures: torch.Tensor, neighbourhood: int) -> None:
    backbone = Maps()
    found = mid_level_features(backbone, pictures, strides=(8, 4), neighbourhood=neighbourhood)
    np.testing.assert_allclose(found.values.numpy(), features_by_numpy(pictures, neighbourhood), atol=1e-5)
    assert found.size == (SIDE, SIDE)
    # The whole picture is seen, and the backbone is left as it was.
    assert backbone.seen[0].resize_mode == "squash"
    assert backbone.preprocess.resize_mode == "shortest"


def test_the_core_set_is_greedy_and_covers_the_rest() -> None:
    rows = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    chosen = core_set(rows, 12, project=0).tolist()
    assert len(set(chosen)) == 12
    apart = distance.cdist(rows.numpy(), rows.numpy())
    for count in range(1, 12):
        least = apart[:, chosen[:count]].min(axis=1)
        assert least[chosen[count]] == pytest.approx(least.max(), rel=1e-4)
    # A core set leaves less uncovered than as many rows at random: that is what it is for.
    drawn = np.random.default_rng(0).permutation(60)[:12]
    assert apart[:, chosen].min(axis=1).max() < apart[:, drawn].min(axis=1).max()
    # Equal rows are chosen once each; all of them may be asked for.
    assert sorted(core_set(torch.zeros(5, 3), 5).tolist()) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match=r"in 1\.\.5"):
        core_set(torch.zeros(5, 3), 6)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_patchcore_is_nearest_neighbours_reweighted(pictures: torch.Tensor, neighbours: int) -> None:
    normal, asked = pictures[:3], pictures[3:]
    detector = PatchCore(Maps(), strides=(4, 8), coreset=1.0, neighbours=neighbours, sigma=2.0).fit(normal)
    found = detector(asked)
    memory = features_by_numpy(normal, 3).reshape(-1, 8)
    patches = features_by_numpy(asked, 3).reshape(2, -1, 8)
    one = NearestNeighbors(n_neighbors=1).fit(memory)
    several = NearestNeighbors(n_neighbors=neighbours).fit(memory)
    maps, scores = [], []
    for own in patches:
        near, place = one.kneighbors(own)
        worst = int(near[:, 0].argmax())
        around = several.kneighbors(memory[place[worst]])[1][0]
        exponents = np.exp(np.linalg.norm(memory[around] - own[worst], axis=1))
        share = np.exp(near[worst, 0]) / exponents.sum() if neighbours > 1 else 0.0
        scores.append((1 - share) * near[worst, 0])
        maps.append(near[:, 0].reshape(6, 6))
    np.testing.assert_allclose(found.scores.numpy(), scores, atol=2e-3)
    np.testing.assert_allclose(found.maps.numpy(), blurred(np.stack(maps), 2.0), atol=2e-3)


@pytest.mark.parametrize("make", [lambda: PatchCore(Maps(), strides=(4,), coreset=0.2, seed=3),
                                  lambda: PatchCore(Maps(), strides=(4,), coreset=1.0),
                                  lambda: PaDiM(Maps(), strides=(4, 8), channels=4)])  # fmt: skip
def test_left_out_is_as_if_it_had_never_been_there(pictures: torch.Tensor, make: Any) -> None:
    detector = make()
    features = detector.encode(pictures)
    found = detector.fit(features).score(features, without=torch.arange(5))
    for row in range(5):
        others = make().fit(features[[k for k in range(5) if k != row]])
        alone = others.score(features[row : row + 1])
        torch.testing.assert_close(found.scores[row : row + 1], alone.scores, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.maps[row : row + 1], alone.maps, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("method", "least"), [(PatchCore, 1), (PaDiM, 2)])
def test_too_few_are_left(pictures: torch.Tensor, method: Any, least: int) -> None:
    detector = method(Maps(), strides=(4,)).fit(pictures[:least])
    features = detector.encode(pictures[:least])
    with pytest.raises(UsageError, match=f"out of {least + 1} at least, not of {least}"):
        detector.score(features, without=torch.arange(least))
    with pytest.raises(UsageError, match=rf"there are 0\.\.{least - 1}"):
        detector.score(features[:1], without=torch.tensor([7]))
    with pytest.raises(UsageError, match="one number for each of"):
        detector.score(features, without=torch.arange(9))


def test_padim_is_mahalanobis_at_every_place(pictures: torch.Tensor) -> None:
    normal, asked = pictures[:4], pictures[4:]
    detector = PaDiM(Maps(), strides=(4, 8), channels=None, sigma=1.5).fit(normal)
    found = detector(asked)
    known, own = features_by_numpy(normal, 1), features_by_numpy(asked, 1)
    maps = np.zeros((1, 6, 6))
    for i in range(6):
        for j in range(6):
            inverse = np.linalg.inv(np.cov(known[:, i, j].T) + 0.01 * np.eye(8))
            maps[0, i, j] = distance.mahalanobis(own[0, i, j], known[:, i, j].mean(axis=0), inverse)
    expected = blurred(maps, 1.5)
    np.testing.assert_allclose(found.maps.numpy(), expected, rtol=2e-3)
    assert float(found.scores[0]) == pytest.approx(expected.max(), rel=2e-3)


def test_padim_takes_channels_by_seed(pictures: torch.Tensor) -> None:
    every = PaDiM(Maps(), strides=(4, 8), channels=None).encode(pictures).values
    some = PaDiM(Maps(), strides=(4, 8), channels=3, seed=2).encode(pictures).values
    assert some.shape[-1] == 3
    columns = [int((every == some[..., k : k + 1]).all(dim=2).all(dim=1).all(dim=0).nonzero()[0]) for k in range(3)]
    assert columns == sorted(set(columns))
    again = PaDiM(Maps(), strides=(4, 8), channels=3, seed=3).encode(pictures).values
    assert not torch.equal(some, again)


@pytest.mark.parametrize("method", [PatchCore, PaDiM])
def test_planted_defects_are_found_by_the_bundled_classifier(method: Any) -> None:
    wave = torch.sin(torch.arange(96) / 3.0)
    noise = torch.rand(9, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    images = (0.5 + 0.2 * wave + 0.1 * (noise - 0.5)).clamp(0, 1)
    planted = plant_defects(images[6:], 1)
    detector = method(load_vision("lite0"), size=96).fit(images[:4])
    found = detector(torch.cat([images[4:6], planted.images]))
    assert float(found.scores[:2].max()) < float(found.scores[2:].min())
    truth = torch.cat([torch.zeros(2, 96, 96, dtype=torch.bool), planted.masks.reshape(3, 96, 96).bool()])
    measured = anomaly_scores(found.maps, truth, scores=found.scores, labels=torch.tensor([0, 0, 1, 1, 1]).bool())
    assert measured.pixel_auroc > 0.9


def test_mistakes_are_named(pictures: torch.Tensor) -> None:
    for make, said in [
        (lambda: PatchCore(Maps(), coreset=0.0), r"share of the normal patches in \(0, 1\]"),
        (lambda: PatchCore(Maps(), neighbours=0), "neighbours must be at least 1"),
        (lambda: PaDiM(Maps(), channels=0), "channels must be at least 1"),
        (lambda: PaDiM(Maps(), epsilon=0.0), "epsilon must be positive"),
        (lambda: PatchCore(Maps(), strides=(4,))(pictures), "call fit"),
        (lambda: PaDiM(Maps(), strides=(4,))(pictures), "call fit"),
        (lambda: PaDiM(Maps(), strides=(4,)).fit(pictures[:1]), "at least 2 normal pictures, not 1"),
        (lambda: mid_level_features(Maps(), pictures, strides=()), "strides is empty"),
        (lambda: mid_level_features(Maps(), pictures, strides=(4,), neighbourhood=2), "must be odd"),
        (lambda: mid_level_features(Maps(), [], strides=(4,)), "give at least one"),
    ]:
        with pytest.raises(UsageError, match=said):
            make()
    with pytest.raises(NotSupported, match="lite0"):
        mid_level_features(object(), pictures, strides=(4,))
    fitted = PatchCore(Maps(), strides=(4,)).fit(pictures)
    with pytest.raises(UsageError, match=r"\(6, 6, 2\) do not fit those of the normal pictures, \(6, 6, 3\)"):
        fitted.score(MidLevelFeatures(torch.zeros(1, 6, 6, 2), (SIDE, SIDE)))

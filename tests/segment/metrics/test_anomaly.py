"""Anomaly scores against scikit-learn, a sweep over thresholds with region loops, and the bound of the histogram."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.measure import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from binderclip.errors import UsageError
from binderclip.segment.metrics import (
    ScoreStore,
    anomaly_scores,
    binary_auroc,
    binary_average_precision,
    binary_f1_max,
    per_region_overlap,
)


def made(seed: int, n: int = 6, side: int = 24, steps: int | None = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps with values k / steps (so that a histogram of so many bins is exact) and masks, half of them empty."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, 1, 6, 6, generator=generator)
    masks = torch.nn.functional.interpolate(noise, (side, side), mode="bilinear")[:, 0] > 0.7
    masks[::2] = False
    maps = (0.25 * masks + 0.7 * torch.rand(n, side, side, generator=generator)).double()
    return (maps if steps is None else (maps * steps).floor() / steps), masks


def f1_of_sklearn(scores: np.ndarray, labels: np.ndarray) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(np.nanmax(2 * precision * recall / np.maximum(precision + recall, 1e-12)))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curves_with_ties_equal_scikit_learn(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 9, (80,), generator=generator) / 8
    labels = torch.rand(80, generator=generator) < 0.3
    s, y = scores.numpy(), labels.numpy()
    assert binary_auroc(scores, labels) == pytest.approx(roc_auc_score(y, s))
    assert binary_average_precision(scores, labels) == pytest.approx(average_precision_score(y, s))
    best = binary_f1_max(scores, labels)
    assert best.f1 == pytest.approx(f1_of_sklearn(s, y))
    hit = (s >= best.threshold) & y
    assert best.f1 == pytest.approx(2 * hit.sum() / ((s >= best.threshold).sum() + y.sum()))


def test_store_equals_scikit_learn_on_all_pixels_and_all_images() -> None:
    store = ScoreStore(bins=64)
    parts = [made(0), made(1)]
    for maps, masks in parts:
        store.update(maps, masks)
    maps, masks = (torch.cat(p) for p in zip(*parts, strict=True))
    found = store.compute()
    s, y = maps.flatten().numpy(), masks.flatten().numpy()
    assert found.pixel_auroc == pytest.approx(roc_auc_score(y, s))
    assert found.pixel_ap == pytest.approx(average_precision_score(y, s))
    assert found.pixel_f1_max == pytest.approx(f1_of_sklearn(s, y))
    s, y = maps.amax(dim=(1, 2)).numpy(), masks.any(dim=2).any(dim=1).numpy()
    assert found.image_auroc == pytest.approx(roc_auc_score(y, s))
    assert found.image_ap == pytest.approx(average_precision_score(y, s))
    assert found.image_f1_max == pytest.approx(f1_of_sklearn(s, y))


@pytest.mark.parametrize("limit", [0.3, 0.05, 1.0])
def test_region_overlap_equals_a_sweep_over_thresholds_and_regions(limit: float) -> None:
    maps, masks = made(3)
    regions = []
    for m, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        numbers = label(mask, connectivity=2)
        regions += [m[numbers == k] for k in range(1, numbers.max() + 1)]
    assert len(regions) > 3
    normal = maps[~masks].numpy()
    rates, overlaps = [0.0], [0.0]
    for threshold in np.arange(64, -1, -1) / 64:
        rates.append(float((normal >= threshold).mean()))
        overlaps.append(float(np.mean([(r >= threshold).mean() for r in regions])))
    grid = np.linspace(0, limit, 200_001)
    want = float(np.trapezoid(np.interp(grid, rates, overlaps), grid) / limit)
    store = ScoreStore(bins=64, fpr_limit=limit)
    store.update(maps, masks)
    assert store.compute().pro == pytest.approx(want, abs=1e-5)


def test_small_regions_weigh_as_much_as_large_ones() -> None:
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[:, :20, :20] = True
    masks[:, 30:32, 30:32] = True
    large, small = torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)
    large[:, :20, :20] = 1
    small[:, 30:32, 30:32] = 1
    # One region is found at no false alarm; the other comes with all the ground, linearly: 1/2 + 1/2 * 0.15.
    want = 0.5 + 0.5 * 0.15
    assert [per_region_overlap(m, masks) for m in (large, small)] == pytest.approx([want, want])


def test_the_histogram_is_as_good_as_its_bound() -> None:
    maps, masks = made(4, n=12, steps=None)
    exact = roc_auc_score(masks.flatten().numpy(), maps.flatten().numpy())
    for bins in (16, 256, 4096):
        store = ScoreStore(bins=bins)
        store.update(maps, masks)
        shares = store.anomalous / store.anomalous.sum() * store.normal / store.normal.sum()
        bound = 0.5 * shares.sum() + 1e-12
        assert abs(store.compute().pixel_auroc - exact) <= bound
    assert bound < 3e-4
    assert anomaly_scores(10 * maps - 4, masks).pixel_auroc == pytest.approx(exact, abs=bound)


def test_perfect_and_reversed_detectors_and_missing_sides() -> None:
    _, masks = made(5)
    perfect = anomaly_scores(masks.double(), masks)
    assert {getattr(perfect, f) for f in ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap")} == {1}
    assert perfect.pixel_f1_max == 1
    # With one step the curve still rises from (0, 0): all of the overlap stands at no false alarm.
    assert perfect.pro == 1
    assert anomaly_scores(1 - masks.double(), masks).pixel_auroc == 0
    sound = anomaly_scores(torch.rand(3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.bool))
    assert all(math.isnan(v) for v in (sound.image_auroc, sound.image_ap, sound.pixel_auroc, sound.pixel_f1_max))
    assert math.isnan(sound.pro)
    images = anomaly_scores(scores=torch.tensor([0.1, 3.0]), labels=torch.tensor([False, True]))
    assert images.image_auroc == 1
    assert math.isnan(images.pixel_auroc)


def test_own_image_scores_and_labels_and_one_map() -> None:
    maps, masks = made(6)
    store = ScoreStore()
    store.update(maps, masks, scores=torch.arange(6.0), labels=torch.arange(6) >= 3)
    assert store.compute().image_auroc == 1
    single = ScoreStore()
    for m, mask in zip(maps, masks, strict=True):
        single.update(m, mask)
    assert single.scores == maps.amax(dim=(1, 2)).tolist()
    assert (single.normal == store.normal).all()


def test_merging_equals_one_pass() -> None:
    first, second, both = ScoreStore(bins=64), ScoreStore(bins=64), ScoreStore(bins=64)
    first.update(*made(7))
    second.update(*made(8))
    both.update(*made(7))
    both.update(*made(8))
    first.merge(second)
    ours, theirs = first.compute(), both.compute()
    assert list(vars(ours).values()) == pytest.approx(list(vars(theirs).values()))
    first.reset()
    with pytest.raises(UsageError, match="update was not called"):
        first.compute()


def test_bad_input_is_named_and_adds_nothing() -> None:
    maps, masks = made(9)
    store = ScoreStore()
    with pytest.raises(UsageError, match=r"pixel scores lie in \[.*\], limits are \[0, 1\]: give"):
        store.update(maps + 1, masks)
    with pytest.raises(UsageError, match="NaN or infinite"):
        store.update(maps * math.nan, masks)
    with pytest.raises(UsageError, match="of one shape"):
        store.update(maps, masks[:2])
    with pytest.raises(UsageError, match="give masks, or labels"):
        store.update(maps)
    with pytest.raises(UsageError, match="give maps, or scores"):
        store.update()
    with pytest.raises(UsageError, match="masks need maps"):
        store.update(masks=masks, scores=torch.zeros(6))
    with pytest.raises(UsageError, match="differ in shape"):
        store.update(maps, masks, labels=torch.ones(2, dtype=torch.bool))
    assert store.scores == []
    assert not store.normal.any()
    with pytest.raises(UsageError, match="cannot merge"):
        store.merge(ScoreStore(bins=8))
    for wrong, text in (({"bins": 0}, "bins"), ({"limits": (1, 0)}, "limits"), ({"fpr_limit": 0}, "fpr_limit")):
        with pytest.raises(UsageError, match=text):
            ScoreStore(**wrong)
    with pytest.raises(UsageError, match="differ in shape"):
        binary_auroc(torch.zeros(3), torch.zeros(2))

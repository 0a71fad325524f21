"""Remove and retrain against data whose informative coordinates are known, brute force and counts (p062, p083)."""

from __future__ import annotations

from math import asin, comb, pi

import pytest
import torch
from torch import Tensor

from binderclip.data import Fill
from binderclip.errors import UsageError
from binderclip.explain import RetrainTable, from_scratch, keep_mask, remove_and_retrain
from binderclip.explain.faithfulness.retrain import fill_value

SIZE, GROUP = 20, 4


def grouped(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Twenty independent standard normals; the sum of the first four decides the class."""
    x = torch.randn(n, SIZE, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :GROUP].sum(1) > 0).long()


def least_squares(images: Tensor, labels: Tensor, seed: int):
    """A linear classifier in closed form, so that nothing of the result is an optimiser's."""
    x = torch.cat([images.flatten(1), torch.ones(len(images), 1)], 1).double()
    w = torch.linalg.lstsq(x.T @ x + 1e-6 * torch.eye(x.shape[1]), x.T @ (2 * labels[:, None] - 1).double()).solution
    return lambda t: torch.cat([t.flatten(1), torch.ones(len(t), 1)], 1).double() @ torch.cat([-w, w], 1)


def importance(n: int) -> Tensor:
    return (torch.arange(SIZE) < GROUP).float().expand(n, SIZE)


TRAIN, TEST = grouped(3000, 0), grouped(2000, 1)


def run(maps, **options) -> RetrainTable:
    maps_train, maps_test = ({k: v[:n] for k, v in maps.items()} for n in (3000, 2000))
    return remove_and_retrain(maps_train, maps_test, TRAIN, TEST, least_squares, unit="coordinate", **options)


def test_the_informative_group_is_all_a_classifier_needs_and_without_it_there_is_nothing() -> None:
    maps = {"true": importance(3000)}
    top = run(maps, fractions=[0.2, 1.0], keep="top", seeds=[0])
    bottom = run(maps, fractions=[0.8], keep="bottom", seeds=[0])
    assert top.kept == (4, 20)
    assert top.mean("true")[0] > 0.97  # exact up to the fit: y is a function of what was kept
    assert abs(bottom.mean("true")[0] - 0.5) < 3 * 0.5 / 2000**0.5  # chance, three standard errors
    whole = least_squares(*TRAIN, 0)(TEST[0]).argmax(1).eq(TEST[1]).float().mean()
    assert top.mean("true")[1] == pytest.approx(float(whole))


def test_a_random_order_keeps_the_share_of_the_information_that_its_size_is() -> None:
    # With m of the four informative coordinates left the best accuracy is 1/2 + asin(sqrt(m / 4)) / pi, and m is
    # hypergeometric; the fitted weights of the other sixteen coordinates cost a little of it.
    table = run({"true": importance(3000)}, fractions=[0.5], keep="top", seeds=range(3))
    ways = [comb(4, m) * comb(16, 10 - m) / comb(20, 10) for m in range(5)]
    best = sum(w * (0.5 + asin((m / 4) ** 0.5) / pi) for m, w in enumerate(ways))
    assert best - 0.05 < float(table.mean("random")[0]) < best + 0.02
    assert table.methods[-1] == "random"
    assert table.standard_error("random")[0] == pytest.approx(float(table.of("random").std() / 3**0.5))


def test_masks_have_exact_sizes_are_disjoint_and_complement_each_other() -> None:
    maps = torch.randn(7, 5, 9, generator=torch.Generator().manual_seed(0)).round(decimals=0)  # many ties
    for fraction in (0.0, 0.1, 0.33, 0.5, 1.0):
        top, bottom = (keep_mask(maps, fraction, keep=k, seed=3) for k in ("top", "bottom"))
        count = round(fraction * 45)
        assert (top.flatten(1).sum(1) == count).all()
        assert (bottom.flatten(1).sum(1) == count).all()
        assert fraction > 0.5 or not (top & bottom).any()
        assert torch.equal(keep_mask(maps, 1 - fraction, keep="bottom", seed=3), ~top) or 45 * fraction % 1 == 0.5
        for m, chosen in zip(maps, top, strict=True):  # brute force: nothing left out is larger than anything kept
            assert count in (0, 45) or m[chosen].min() >= m[~chosen].max()


def test_equal_values_are_ordered_at_random_and_not_by_place() -> None:
    maps = torch.zeros(4000, 8)
    maps[:, 2] = 1.0
    chosen = keep_mask(maps, 0.5, seed=0).float().mean(0)
    assert chosen[2] == 1.0
    rest = chosen[[0, 1, 3, 4, 5, 6, 7]]
    assert (rest - 3 / 7).abs().max() < 4 * (3 / 7 * 4 / 7 / 4000) ** 0.5
    assert torch.equal(keep_mask(maps, 0.5, seed=1), keep_mask(maps, 0.5, seed=1))
    assert not torch.equal(keep_mask(maps, 0.5, seed=1), keep_mask(maps, 0.5, seed=2))


def test_pixels_lose_all_their_channels_to_one_constant() -> None:
    images = torch.rand(6, 3, 4, 4)
    maps = torch.rand(6, 4, 4)
    seen: list[Tensor] = []

    def fit(masked, labels, seed):
        seen.append(masked)
        return lambda x: torch.zeros(len(x), 2)

    labels = torch.tensor([0, 1] * 3)
    remove_and_retrain(maps, maps, (images, labels), (images, labels), fit, fractions=[0.25], seeds=[0])
    mean = images.mean((0, 2, 3))
    for image, m, masked in zip(images, maps, seen[0], strict=True):
        kept = m <= m.flatten().sort().values[3]
        assert torch.equal(masked[:, kept], image[:, kept])
        assert torch.allclose(masked[:, ~kept], mean[:, None].expand(3, 12))


def test_fills_are_constants() -> None:
    images = torch.rand(4, 3, 2, 2)
    assert torch.allclose(fill_value("mean", images).flatten(), images.mean((0, 2, 3)))
    assert fill_value(0.5, images).tolist() == [[[[0.5]]]]
    assert fill_value(Fill("zero", value=(0.1, 0.2, 0.3)), images).shape == (1, 3, 1, 1)
    for rule in ("mean", "blur", "noise"):
        with pytest.raises(UsageError, match="depends on the image"):
            fill_value(Fill(rule), images)
    with pytest.raises(UsageError, match="2 numbers for images of 3 channels"):
        fill_value((0.1, 0.2), images)


def test_training_from_scratch_depends_on_its_seed_only() -> None:
    x, y = grouped(400, 3)
    fit = from_scratch(lambda: torch.nn.Linear(SIZE, 2), epochs=20, lr=0.05)
    before = torch.random.get_rng_state()
    first, again, other = fit(x, y, 0), fit(x, y, 0), fit(x, y, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert (first(x).argmax(1) == y).float().mean() > 0.95
    assert not first.training


def test_mistakes_are_refused_before_any_training() -> None:
    def fit(*_):
        raise AssertionError("trained")

    x, y = torch.rand(4, 1, 3, 3), torch.zeros(4).long()
    good = torch.rand(4, 3, 3)
    cases = [
        ({"keep": "best"}, "keep must be"),
        ({"fractions": [1.2]}, "fraction 1.2"),
        ({"fill": "blur"}, "fill 'blur'"),
        ({"unit": "patch"}, "unit must be"),
        ({"unit": "coordinate"}, "must be"),
        ({"seeds": []}, "one seed"),
    ]
    for options, message in cases:
        with pytest.raises(UsageError, match=message):
            remove_and_retrain(good, good, (x, y), (x, y), fit, **options)
    with pytest.raises(UsageError, match="must have the same names"):
        remove_and_retrain({"a": good}, {"b": good}, (x, y), (x, y), fit)
    with pytest.raises(UsageError, match="NaN"):
        remove_and_retrain(good * float("nan"), good, (x, y), (x, y), fit)
    with pytest.raises(UsageError, match="labels"):
        remove_and_retrain(good, good, (x, y[:2]), (x, y), fit)
    with pytest.raises(UsageError, match="at least 1"):
        from_scratch(lambda: torch.nn.Linear(2, 2), epochs=0)
    with pytest.raises(UsageError, match="was not measured"):
        run({"true": importance(3000)}, fractions=[0.5], seeds=[0]).of("false")

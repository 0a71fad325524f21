"""Views for blind quality: whole first, faults of different families, draws by seed and number, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.quality.score import damaged_views
from binderclip.quality.score.damaged_views import FAMILIES, FAULTS, DamagedViews


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Three in colour."""
    found = [sample.image.convert("RGB").resize((160, 120)) for sample in load_data("photographs")]
    return [each for each in found if np.ptp(np.asarray(each).astype(int), axis=-1).mean() > 20][:3]


def test_a_view_is_whole_first_and_the_same_whenever_it_is_asked_for(pictures: list[Image.Image]) -> None:
    views = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=4)
    shown, levels = views[4]
    assert shown.shape[:2] == (3, 3)
    assert levels.shape == (3, len(FAMILIES))
    assert levels[0].tolist() == [0] * len(FAMILIES)
    assert (levels > 0).sum(1).tolist() == [0, 1, 1]
    assert 1 <= levels.amax(1)[1:].min() <= levels.max() <= 5
    for picture, row in zip(shown, levels, strict=True):
        assert torch.equal(picture, shown[0]) == (row.max() == 0)
    again = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=4)
    list(again)
    assert torch.equal(again[4][0], shown)
    other = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=5)[4][0]
    assert other.shape != shown.shape or not torch.equal(other, shown)


def test_two_whole_views_in_three_differ_as_photographs_do(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole() -> list[torch.Tensor]:
        return [shown[0] for shown, _ in DamagedViews(pictures, 60, faults=1, sides=(40, 60), seed=2)]

    found = whole()
    monkeypatch.setattr(damaged_views, "UNTOUCHED", 1.0)
    plain = whole()
    monkeypatch.setattr(damaged_views, "UNTOUCHED", 0.0)
    other = whole()
    same = [torch.equal(one, untouched) for one, untouched in zip(found, plain, strict=True)]
    assert 10 <= sum(same) <= 30  # a third of 60
    away = [float((one - untouched).abs().mean()) for one, untouched in zip(other, plain, strict=True)]
    assert min(away) > 0.005
    assert max(away) < 0.35
    darker = sum(float(one.mean()) < float(two.mean()) for one, two in zip(other, plain, strict=True))
    assert 15 <= darker <= 45


def test_sizes_are_drawn_and_one_view_in_eight_is_grey(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(damaged_views, "UNTOUCHED", 1.0)  # the others may be toned
    whole = [shown[0] for shown, _ in DamagedViews(pictures, 160, faults=1, sides=(32, 64), seed=0)]
    assert max(max(each.shape[1:]) for each in whole) <= 64
    assert len({tuple(each.shape) for each in whole}) > 25
    colour = [float((each.amax(0) - each.amin(0)).mean()) for each in whole]
    assert 8 <= sum(value < 0.01 for value in colour) <= 34


def test_faults_of_a_view_are_of_different_families_and_all_are_met(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[str] = []

    def noting(name: str) -> damaged_views.Fault:
        def fault(picture: torch.Tensor, level: int, seed: int) -> torch.Tensor:
            met.append(name)
            return picture

        return fault

    counted = {family: {kind: noting(f"{family}/{kind}") for kind in kinds} for family, kinds in FAULTS.items()}
    monkeypatch.setattr(damaged_views, "FAULTS", counted)
    for view in range(300):
        before = len(met)
        DamagedViews(pictures, 300, faults=3, sides=(32, 40), seed=1)[view]
        families = [name.partition("/")[0] for name in met[before:]]
        assert len(set(families)) == 3
    assert set(met) == {f"{family}/{kind}" for family, kinds in FAULTS.items() for kind in kinds}


def test_every_fault_grows_with_its_level_and_styles_are_none(pictures: list[Image.Image]) -> None:
    whole = torch.from_numpy(np.asarray(pictures[1]).copy()).permute(2, 0, 1)[None].float() / 255
    names = [name for kinds in FAULTS.values() for name in kinds]
    assert len(set(names)) == len(names) == 25
    assert "desaturate" not in names  # black and white
    for kinds in FAULTS.values():
        for name, fault in kinds.items():
            away = [float((fault(whole, level, 3).clamp(0, 1) - whole).square().mean()) for level in (1, 3, 5)]
            assert 0 < away[0] < away[1] < away[2], name


def test_half_of_the_views_are_damaged_before_they_are_reduced(
    pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []

    def noting(picture: torch.Tensor, level: int, seed: int) -> torch.Tensor:
        shares.append(max(picture.shape[2:]))
        return picture

    monkeypatch.setattr(damaged_views, "FAULTS", {"noise": {"noted": noting}})
    monkeypatch.setattr(damaged_views, "FAMILIES", ("noise",))
    shown = [max(shown.shape[2:]) for shown, _ in DamagedViews(pictures, 80, faults=1, sides=(32, 40))]
    times = np.array(shares) / np.array(shown)
    assert 25 <= (times == 1).sum() <= 55
    assert 1.2 < times[times > 1].mean() < damaged_views.LARGER
    assert times.max() <= damaged_views.LARGER + 0.05


def test_grey_noise_and_specks_are_alike_in_all_colours_and_as_many_as_said() -> None:
    whole = torch.full((1, 3, 200, 200), 0.5)
    for name in ("grey noise", "specks"):
        away = FAULTS["noise"][name](whole, 3, 1) - whole
        assert torch.equal(away[:, 0], away[:, 1])
        assert torch.equal(away[:, 0], away[:, 2])
    assert float((FAULTS["noise"]["grey noise"](whole, 3, 1) - whole).std()) == pytest.approx(0.1, rel=0.05)
    specks = FAULTS["noise"]["specks"](whole, 3, 1)[0, 0]
    assert float((specks == 0).float().mean()) == pytest.approx(0.02, abs=0.004)
    assert float((specks == 1).float().mean()) == pytest.approx(0.02, abs=0.004)


def test_a_fault_that_changes_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    monkeypatch.setattr(damaged_views, "UNTOUCHED", 1.0)
    monkeypatch.setattr(damaged_views, "FAULTS", {"colour": {"saturate": FAULTS["colour"]["saturate"]}})
    monkeypatch.setattr(damaged_views, "FAMILIES", ("colour",))
    for shown, levels in DamagedViews([grey], 5, faults=1, sides=(32, 40)):
        assert not levels.any()
        assert torch.allclose(shown[0], shown[1], atol=1 / 255)


def test_mistakes_are_named(pictures: list[Image.Image]) -> None:
    with pytest.raises(UsageError, match="images is empty"):
        DamagedViews([], 3)
    with pytest.raises(UsageError, match="count 0 must be at least 1"):
        DamagedViews(pictures, 0)
    with pytest.raises(UsageError, match="faults 9 from 1 to 7"):
        DamagedViews(pictures, 3, faults=9)
    with pytest.raises(UsageError, match=r"sides \(16, 64\)"):
        DamagedViews(pictures, 3, sides=(16, 64))
    with pytest.raises(IndexError):
        DamagedViews(pictures, 3)[3]

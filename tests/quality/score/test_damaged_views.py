"""Views for blind quality: whole first, faults of different families, draws by seed and number, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.quality.score import damaged_views
from binderclip.quality.score.damaged_views import FAULTS, DamagedViews


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Three in colour."""
    found = [sample.image.convert("RGB").resize((160, 120)) for sample in load_data("photographs")]
    return [each for each in found if np.ptp(np.asarray(each).astype(int), axis=-1).mean() > 20][:3]


def test_a_view_is_whole_first_and_the_same_whenever_it_is_asked_for(pictures: list[Image.Image]) -> None:
    views = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=4)
    shown, levels = views[4]
    assert shown.shape[:2] == (3, 3)
    assert levels[0] == 0
    assert all(1 <= level <= 5 for level in levels[1:].tolist())
    for picture, level in zip(shown, levels, strict=True):
        assert torch.equal(picture, shown[0]) == (level == 0)
    again = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=4)
    list(again)
    assert torch.equal(again[4][0], shown)
    other = DamagedViews(pictures, 6, faults=2, sides=(40, 90), seed=5)[4][0]
    assert other.shape != shown.shape or not torch.equal(other, shown)


def test_sizes_are_drawn_and_one_view_in_eight_is_grey(pictures: list[Image.Image]) -> None:
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


def test_a_fault_that_changes_nothing_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = Image.new("RGB", (64, 64), (90, 90, 90))
    monkeypatch.setattr(damaged_views, "FAULTS", {"colour": {"saturate": FAULTS["colour"]["saturate"]}})
    for shown, levels in DamagedViews([grey], 5, faults=1, sides=(32, 40)):
        assert levels.tolist() == [0, 0]
        assert torch.allclose(shown[0], shown[1], atol=1 / 255)


def test_mistakes_are_named(pictures: list[Image.Image]) -> None:
    with pytest.raises(UsageError, match="images is empty"):
        DamagedViews([], 3)
    with pytest.raises(UsageError, match="count 0 must be at least 1"):
        DamagedViews(pictures, 0)
    with pytest.raises(UsageError, match="faults 9 from 1 to 8"):
        DamagedViews(pictures, 3, faults=9)
    with pytest.raises(UsageError, match=r"sides \(16, 64\)"):
        DamagedViews(pictures, 3, sides=(16, 64))
    with pytest.raises(IndexError):
        DamagedViews(pictures, 3)[3]

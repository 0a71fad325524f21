"""How `small-detector` is made and measured, on a few pictures and with a step or two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from binderclip.data import PROCESSING, radial_spectrum
from binderclip.data.augment.fill import gaussian_blur
from binderclip.errors import UsageError
from binderclip.quality import load_detector
from binderclip.quality.forensics.generators import GENERATORS
from binderclip.train.bundled import detector


def test_a_folder_is_trained_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for row in range(6):
        pixels = np.random.default_rng(row).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 70)).save(photographs / f"{row}.png")
    for name, value in {
        "SIDES": (64, 72), "TEST_SIDES": (64,), "TILE": 36, "TILES": 1, "COPIES": 1, "COPY_TRAINING": {"steps": 2},
        "DETECTOR": {"grid": 1, "window": 32, "channels": (4, 4, 4, 4), "stem": 4}, "GRID": 2, "FALSE_ALARMS": 0.25,
        "TRAINING": {"steps": 2, "batch_size": 4, "lr": 1e-3},
    }.items():  # fmt: skip
        monkeypatch.setattr(detector, name, value)
    folder = detector.train_bundled_detector(tmp_path / "made", [str(photographs)])
    found, card = load_detector(folder / "detector.safetensors")
    assert card == json.loads((folder / "card.json").read_text(encoding="utf-8"))
    # Two of six photographs set the threshold; four at two sizes are learned from.
    assert (card["name"], card["real"], card["fake"]) == ("made", 8, 8 * len(GENERATORS))
    assert "4 photographs" in card["how"]
    assert "2 photographs kept back" in card["how"]
    measured = {figures["generator"]: figures for figures in card["check"]["generators"]}
    assert set(measured) == set(card["unseen"]) == set(card["sharpness"]) == set(GENERATORS)
    assert all(figures["seen"] for figures in measured.values())
    assert not any(figures["seen"] for figures in card["unseen"].values())
    assert set(card["false_alarms"]) == {"plain", *PROCESSING}
    assert "diffusion" in card["limits"]
    assert set(card["unfiltered"]) == set(GENERATORS)
    assert set(card["filtered_back"]) == set(PROCESSING)
    assert found.settings["grid"] == 2
    for folders, said in ((["nowhere"], "there is no folder nowhere"), ([str(folder)], "no picture in")):
        with pytest.raises(UsageError, match=said):
            detector.train_bundled_detector(tmp_path / "again", folders)


@pytest.fixture
def real() -> torch.Tensor:
    """Sixteen pictures with structure of all sizes, of the size of squares with their rims."""
    white = torch.randn(16, 3, 168, 168, generator=torch.Generator().manual_seed(0))
    mixed = white * 0.2 + gaussian_blur(white, 1.0) + 3 * gaussian_blur(white, 4.0)
    return (0.5 + 0.15 * mixed / mixed.std()).clamp(0, 1)


def test_copies_are_aligned_as_sharp_as_their_pictures_take_turns_and_are_kept_in_8_bits(real: torch.Tensor) -> None:
    torch.manual_seed(0)
    makers = [detector.CopyingAutoencoder(width=4) for _ in range(2)]
    blurred, matched = detector.copied(real, makers, matched=False), detector.copied(real, makers)
    assert torch.allclose(matched * 255, (matched * 255).round(), atol=1e-3)
    for row in (0, 1):
        assert torch.equal(blurred[row], (makers[row](real[row : row + 1])[0] * 255).round() / 255)
    sharp, of_blurred, of_matched = (detector.sharpness(each) for each in (real, blurred, matched))
    assert bool((of_blurred < 0.3 * sharp).all())  # untrained copies are the mean colours of 4 x 4 pixels
    assert bool((of_matched > 0.4 * sharp).all())  # as far as the largest gain allows
    gaps = [(radial_spectrum(each) / radial_spectrum(real)).log().abs()[..., :20].mean() for each in (blurred, matched)]
    assert float(gaps[1]) < 0.3 * float(gaps[0])


def test_the_rim_is_cut_alike_from_pictures_and_copies_and_grids_start_anywhere() -> None:
    rows, columns = torch.meshgrid(torch.arange(168.0), torch.arange(168.0), indexing="ij")
    places = torch.stack([rows, columns, rows])[None].expand(64, -1, -1, -1)
    found = detector.without_rim(places)
    assert found.shape == (64, 3, 160, 160)
    corners = {tuple(corner) for corner in found[:, :2, 0, 0].int().tolist()}
    assert len({(top % 4, left % 4) for top, left in corners}) == 16
    assert torch.equal(found, detector.without_rim(places))


def test_sharpness_orders_blurs_and_its_area_is_scikit_learn_s(real: torch.Tensor) -> None:
    soft = gaussian_blur(real, 0.7)
    assert bool((detector.sharpness(soft) < detector.sharpness(real)).all())
    other = real[torch.arange(7)] * 0.8
    area = roc_auc_score([1] * 16 + [0] * 7, torch.cat([detector.sharpness(real), detector.sharpness(other)]))
    assert detector.sharpness_auc(real, other) == pytest.approx(area)
    assert detector.sharpness_auc(real, real) == 0.5


def test_the_threshold_holds_after_every_processing(real: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector, "FALSE_ALARMS", 0.1)
    torch.manual_seed(0)
    made = detector.NoiseDetector(grid=1, channels=(4, 4, 4, 4), stem=4).eval()
    found = detector.calibrated(made, real)
    with torch.no_grad():
        for change in [lambda images: images, *PROCESSING.values()]:
            assert (
                int((found.output(change(real)).logit > 0).sum()) <= 1
            )  # 17 * 0.9 = 15.3: the largest may exceed none


def test_squares_lie_inside_and_small_pictures_give_none() -> None:
    rng = np.random.default_rng(0)
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (180, 1))).convert("RGB")
    found = detector.squares(ramp, 640, 2, rng)  # smaller than 640: as it is
    assert [tuple(square.shape) for square in found] == [(3, 168, 168)] * 2
    assert torch.allclose(found[0].diff(dim=2), torch.tensor(1 / 255), atol=1e-6)
    assert detector.squares(ramp, 180, 2, rng) == []

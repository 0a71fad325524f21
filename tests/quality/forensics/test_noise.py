"""The detector of noise in windows: where it looks, that its parts add up, and that no model is behind it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from binderclip.data import Degradation, RealFakeSet
from binderclip.errors import DataError, UsageError
from binderclip.quality import NoiseDetector, load_detector, save_detector, train_detector

SMALL = {"window": 16, "channels": (4, 4, 4, 4), "stem": 4}


def place_picture(height: int, width: int) -> torch.Tensor:
    """A picture whose first channel tells the row and whose second the column."""
    rows, columns = torch.arange(float(height))[:, None], torch.arange(float(width))
    return torch.stack([rows.expand(height, width), columns.expand(height, width), torch.zeros(height, width)])[None]


def test_windows_lie_evenly_from_edge_to_edge() -> None:
    (found,) = NoiseDetector(grid=3, **SMALL).view(place_picture(40, 17))  # type: ignore[arg-type]
    assert found.shape == (1, 9, 3, 16, 16)
    corners = found[0, :, :2, 0, 0].tolist()
    # 40 - 16 = 24 and 17 - 16 = 1 pixels of room, in halves; Python rounds 0.5 to 0
    assert corners == [[top, left] for top in (0, 12, 24) for left in (0, 0, 1)]
    (middle,) = NoiseDetector(grid=1, **SMALL).view(place_picture(40, 18))  # type: ignore[arg-type]
    assert middle[0, 0, :2, 0, 0].tolist() == [12, 1]


def test_training_looks_from_any_phase_and_never_outside() -> None:
    detector = NoiseDetector(grid=2, **SMALL)  # type: ignore[arg-type]
    starts = set()
    for share in torch.linspace(0, 0.999, 40).tolist():
        (found,) = detector.view(place_picture(32, 32), [(share, 0.0)])
        first, last = found[0, 0, 0, 0, 0], found[0, 2, 0, 0, 0]
        starts.add(int(first))
        assert int(last - first) == 8  # of a part of 24 pixels
    assert starts == set(range(9))
    (small,) = detector.view(place_picture(16, 16), [(0.9, 0.9)])  # no room: the whole
    assert small[0, 0, :2, 0, 0].tolist() == [0, 0]


def test_the_logit_is_the_mean_of_those_of_the_windows() -> None:
    torch.manual_seed(0)
    detector = NoiseDetector(grid=2, **SMALL).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 3, 40, 44)
    with torch.no_grad():
        found = detector.output(image)
        one_by_one = [
            detector.output(image[:, :, top : top + 16, left : left + 16]).logit for top in (0, 24) for left in (0, 28)
        ]
    assert torch.allclose(found.logit, torch.stack(one_by_one).mean(0), atol=1e-5)
    assert found.tokens is not None
    assert found.tokens.shape[:2] == (2, 4)
    # Smooth changes of light are no noise: a ramp says what a flat picture says, but for its edges and three channels.
    flat = torch.full((1, 3, 32, 32), 0.5)
    ramp = flat + torch.linspace(0, 1e-5, 32)
    assert torch.allclose(detector.output(flat).logit, detector.output(ramp).logit, atol=1e-3)


def test_training_finds_the_grid_and_the_file_needs_no_model(pairs: RealFakeSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = NoiseDetector(grid=2, **SMALL)  # type: ignore[arg-type]
    train_detector(detector, pairs, steps=25, batch_size=8, lr=5e-3, degradation=Degradation(p=0.0))
    with torch.no_grad():
        logits = torch.cat([detector(pairs.image(row)[None]).diff()[:, 0] for row in range(40)])
    assert roc_auc_score(pairs.labels, logits) > 0.95
    found, card = load_detector(save_detector(detector, tmp_path / "it.safetensors", {"generators": ["grid"]}))
    assert card == {"generators": ["grid"]}
    assert found.model_name == ""
    with torch.no_grad():
        assert torch.allclose(found(pairs.image(3)[None]), detector(pairs.image(3)[None]), atol=1e-5)
    with pytest.raises(UsageError, match="NoiseDetector looks through no model"):
        _ = found.model


def test_maps_cover_whole_windows_and_what_does_not_fit_is_refused() -> None:
    detector = NoiseDetector(grid=3, **SMALL)  # type: ignore[arg-type]
    assert detector.mapped(place_picture(70, 40)[0]).shape == (1, 3, 48, 32)
    assert detector.mapped(place_picture(70, 40)[0])[0, :2, 0, 0].tolist() == [11, 4]
    with pytest.raises(DataError, match="12 x 40 pixels: smaller than a window of 16"):
        detector.view(torch.zeros(1, 3, 12, 40))
    with pytest.raises(DataError, match="smaller than a window"):
        detector.mapped(torch.zeros(3, 40, 12))
    with pytest.raises(UsageError, match="at least 1"):
        NoiseDetector(grid=0)

"""Files of detectors: every kind comes back as it was, and what does not belong is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import DETECTORS, create_detector, load_detector, save_detector
from binderclip.quality.forensics.files import tower_hash

IMAGES = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
SETTINGS = {
    "linear": {"view": "resize"}, "panoptic": {"width": 8, "r": 2},
    "deeclip": {"layers": [0, 1, 2], "width": 8, "r": 2},
    "noise": {"grid": 2, "window": 16, "channels": [4, 4, 4, 4], "stem": 4},
    "aide": {"channels": [4, 4, 4, 4], "window": 16, "stride": 8, "patch_side": 16, "semantic_width": 6, "hidden": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tower: ImageTextModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tower.save(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.mark.parametrize("name", list(DETECTORS))
def test_a_detector_comes_back_as_it_was(name: str, folder: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = create_detector(name, folder, **SETTINGS[name]).eval()
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        wanted = detector(IMAGES)
    path = save_detector(detector, tmp_path / "it.safetensors", {"generators": ["gan"]})
    torch.manual_seed(1)
    found, card = load_detector(path)
    assert type(found) is DETECTORS[name]
    assert card == {"generators": ["gan"]}
    with torch.no_grad():
        assert torch.allclose(found(IMAGES), wanted, atol=1e-5)
    # The model is not in the file: it alone has 6 MB.
    assert path.stat().st_size < 1_000_000
    assert sum(value.numel() for value in found.state_dict().values()) == sum(
        v.numel() for v in detector.state_dict().values()
    )


def test_adapters_do_not_change_the_hash_of_the_tower_and_its_weights_do(tower: ImageTextModel, folder: str) -> None:
    plain, adapted = create_detector("linear", folder), create_detector("panoptic", folder, width=8)
    assert tower_hash(plain) == tower_hash(adapted)
    with torch.no_grad():
        next(iter(plain.model.image_tower.module.parameters())).add_(0.01)
    assert tower_hash(plain) != tower_hash(adapted)


def test_what_does_not_belong_is_refused(folder: str, tower: ImageTextModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'magic' is unknown: one of linear, panoptic, aide, deeclip, noise"):
        create_detector("magic")
    with pytest.raises(UsageError, match="taste"):
        create_detector("linear", folder, taste=1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_detector(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="there is no such file"):
        load_detector(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="no file of a detector"):
        load_detector(tmp_path / "other.safetensors")
    detector = create_detector("linear", folder)
    with torch.no_grad():
        next(iter(detector.state_dict().values())).view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        load_detector(save_detector(detector, tmp_path / "nan.safetensors"))
    detector = create_detector("linear", folder)
    with torch.no_grad():
        next(iter(detector.model.image_tower.module.parameters())).add_(0.01)
    path = save_detector(detector, tmp_path / "changed.safetensors")
    with pytest.raises(CheckpointError, match="other weights"):
        load_detector(path)

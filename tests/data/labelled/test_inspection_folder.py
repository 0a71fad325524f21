"""Folders to inspect: MVTec AD's layout, good beside others, and nothing known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import InspectionFolder, read_mask
from binderclip.data.labelled.inspection_folder import spread_choice
from binderclip.errors import DataError, UsageError


def picture(path: Path, values: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 6), np.uint8) if values is None else values).save(path)
    return path


def test_mvtec_layout(tmp_path: Path) -> None:
    root = tmp_path / "nut"
    learn = picture(root / "train/good/000.png")
    good, bad = picture(root / "test/good/000.png"), picture(root / "test/bent/000.png")
    other = picture(root / "test/bent/001.png")
    mask = picture(root / "ground_truth/bent/000_mask.png")
    for place in (root, root / "test"):
        found = InspectionFolder(place)
        assert found.labelled
        assert found.normal == [learn]
        assert [(e.path, e.damaged, e.kind, e.mask) for e in found.pictures] == [
            (bad, True, "bent", mask),
            (other, True, "bent", None),
            (good, False, "good", None),
        ]
    assert found.leave_out([other, learn]) == 1
    assert len(found) == 2


def test_good_beside_others_and_nothing_known(tmp_path: Path) -> None:
    root = tmp_path / "parts"
    picture(root / "nominal/a.png")
    picture(root / "cracks/deep/b.png")
    picture(root / "c.png")
    mask = picture(root / "ground_truth/cracks/deep/b.png")
    found = InspectionFolder(root)
    assert [(e.path.name, e.damaged, e.kind, e.mask) for e in found.pictures] == [
        ("c.png", None, "", None),
        ("b.png", True, "cracks", mask),
        ("a.png", False, "nominal", None),
    ]
    assert [e.path.name for e in InspectionFolder(root, without=root / "cracks/deep").pictures] == ["c.png", "a.png"]
    plain = InspectionFolder(root / "cracks")
    assert not plain.labelled
    assert [(e.damaged, e.kind) for e in plain.pictures] == [(None, "deep")]
    assert plain.normal == []
    with pytest.raises(UsageError, match="there is no folder"):
        InspectionFolder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        InspectionFolder(tmp_path / "empty")


def test_masks_of_any_depth(tmp_path: Path) -> None:
    truth = np.zeros((4, 6), bool)
    truth[1:3, 2:5] = True
    for name, values in [
        ("grey", truth.astype(np.uint8) * 255),
        ("ones", truth.astype(np.uint8)),
        ("deep", truth.astype(np.uint16) * 65535),
        ("rgb", np.repeat(truth[..., None], 3, axis=2).astype(np.uint8) * 200),
    ]:
        path = picture(tmp_path / f"{name}.png", values)
        assert torch.equal(read_mask(path, (4, 6)), torch.from_numpy(truth)), name
    empty = picture(tmp_path / "empty.png")
    assert not read_mask(empty, (4, 6)).any()
    with pytest.raises(DataError, match="6 x 4 pixels, its picture has 4 x 4"):
        read_mask(empty, (4, 4))
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match="no readable mask"):
        read_mask(tmp_path / "bad.png", (4, 6))


def test_a_choice_is_spread() -> None:
    paths = [Path(str(i)) for i in range(9)]
    assert spread_choice(paths, 3) == [paths[0], paths[4], paths[8]]
    assert spread_choice(paths, 20) == paths
    assert spread_choice(paths, 1) == paths[:1]

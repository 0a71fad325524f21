"""Files say that binderclip wrote them, in a place that every reader of their format passes over or shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from binderclip.tasks.files.maker import MESH_COMMENT, is_ours
from binderclip.tasks.files.writing import write_array, write_json
from binderclip.tasks.report.sheet import save_picture
from binderclip.vision import TriangleMesh


def test_pixels_and_documents_are_what_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for name in ("a.png", "b.webp"):
        save_picture(Image.fromarray(values), tmp_path / name, **({"lossless": True} if name == "b.webp" else {}))
        with Image.open(tmp_path / name) as read:
            assert np.array_equal(np.asarray(read), values)
            assert (read.info.get("Software") or read.getexif()[0x0131]) == "binderclip"
    write_json({"z": 1, "a": [2]}, tmp_path / "a.json")
    assert list(json.loads((tmp_path / "a.json").read_text()).items()) == [
        ("made_by", "binderclip"),
        ("z", 1),
        ("a", [2]),
    ]
    write_array(values, tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), values)


def test_meshes_say_it_by_a_comment(tmp_path: Path) -> None:
    mesh = TriangleMesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    for name in ("a.ply", "a.obj"):
        assert is_ours(mesh.write(tmp_path / name, MESH_COMMENT))
        assert not is_ours(mesh.write(tmp_path / name))
        assert not is_ours(mesh.write(tmp_path / name, "made by another"))


def test_nothing_of_another_is_taken_for_ours(tmp_path: Path) -> None:
    for name, content in {
        "none": None, "empty": b"", "cut.png": b"\x89PNG\r\n", "cut.webp": b"RIFF",
        "a.json": b'{"b": {"made_by": "binderclip"}}', "length": b"\xff" * 8 + b'{"__metadata__":',
        "text": b"made_by binderclip", "list": b'["made_by", "binderclip"]',
    }.items():  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert not is_ours(tmp_path / name, ("image",)), name

"""PLY files: there and back, written by another library's rules, and damaged ones."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

from binderclip.errors import DataError
from binderclip.vision import GaussianScene

NAMES = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "f_rest_0", "opacity", "scale_0", "scale_1", "scale_2"]
NAMES += ["rot_0", "rot_1", "rot_2", "rot_3"]
VALUES = [1.0, 2.0, 3.0, 0.5, -0.25, 0.0, 9.0, 0.0, -1.0, -2.0, -3.0, 2.0, 0.0, 0.0, 0.0]


def written(kind: str, values: list[float] = VALUES, names: list[str] = NAMES, count: int = 1) -> bytes:
    head = ["ply", f"format {kind} 1.0", "comment made by hand", f"element vertex {count}"]
    head += [f"property float {name}" for name in names]
    sign = {"binary_little_endian": "<", "binary_big_endian": ">"}.get(kind)
    text = " ".join(map(str, values)).encode()
    body = text + b"\n" if sign is None else struct.pack(f"{sign}{len(values)}f", *values)
    return "\n".join([*head, "end_header\n"]).encode() + body


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_the_entries_mean_what_they_mean_in_3d_gaussian_splatting(tmp_path: Path, kind: str):
    path = tmp_path / "scene.ply"
    path.write_bytes(written(kind))
    scene = GaussianScene.load(path)
    torch.testing.assert_close(scene.means, torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(scene.scales, torch.tensor([[-1.0, -2.0, -3.0]]).exp())
    torch.testing.assert_close(scene.opacities, torch.tensor([0.5]))
    # 0.5 + 0.5 / sqrt(pi) * f_dc / 1 with the harmonic 1 / (2 sqrt(pi)).
    torch.testing.assert_close(scene.colours, torch.tensor([[0.5 + 0.5 * 0.282095, 0.5 - 0.25 * 0.282095, 0.5]]))
    torch.testing.assert_close(scene.rotations, torch.tensor([[2.0, 0, 0, 0]]))


def test_there_and_back(tmp_path: Path):
    generator = torch.Generator().manual_seed(0)
    scene = GaussianScene(
        torch.randn(7, 3, generator=generator), torch.rand(7, 3, generator=generator) + 0.01,
        torch.randn(7, 4, generator=generator), torch.rand(7, generator=generator),
        torch.rand(7, 3, generator=generator),
    )  # fmt: skip
    scene.save(tmp_path / "a.ply")
    again = GaussianScene.load(tmp_path / "a.ply")
    for name in ("means", "scales", "rotations", "opacities", "colours"):
        torch.testing.assert_close(getattr(again, name), getattr(scene, name), rtol=1e-5, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PK\x03\x04", "is no PLY file"),
        (b"ply\nformat ascii 1.0\n", "is no PLY file"),
        (written("binary_little_endian")[:-3], "is cut short"),
        (written("ascii", VALUES[:-2]), "is cut short"),
        (written("ascii", names=[*NAMES[:7], "unknown", *NAMES[8:]]), "have no opacity"),
        (written("ascii").replace(b"9.0", b"dog"), "is no number"),
        (written("ascii", [float("nan"), *VALUES[1:]]), "x of vertex 0 is not finite"),
        (written("ascii").replace(b"property float x", b"property list uchar int x"), "cannot read a vertex"),
        (written("ascii").replace(b"element vertex 1", b"element vertex -4"), "no number of vertices"),
        (written("ascii").replace(b"element vertex 1", b"element vertex 99999999999"), "no number of vertices"),
        (written("ascii").replace(b"element vertex", b"element face 1\nelement vertex"), "must be its first element"),
        (written("ascii").replace(b"property float y", b"property float x"), "names an entry twice"),
    ],
)
def test_a_damaged_file_is_named_with_its_fault(tmp_path: Path, content: bytes, said: str):
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        GaussianScene.load(path)
    assert "bad.ply" in str(caught.value)
    with pytest.raises(DataError, match="cannot read"):
        GaussianScene.load(tmp_path / "nowhere.ply")

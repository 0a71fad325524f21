"""`binderclip reconstruct`: slices as pictures and as polygons, the mesh that is written, mistakes, an interruption."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import ConvexHull

from binderclip.tasks import reconstruct
from binderclip.tasks.events import Counted, Event, Stopped, StopToken, Warned

Command = Callable[..., Any]


def save_disc(path: Path, radius: float, side: int = 48, mode: str = "L") -> None:
    """A white disc with grey edges on black, or an opaque one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[:side, :side] + 0.5 - side / 2
    values = (255 * (radius + 0.5 - np.hypot(rows, columns)).clip(0, 1)).round().astype(np.uint8)
    if mode == "LA":
        values = np.stack([np.full_like(values, 90), values], -1)
    Image.fromarray(values).save(path)


@pytest.fixture
def cone(tmp_path: Path) -> Path:
    """Discs of radii 20, 18, ... 2 and an empty slice at steps of 4, named so that text order is another one."""
    for number in range(11):
        save_disc(tmp_path / "cone" / f"slice-{number}.png", 20 - 2 * number, mode="LA" if number % 2 else "L")
    return tmp_path / "cone"


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a binary PLY, read by hand."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    assert b"comment made by binderclip" in head
    count, faces = (int(line.split()[-1]) for line in head.decode().splitlines() if line.startswith("element"))
    vertices = np.frombuffer(body, "<f4", count * 3).reshape(-1, 3)
    rows = np.frombuffer(body[count * 12 :], np.dtype([("n", "u1"), ("v", "<i4", 3)]), faces)
    assert (rows["n"] == 3).all()
    assert len(body) == count * 12 + faces * struct.calcsize("<B3i")
    return vertices, rows["v"]


def test_a_cone_has_its_volume_and_keeps_its_slices(command: Command, cone: Path) -> None:
    done = command("reconstruct", cone, "--spacing", "4", "--resolution", "48", "--json")
    assert done.code == 0, done.err
    document = done.json()
    vertices, faces = read_ply(Path(document["mesh"]))
    a, b, c = (vertices[faces[:, corner]].astype(float) for corner in range(3))
    volume = float((a * np.cross(b, c)).sum() / 6)
    assert document["volume"] == pytest.approx(volume, rel=1e-4)
    # Between discs of radii that fall evenly lies the cone itself; its tip is a fifth of a thousandth.
    assert volume == pytest.approx(math.pi * 20**2 * 40 / 3, rel=0.01)
    assert document["watertight"]
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    assert len(vertices) - len(np.unique(edges, axis=0)) + len(faces) == 2  # Euler: one closed surface
    assert [Path(row["name"]).name for row in document["slices"]] == [f"slice-{n}.png" for n in range(11)]
    assert [row["height"] for row in document["slices"]] == [4.0 * n for n in range(11)]
    assert document["slices"][0]["area"] == pytest.approx(math.pi * 400, rel=0.01)
    assert min(row["kept"] for row in document["slices"]) > 0.9
    assert document["kept"] > 0.97
    with Image.open(document["picture"]) as picture:
        assert np.asarray(picture.convert("L")).min() < 150


def test_a_corrupt_slice_leaves_out_its_height(command: Command, cone: Path) -> None:
    (cone / "slice-3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = command("reconstruct", cone, "--spacing", "4", "--resolution", "24", "--out", "solid.obj", "--json")
    assert done.code == 0, done.err
    assert "no slice at height 12" in " ".join(done.err.split())
    document = done.json()
    assert [row["height"] for row in document["slices"]] == [0, 4, 8, *range(16, 41, 4)]
    lines = Path("solid.obj").read_text().splitlines()
    assert lines[0] == "# made by binderclip"
    assert document["faces"] == sum(line.startswith("f ") for line in lines)
    # Ours is replaced, another's is not.
    assert command("reconstruct", cone, "--spacing", "4", "--resolution", "16", "--out", "solid.obj").code == 0
    Path("solid.obj").write_text("v 0 0 0\n")
    again = command("reconstruct", cone, "--spacing", "4", "--out", "solid.obj")
    assert "binderclip did not write it" in " ".join(again.err.split())
    named = [cone / f"slice-{number}.png" for number in (2, 3, 4)]
    assert command("reconstruct", *named, "--spacing", "0,3,7.5", "--resolution", "16", "--out", "b.ply").code == 1


def test_polygons_lie_where_the_file_says(command: Command, tmp_path: Path) -> None:
    square = [[0, 0], [4, 0], [4, 4], [0, 4]]
    hole = [[1, 1], [3, 1], [3, 3], [1, 3]]
    slices = [
        {"height": 2, "contours": [square, hole]},
        # The same plane family, said in another way: x to the north, y to the west.
        {"origin": [4, 0, 5], "axes": [[0, 1, 0], [-1, 0, 0]], "contours": [square, hole]},
    ]
    Path("slices.json").write_text(json.dumps({"slices": slices}))
    document = command("reconstruct", "slices.json", "--resolution", "64", "--json").json()
    assert document["method"] == "distances"
    assert document["volume"] == pytest.approx(3 * (16 - 4), rel=0.01)
    vertices, _ = read_ply(Path(document["mesh"]))
    assert vertices.min(0).tolist() == pytest.approx([0, 0, 2], abs=0.05)
    assert vertices.max(0).tolist() == pytest.approx([4, 4, 5], abs=0.05)


def test_planes_that_cross_are_fitted_by_a_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    angles = np.arange(40) * 2 * math.pi / 40
    circle = (5 * np.stack([np.cos(angles), np.sin(angles)], 1)).tolist()
    axes = [[[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1]]]
    document = {"slices": [{"origin": [0, 0, 0], "axes": each, "contours": [circle]} for each in axes]}
    Path("great.json").write_text(json.dumps(document))
    asked = {"slices": ["great.json"], "levels": 2, "epochs": 12, "width": 32, "resolution": 32}
    result = reconstruct(**asked)
    assert result.method == "field"
    assert result.watertight
    # The field has to be outside of the hull of the three circles, 1.05 times as large, and knows no more of it.
    corners = np.concatenate([np.array(circle) @ np.array(each) for each in axes])
    assert result.volume == pytest.approx(ConvexHull(corners).volume, rel=0.25)
    assert min(row.kept for row in result.rows) > 0.85

    # Stopped in the first level, the mesh is that of the epochs that are over.
    events: list[Event] = []
    stop = StopToken()

    def hear(event: Event) -> None:
        events.append(event)
        if isinstance(event, Counted) and event.message == "epoch" and event.done == 10:
            stop.stop()

    request = reconstruct.request(**asked, out="stopped.ply")
    with pytest.raises(Stopped):
        reconstruct.run(request, progress=hear, stop=stop)
    vertices, faces = read_ply(Path("stopped.ply"))
    assert len(vertices) > 100
    assert faces.max() == len(vertices) - 1
    assert not any(isinstance(event, Warned) for event in events)  # nobody listens any more


@pytest.mark.parametrize(
    ("words", "place", "text"),
    [
        ([], "interpolated_surface", "interrupted before the surface was whole: no mesh was written"),
        (["--method", "field"], "SliceField.fit", "interrupted after 0 of 90 epochs: no mesh was written"),
        (["--resolution", "16"], "shaded_view", "the mesh solid.ply is whole, and was not compared with the slices"),
    ],
)
def test_an_interruption_says_what_there_is(
    command: Command, cone: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], place: str, text: str
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"binderclip.tasks.verbs.reconstruct.run.{place}", press)
    done = command("reconstruct", cone, "--spacing", "4", *words)
    assert done.code == 130
    assert text in " ".join(done.err.split())
    assert Path("solid.ply").exists() == ("is whole" in text)


def test_mistakes_are_said_before_any_work(command: Command, cone: Path, tmp_path: Path) -> None:
    for number in range(2):
        save_disc(tmp_path / "black" / f"{number}.png", -1.0)
    Path("text.json").write_text("[1]")
    Path("bad.json").write_text('{"slices": [{"height": 0, "contours": [[[1, 2], [3, 4]]]}]}')
    Path("twice.json").write_text('{"slices": [{"height": 0}, {"height": 1, "origin": [0, 0, 0]}]}')
    square = [[0, 0], [1, 0], [1, 1]]
    Path("level.json").write_text(json.dumps({"slices": 2 * [{"height": 0, "contours": [square]}]}))
    cases: list[tuple[list[Any], str]] = [
        ([cone], "--spacing is missing"),
        ([cone, "--spacing", "1,2"], "has 2 heights for 11 pictures"),
        ([cone, "--spacing", "0"], "must be above 0"),
        ([cone, "--spacing", "3,2,1"], "must increase"),
        ([cone, "--spacing", "nan"], "write the distance"),
        ([cone / "slice-0.png", "--spacing", "1"], "at least two slices"),
        ([tmp_path / "black", "--spacing", "1"], "every slice is empty"),
        ([cone, "--spacing", "1", "--out", "solid.stl"], ".ply or .obj"),
        ([cone, "--spacing", "1", "--method", "voxels"], "distances, field"),
        (["text.json"], "must be an object"),
        (["bad.json"], "at least 3 vertices"),
        (["twice.json"], "slice 2: give"),
        (["level.json"], "one height"),
        (["level.json", "--spacing", "2"], "are for pictures"),
        (["missing.json"], "there is no file"),
    ]
    for words, message in cases:
        done = command("reconstruct", *words)
        assert done.code != 0, words
        assert message in " ".join(done.err.split()), (words, done.err)
        assert not Path("solid.ply").exists()


def test_the_solid_may_be_black_and_slices_of_two_sizes(command: Command, tmp_path: Path) -> None:
    for number, side in enumerate((20, 30)):
        values = np.full((side, side), 255, np.uint8)
        values[side // 2 - 5 : side // 2 + 5, side // 2 - 5 : side // 2 + 5] = 0
        (tmp_path / "dark").mkdir(exist_ok=True)
        Image.fromarray(values).save(tmp_path / "dark" / f"{number}.png")
    done = command("reconstruct", "dark", "--invert", "--spacing", "6", "--resolution", "48", "--json")
    assert "slices are of 2 sizes (20 x 20, 30 x 30)" in " ".join(done.err.split())
    assert done.json()["volume"] == pytest.approx(600, rel=0.01)

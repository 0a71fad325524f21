"""The tab Reconstruct: the mesh of the verb, of slices in the order of their numbers; mistakes; and in the browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Counted, Event, listening


@pytest.fixture
def cone(tmp_path: Path) -> list[Path]:
    """Discs of radii 20, 18, ... 2 and an empty slice, in an order that is not that of their numbers."""
    rows, columns = np.mgrid[:48, :48] - 23.5
    for number in range(11):
        inside = np.hypot(rows, columns) < 20 - 2 * number
        folder = tmp_path / "uploads" / str((7 * number) % 11)  # each upload lies in a folder of its own
        folder.mkdir(parents=True)
        Image.fromarray((255 * inside).astype(np.uint8)).save(folder / f"slice-{number}.png")
    return sorted((tmp_path / "uploads").glob("*/*.png"))


def solid(run: Any, files: list[Path] | None, document: Path | None = None, kind: str = ".ply", **options: Any) -> Any:
    from binderclip.workbench.tabs.make.reconstruct import FORM, work

    given = {"spacing": "4", "invert": False, "resolution": 32, **options}
    paths = None if files is None else [str(path) for path in files]
    return work(
        run, paths, None, None if document is None else str(document), kind, *(given.get(name) for name in FORM.names)
    )


def test_the_mesh_is_that_of_the_verb(cone: list[Path], run_of: Any, command: Any, lines: Any, tmp_path: Path) -> None:
    outcome = solid(run_of(), cone)
    assert [path.name for path in outcome.files] == ["solid.ply", "solid.png", "slices.csv"]
    assert outcome.values[0] == str(outcome.files[1])
    assert "watertight" in outcome.values[1]
    assert "<td>slice-10.png</td>" in outcome.values[1]
    # Eleven names are too many for a line: the folder that it names sorts by number, as the page did.
    (tmp_path / "pictures").mkdir()
    for path in cone:
        shutil.copy(path, tmp_path / "pictures")
    document = command(*lines.words(outcome.again.shell), "--json").json()
    assert document["volume"] == pytest.approx(np.pi * 20**2 * 40 / 3, rel=0.1)
    assert (tmp_path / "solid.ply").read_bytes() == outcome.files[0].read_bytes()


def test_polygons_say_themselves_where_they_lie(run_of: Any, tmp_path: Path) -> None:
    square = [[0, 0], [10, 0], [10, 10], [0, 10]]
    path = tmp_path / "box.json"
    path.write_text(json.dumps({"slices": [{"height": height, "contours": [square]} for height in (0, 5, 10)]}))
    outcome = solid(run_of(), None, path, ".obj", invert=True)
    assert outcome.files[0].read_text().startswith("#")
    assert "slice 3" in outcome.values[1]
    assert "--spacing" not in outcome.again.shell


def test_mistakes_are_said_as_the_page_has_them(cone: list[Path], run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose pictures first"):
        solid(run_of(), None)
    with pytest.raises(UsageError, match="at least two slices"):
        solid(run_of(), cone[:1])
    with pytest.raises(UsageError, match="Pixels from a slice to the next, or all heights is missing"):
        solid(run_of(), cone, spacing=" ")
    with pytest.raises(UsageError, match="all heights 'far'"):
        solid(run_of(), cone, spacing="far")
    with pytest.raises(UsageError, match=r"format of the mesh is .ply or .obj"):
        solid(run_of(), cone, kind=".exe")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no")
    with pytest.raises(DataError, match=r"broken\.png: not an image.*; give another slice"):
        solid(run_of(), [broken])
    outcome = solid(run_of(), [*cone, broken])
    assert outcome.said == "1 picture could not be read."
    assert "broken.png" in outcome.values[1]


def test_a_fit_that_is_stopped_leaves_its_last_mesh(run_of: Any, tmp_path: Path) -> None:
    angles = np.arange(40) * 2 * np.pi / 40
    circle = (5 * np.stack([np.cos(angles), np.sin(angles)], 1)).tolist()
    axes = [[[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 0, 1]]]
    path, run = tmp_path / "ball.json", run_of()
    path.write_text(
        json.dumps({"slices": [{"origin": [0, 0, 0], "axes": each, "contours": [circle]} for each in axes]})
    )

    def stop(event: Event) -> None:
        if isinstance(event, Counted) and event.message == "epoch" and event.done == 13:  # of the second level
            raise KeyboardInterrupt

    with listening(stop), pytest.raises(KeyboardInterrupt):
        solid(run, None, path, method="field", levels=2, epochs=12, width=32)
    assert [path.name for path in run._job.left.files] == ["solid.ply"]


def test_slices_become_a_solid_that_is_seen(view: Any, cone: list[Path]) -> None:
    panel = view.tab("Reconstruct")
    view.drop(panel, *cone)
    assert view.run(panel, "Reconstruct").startswith("Done in")
    view.loaded(panel.locator("img").first)
    assert "--spacing 4" in view.lines(panel)[0]
    assert view.look("reconstruct") == []
    assert view.axe() == []

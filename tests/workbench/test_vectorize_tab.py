"""The tab Vectorise: drawings of the verb beside their pictures, seen while paths are added, as SVG and PNG."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from binderclip.errors import DataError
from binderclip.tasks.events import listening
from binderclip.tasks.verbs.draw.growing import Looks


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of a disc, and a file that is none."""
    folder = tmp_path_factory.mktemp("discs")
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        picture = Image.new("RGB", (40, 30), "white")
        ImageDraw.Draw(picture).ellipse((10, 5, 30, 25), fill=colour)
        picture.save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no")
    return [folder / f"{name}.png" for name in ("red", "blue", "broken")]


def drawn(run: Any, files: list[Path], **options: Any) -> Any:
    from binderclip.workbench.tabs.make.vectorize import FORM, work

    given = {"paths": 2, "steps": 4, **options}
    with listening(run.hear):  # as the page does
        return work(run, [str(path) for path in files], None, *(given.get(name) for name in FORM.names))


def test_drawings_are_those_of_the_verb(
    discs: list[Path], run_of: Any, command: Any, lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = run_of(), list[str]()
    monkeypatch.setattr(run, "show", lambda *values: seen.append(values[0]))
    monkeypatch.setattr("binderclip.workbench.tab.LOOK_AGAIN", 0.0)
    outcome = drawn(run, discs)
    assert len(set(seen)) == 16
    assert outcome.values[1].count("<img") == 4
    assert "broken.png" in outcome.values[1]
    assert outcome.said == "1 picture could not be read."
    names = ["red.svg", "red.png", "blue.svg", "blue.png", "table.csv"]
    assert [path.name for path in outcome.files] == names
    for path in discs:
        shutil.copy(path, tmp_path)
    assert command(*lines.words(outcome.again.shell)).code == 1  # a picture that was named could not be read
    for path in outcome.files[:4]:
        assert (tmp_path / "vectorized" / path.name).read_bytes() == path.read_bytes()


def test_what_was_drawn_so_far_is_left(discs: list[Path], run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, after_step = run_of(), Looks.after_step

    def stopped(looks: Looks, step: int) -> None:
        after_step(looks, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Looks, "after_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        drawn(run, discs)
    assert [path.name for path in run._job.left.files] == ["red.png", "red.svg"]
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        drawn(run_of(), discs[2:])

"""The tab Quality: the order of the verb, worst first, with its files; originals; what cannot be judged."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFilter

from binderclip.errors import DataError, UsageError


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory, photographs: Path) -> Path:
    """The photographs, two of them blurred, under their own names."""
    folder = tmp_path_factory.mktemp("blurred")
    for path in photographs.iterdir():
        with Image.open(path) as picture:
            radius = {"cat.jpg": 4, "coffee.jpg": 1}.get(path.name, 0)
            picture.filter(ImageFilter.GaussianBlur(radius)).save(folder / path.name, quality=95)
    return folder


def judge(run: Any, files: Any = None, folder: Any = None, originals: Any = None, **options: Any) -> Any:
    from binderclip.workbench.tabs.quality import work

    given = {"by": "quality", "scores": ["quality", "sharpness"], "better": "", "worse": "", **options}
    names = None if files is None else [str(path) for path in files]
    theirs = None if originals is None else [str(path) for path in originals]
    return work(
        run, names, folder, given["by"], given["scores"], given["better"], given["worse"], theirs, None,
        given.get("distance", "st-lpips"), given.get("side", 128),
    )  # fmt: skip


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("by", ["quality", "sharpness"])
def test_pictures_are_ordered_as_by_the_verb(
    photographs: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path, by: str
) -> None:
    run = run_of(folders=[photographs])
    outcome = judge(run, folder=str(photographs), by=by)
    rows = rows_in(outcome.files[0])
    assert [path.name for path in outcome.files] == ["scores.csv", "sheet.png"]
    assert sorted(row["image"] for row in rows) == ["astronaut.jpg", "cat.jpg", "coffee.jpg", "rocket.jpg"]
    # The line of shell, and the line of Python, order them alike.
    said = command(*lines.words(outcome.again.shell), "--json").json()["images"]
    assert [Path(each["image"]).name for each in said] == [row["image"] for row in rows]
    assert [each["scores"][by] for each in said] == pytest.approx([float(row[by]) for row in rows], abs=2e-3)
    printed = lines.python(outcome.again.python, tmp_path)
    assert re.findall(r"(\w+\.jpg)", printed) == [row["image"] for row in rows]
    page = outcome.values[0]
    assert re.findall(r"<figcaption>(\w+\.jpg)<", page) == [row["image"] for row in rows]
    # Which column is what, and what small does not know.
    assert "Quality comes from lite0-quality" in outcome.values[1]
    assert "(p012)" in outcome.values[1]


def test_words_of_ones_own_order(photographs: Path, run_of: Any, command: Any, lines: Any) -> None:
    names = ("cat.jpg", "coffee.jpg", "rocket.jpg")
    outcome = judge(run_of(), [photographs / name for name in names], better="a cat", worse="a cup", scores=[])
    rows = rows_in(outcome.files[0])
    for name in names:
        shutil.copy(photographs / name, name)
    said = command(*lines.words(outcome.again.shell), "--json").json()
    assert said["by"] == "a cat"
    assert said["pairs"]["a cat"] == ["a cat", "a cup"]
    assert [row["image"] for row in rows] == [each["image"] for each in said["images"]]
    # Not the order of the other column.
    assert [row["image"] for row in rows] != [r["image"] for r in sorted(rows, key=lambda r: float(r["quality"]))]
    with pytest.raises(UsageError, match="both words of your own"):
        judge(run_of(), [photographs / "cat.jpg"], better="a cat")


def test_what_was_changed_most_is_farthest_from_its_original(
    photographs: Path, blurred: Path, run_of: Any, command: Any, lines: Any
) -> None:
    outcome = judge(run_of(), sorted(blurred.iterdir()), originals=sorted(photographs.iterdir()))
    rows = rows_in(outcome.files[0])
    assert [row["image"] for row in rows[:2]] == ["cat.jpg", "coffee.jpg"]
    assert float(rows[2]["distance"]) < 0.5 * float(rows[1]["distance"])
    shutil.copytree(blurred, "pictures")
    shutil.copytree(photographs, "originals")
    images = command(*lines.words(outcome.again.shell), "--json").json()["images"]
    said = {Path(each["image"]).name: each["distance"] for each in images}
    assert said == pytest.approx({row["image"]: float(row["distance"]) for row in rows}, abs=1e-4)
    printed = lines.python(outcome.again.python, Path.cwd())
    assert re.findall(r"pictures/(\w+\.jpg)", printed) == [row["image"] for row in rows]


def test_a_picture_without_an_original_is_named(photographs: Path, blurred: Path, run_of: Any) -> None:
    run = run_of()
    outcome = judge(run, sorted(blurred.iterdir()), originals=[photographs / "cat.jpg"])
    assert len(rows_in(outcome.files[0])) == 1
    assert outcome.said == "3 pictures could not be read."
    assert "<td>coffee.jpg</td>" in outcome.values[1].split("<span>Left out</span>")[1]
    assert str(run.folder) not in outcome.values[1]
    with pytest.raises(DataError, match=r"coffee\.jpg: no picture of this name"):
        judge(run_of(), [blurred / "coffee.jpg"], originals=[photographs / "cat.jpg"])


def test_mistakes_are_said_and_a_broken_picture_is_left_out(photographs: Path, run_of: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="choose pictures first"):
        judge(run_of())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        judge(run_of(), [broken])
    outcome = judge(run_of(), [broken, photographs / "cat.jpg"])
    assert outcome.said == "1 picture could not be read."
    assert "<td>broken.png</td>" in outcome.values[1]


def test_from_dropped_pictures_to_the_worst(view: Any, photographs: Path) -> None:
    panel = view.tab("Quality")
    assert view.run(panel, "Judge") == "choose pictures first, or a folder"
    view.drop(panel, *sorted(photographs.iterdir()))
    assert view.run(panel, "Judge").startswith("Done in")
    view.loaded(panel.locator(".gallery img").first)
    assert panel.locator(".gallery img").count() == 4
    assert panel.locator(".table-box tbody tr").count() == 4
    assert view.look("quality") == []
    assert view.axe() == []
    assert view.lines(panel)[0].startswith("binderclip quality astronaut.jpg cat.jpg")

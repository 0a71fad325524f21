"""The tab Detect: a detector is trained on a folder, looks at pictures as the verb does, and is no other's."""

from __future__ import annotations

import ast
import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError


@pytest.fixture(scope="module")
def tiny(tiny_clip: Callable[[int], Path]) -> str:
    """A model of two blocks."""
    return str(tiny_clip(2))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures, and copies of them with a strong grid."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    for name in ("0_real", "1_fake/grid"):
        (folder / name).mkdir(parents=True)
    for row in range(16):
        colours = Image.fromarray(rng.integers(0, 150, (4, 4, 3), dtype=np.uint8))
        smooth = colours.resize((44, 36), Image.Resampling.BILINEAR)
        smooth.save(folder / "0_real" / f"{row}.png")
        grid = np.asarray(smooth).astype(int) + 90 * (np.arange(44) % 2)[None, :, None]
        Image.fromarray(grid.clip(0, 255).astype(np.uint8)).save(folder / "1_fake" / "grid" / f"grid-{row}.png")
    return folder


def learned(run: Any, data: Path, **options: Any) -> Any:
    from binderclip.workbench.tabs.detect import learn

    given = {"method": "linear", "hold_out": "", "steps": 60, **options}
    return learn(run, str(data), **given)


def looked(run: Any, detector: str | None, files: Any = None, folder: Any = None) -> Any:
    from binderclip.workbench.tabs.detect import work

    return work(run, None if files is None else [str(path) for path in files], folder, detector)


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_detector_is_trained_and_looks_at_pictures_as_by_the_verb(
    pairs: Path, tiny: str, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    run = run_of(tiny, folders=[pairs])
    done = learned(run, pairs)
    figures, choice = done.values
    assert "<td>grid</td><td>yes</td>" in figures
    assert choice["value"] == str(done.files[0])
    # The line of shell trains the same detector.
    card = command(*lines.words(done.again.shell), "--json").json()
    assert card["generators"] == ["grid"]
    pictures = [pairs / "0_real" / "0.png", pairs / "1_fake/grid/grid-1.png"]
    found = looked(run, choice["value"], pictures)
    rows = rows_in(found.files[0])
    assert [row["image"] for row in rows] == ["grid-1.png", "0.png"]
    for path in pictures:
        shutil.copy(path, tmp_path)
    said = command(*lines.words(found.again.shell), "--json").json()["images"]
    assert [each["image"] for each in said] == [row["image"] for row in rows]
    assert [each["logit"] for each in said] == pytest.approx([float(row["logit"]) for row in rows], abs=1e-3)
    printed = ast.literal_eval(lines.python(found.again.python, tmp_path).splitlines()[-1])
    assert [each["image"] for each in printed["images"]] == [row["image"] for row in rows]
    assert found.values[0].count("<img") == 4
    assert "is no proof" in found.values[1]


def test_a_folder_that_says_the_truth_is_measured(pairs: Path, tiny: str, run_of: Any) -> None:
    run = run_of(tiny, folders=[pairs])
    detector = str(learned(run, pairs, steps=10).files[0])
    assert "<span>By generator</span>" in looked(run, detector, folder=str(pairs)).values[1]
    assert "<span>By generator</span>" not in looked(run_of(), detector, [pairs / "0_real/0.png"]).values[1]


def test_the_bundled_detector_looks_by_its_name_and_its_limits_are_on_the_page(
    pairs: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    with Image.open(pairs / "1_fake/grid/grid-1.png") as picture:
        picture.resize((132, 108), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    found = looked(run_of(), "small-detector", [tmp_path / "large.png"])
    assert "nobody has measured it on diffusion models" in found.values[1]
    said = command(*lines.words(found.again.shell), "--json").json()["images"]
    assert said[0]["logit"] == pytest.approx(float(rows_in(found.files[0])[0]["logit"]), abs=1e-3)
    assert "large.png" in lines.python(found.again.python, tmp_path)


def test_no_other_file_is_a_detector(pairs: Path, tiny: str, run_of: Any, tmp_path: Path) -> None:
    run = run_of(tiny, folders=[pairs])
    detector = learned(run, pairs, steps=10).files[0]
    elsewhere = shutil.copy(detector, tmp_path / "elsewhere.safetensors")
    for wrong in (str(elsewhere), f"{pairs}/../elsewhere.safetensors", "/etc/passwd"):
        with pytest.raises(UsageError, match="is no detector in the folders"):
            looked(run, wrong, [pairs / "0_real/0.png"])
    with pytest.raises(UsageError, match="train a detector first"):
        looked(run, None, [pairs / "0_real/0.png"])
    with pytest.raises(UsageError, match="was not opened on"):
        learned(run, tmp_path)


def test_mistakes_are_said_and_a_broken_picture_is_left_out(
    pairs: Path, tiny: str, run_of: Any, tmp_path: Path
) -> None:
    run = run_of(tiny, folders=[pairs])
    with pytest.raises(UsageError, match=r"0_real"):
        learned(run, pairs / "0_real")
    with pytest.raises(UsageError, match="sdxl"):
        learned(run, pairs, hold_out="sdxl")
    detector = str(learned(run, pairs, steps=10).files[0])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        looked(run, detector, [broken])
    outcome = looked(run_of(), detector, [broken, pairs / "0_real/0.png"])
    assert outcome.said == "1 picture could not be read."
    assert "<td>broken.png</td>" in outcome.values[1]


def test_the_page_looks_with_the_bundled_detector_and_tells_its_limits(view: Any, photographs: Path) -> None:
    panel = view.tab("Detect")
    assert view.run(panel, "Detect") == "choose pictures first, or a folder"
    view.drop(panel, photographs / "cat.jpg")
    assert view.run(panel, "Detect").startswith("Done in")
    assert panel.get_by_text("nobody has measured it on diffusion models").count() == 1
    panel.get_by_text("Train a detector", exact=True).first.click()
    panel.get_by_label("Generators to test on only").wait_for()
    assert view.look("detect") == []
    assert view.axe() == []

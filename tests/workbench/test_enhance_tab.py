"""The tab Enhance: an enhancer is trained on two folders, enhances pictures as the verb does, and is no other's."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.quality import load_enhancer


@pytest.fixture(scope="module")
def tiny(tiny_clip: Callable[[int], Path]) -> str:
    """A model of two blocks."""
    return str(tiny_clip(2))


@pytest.fixture(scope="module")
def lights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures, dark ones in one folder and bright ones in another."""
    folder = tmp_path_factory.mktemp("lights")
    rng = np.random.default_rng(0)
    for name, most in (("dark", 60), ("bright", 255)):
        (folder / name).mkdir()
        for row in range(3):
            colours = Image.fromarray(rng.integers(0, most, (4, 4, 3), dtype=np.uint8))
            colours.resize((44, 36), Image.Resampling.BILINEAR).save(folder / name / f"{name}-{row}.png")
    return folder


def learned(run: Any, dark: Path, bright: Path | None, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.enhance import learn

    given = {"method": "rave", "steps": 12, "content": 5.0, **options}
    return learn(run, str(dark), None if bright is None else str(bright), **given)


def enhanced(run: Any, enhancer: str | None, files: Any = None, folder: Any = None) -> Any:
    from binderclip.workbench.tabs.make.enhance import work

    return work(run, None if files is None else [str(path) for path in files], folder, enhancer)


def test_an_enhancer_is_trained_and_enhances_as_by_the_verb(
    lights: Path, tiny: str, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    run = run_of(tiny, folders=[lights])
    done = learned(run, lights / "dark", lights / "bright")
    said, choice = done.values
    assert "3 pictures that lack light and 3 others" in said
    assert choice["value"] == str(done.files[0])
    # The line of shell trains the same enhancer, in the folder that it names.
    assert command(*lines.words(done.again.shell), "--json").json()["training"]["steps"] == 12
    (one, card), (other, same_card) = map(load_enhancer, (done.files[0], tmp_path / "enhanced/enhancer.safetensors"))
    assert card == same_card
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    shutil.copy(tmp_path / "enhanced" / "enhancer.safetensors", tmp_path / "mine.safetensors")
    shutil.rmtree(tmp_path / "enhanced")
    pictures = [lights / "dark" / f"dark-{row}.png" for row in (0, 2)]
    found = enhanced(run, choice["value"], pictures)
    assert found.values[0].count("<img") == 4
    made = [path for path in (run.folder / "enhanced").iterdir() if path.stem.startswith("dark")]
    assert len(made) == 2
    for path in pictures:
        shutil.copy(path, tmp_path)
    rows = command(*lines.words(found.again.shell), "--json").json()["images"]
    for path in made:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(tmp_path / "enhanced" / path.name)))
    shutil.rmtree(tmp_path / "enhanced")
    printed = ast.literal_eval(lines.python(found.again.python, tmp_path).splitlines()[-1])
    assert [row["mean_after"] for row in printed["images"]] == pytest.approx(
        [row["mean_after"] for row in rows], abs=1e-4
    )
    assert all(row["mean_after"] != row["mean"] for row in rows)


def test_no_other_file_is_an_enhancer(lights: Path, tiny: str, run_of: Any, tmp_path: Path) -> None:
    run = run_of(tiny, folders=[lights])
    enhancer = learned(run, lights / "dark", lights / "bright", steps=1).files[0]
    elsewhere = shutil.copy(enhancer, tmp_path / "elsewhere.safetensors")
    picture = lights / "dark" / "dark-0.png"
    for wrong in (str(elsewhere), f"{lights}/../elsewhere.safetensors", "/etc/passwd"):
        with pytest.raises(UsageError, match="is no enhancer in the folders"):
            enhanced(run, wrong, [picture])
    with pytest.raises(UsageError, match="train an enhancer first"):
        enhanced(run, None, [picture])
    with pytest.raises(UsageError, match="was not opened on"):
        learned(run, lights / "dark", tmp_path)
    with pytest.raises(UsageError, match="well-lit pictures, and choose"):
        learned(run, lights / "dark", None)


def test_mistakes_are_said_and_a_broken_picture_is_left_out(
    lights: Path, tiny: str, run_of: Any, tmp_path: Path
) -> None:
    run = run_of(tiny, folders=[lights])
    (lights / "none").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="no picture"):
        learned(run, lights / "none", lights / "bright")
    enhancer = str(learned(run, lights / "dark", lights / "bright", steps=1).files[0])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        enhanced(run, enhancer, [broken])
    outcome = enhanced(run_of(folders=[lights]), enhancer, [broken, lights / "dark" / "dark-0.png"])
    assert outcome.said == "1 picture could not be read."
    assert "<td>broken.png</td>" in outcome.values[1]


def test_the_page_says_what_is_missing(view: Any, photographs: Path) -> None:
    panel = view.tab("Enhance")
    view.drop(panel, photographs / "cat.jpg")
    assert view.run(panel, "Enhance") == "train an enhancer first, or choose the file of one"
    panel.get_by_text("Train an enhancer", exact=True).first.click()
    panel.get_by_label("Folder of well-lit pictures").wait_for()
    assert view.look("enhance") == []
    assert view.axe() == []

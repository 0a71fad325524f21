"""The tab Foveate: the point that is clicked, what the verb writes for it, mistakes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.workbench.commands import Equivalent


def seen(run: Any, file: object, at: str, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.foveate import FORM, work

    return work(run, None if file is None else str(file), at, *(options.get(name) for name in FORM.names))


def test_a_click_is_a_pixel_of_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from binderclip.workbench.tabs.make.foveate import marked

    Image.new("RGB", (2700, 1800), "navy").save(tmp_path / "large.png")
    (tmp_path / "made").mkdir()
    path, words = marked(tmp_path / "large.png", (299, 0), tmp_path / "made")
    assert words == "898,1"  # the middle of three pixels, numbered from 0
    with Image.open(path) as shown:
        assert shown.size == (900, 600)
        assert shown.getpixel((299, 1))[0] > 180
    assert marked(tmp_path / "large.png", None, tmp_path / "made")[1] == "50%,50%"
    assert marked(tmp_path / "large.png", (899, 599), tmp_path / "made")[1] == "2698,1798"


def test_it_is_the_verb(run_of: Any, command: Any, lines: Any, tmp_path: Path) -> None:
    Image.effect_noise((64, 48), 90).convert("RGB").save(tmp_path / "noise.png")
    outcome = seen(run_of(), tmp_path / "noise.png", "10,12 50%,50%", method="texture", block=4)
    assert outcome.values[0].count("<img") == 4
    assert [path.name for path in outcome.files] == ["table.csv", "foveated.zip", "noise-1.png"]
    assert isinstance(outcome.again, Equivalent)
    document = command(*lines.words(outcome.again.shell), "--json").json()
    assert [row["x"] for row in document["images"]] == [10, 31.5]
    with zipfile.ZipFile(outcome.files[1]) as packed:
        for name in ("noise-1.png", "noise-2.png", "noise-1-regions.png"):
            assert packed.read(name) == Path("foveated", name).read_bytes()


def test_mistakes_are_said_as_the_page_has_them(run_of: Any, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="choose a picture first"):
        seen(run_of(), None, "1,1")
    with pytest.raises(UsageError, match="click on the picture"):
        seen(run_of(), tmp_path / "a.png", " ")
    with pytest.raises(DataError, match="outside the picture of 20 x 10"):
        seen(run_of(), tmp_path / "a.png", "20,1")
    with pytest.raises(UsageError, match="write x,y"):
        seen(run_of(), tmp_path / "a.png", "cat")

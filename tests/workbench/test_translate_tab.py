"""The tab Translate: a network of two open folders, seen as it learns, and pictures through it, as by the verb."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.generate import load_translator
from binderclip.tasks.events import Counted, Event, listening

SMALL = {"steps": 8, "side": 16, "method": "auto", "width": 4, "blocks": 3, "seed": 1}


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark pictures and bright ones, and a broken file among the first."""
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for name, (low, high) in (("dark", (0, 90)), ("bright", (160, 255))):
        (folder / name).mkdir()
        for row in range(3):
            Image.fromarray(rng.integers(low, high, (20, 24, 3), dtype=np.uint8)).save(folder / name / f"{row}.png")
    (folder / "dark" / "broken.png").write_bytes(b"no")
    return folder


def learned(run: Any, before: object, after: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.translate import FORM, learn

    given = {**SMALL, **options}
    return learn(run, before and str(before), after and str(after), *(given.get(name) for name in FORM.names))


def translated(run: Any, files: list[Path] | None, translator: str | None) -> Any:
    from binderclip.workbench.tabs.make.translate import work

    return work(run, None if files is None else [str(path) for path in files], None, translator)


def test_a_network_is_trained_and_translates_as_by_the_verb(
    shades: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, seen = run_of(folders=[shades]), list[str]()
    monkeypatch.setattr(run, "show", lambda *values: seen.append(values[0]))
    monkeypatch.setattr("binderclip.workbench.tab.LOOK_AGAIN", 0.0)
    with listening(run.hear):
        done = learned(run, shades / "dark", shades / "bright")
    assert len(set(seen)) > 2  # the sheet, while it learns
    sheet, about, choice = done.values
    assert Path(sheet).name == "samples.png"
    assert "3 pictures of A and 3 of B" in about
    assert "Trained for 8 steps" in about
    assert str(run.folder) not in about
    assert done.said == "1 picture could not be read."
    assert [path.name for path in done.files] == ["fastcut-1.zip", "samples.png"]
    # The line of shell trains the same network, in the folder that it names.
    assert command(*lines.words(done.again.shell)).code == 0
    one, other = (load_translator(place)[0].state_dict() for place in (choice["value"], tmp_path / "network"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (Path(choice["value"]) / "checkpoints").exists()
    (tmp_path / "network").rename(tmp_path / "mine")
    pictures = [shades / "dark" / "0.png", shades / "dark" / "broken.png"]
    again = run_of(folders=[shades])
    outcome = translated(again, pictures, choice["value"])
    assert outcome.values[0].count("<img") == 2
    assert "broken.png" in outcome.values[1]
    assert [path.name for path in outcome.files] == ["before-after.png", "translated.zip"]
    for path in pictures:
        shutil.copy(path, tmp_path)
    assert command(*lines.words(outcome.again.shell)).code == 1  # a picture that was named could not be read
    assert (tmp_path / "translated" / "0.png").read_bytes() == (again.folder / "translated" / "0.png").read_bytes()


def test_a_training_that_is_stopped_leaves_its_network(shades: Path, run_of: Any) -> None:
    run = run_of(folders=[shades])

    def stop_at(step: int) -> Any:
        def stop(event: Event) -> None:
            if isinstance(event, Counted) and event.message == "step" and event.done == step:
                raise KeyboardInterrupt

        return stop

    with listening(stop_at(5)), pytest.raises(KeyboardInterrupt):
        learned(run, shades / "dark", shades / "bright")
    left = run._job.left
    assert [path.name for path in left.files] == ["auto-1.zip", "samples.png"]
    assert load_translator(left.values[2]["value"])[1]["steps"] == 5
    assert "does not go on here" in left.said
    outcome = translated(run_of(folders=[shades]), [shades / "dark" / "0.png"], left.values[2]["value"])
    assert outcome.values[0].count("<img") == 2


def test_mistakes_are_said_and_no_other_folder_is_read(shades: Path, run_of: Any, tmp_path: Path) -> None:
    run = run_of(folders=[shades])
    with pytest.raises(UsageError, match="open the workbench on a folder of pictures as they should look"):
        learned(run, shades / "dark", None)
    with pytest.raises(UsageError, match="was not opened on"):
        learned(run, tmp_path, shades / "bright")
    (shades / "none").mkdir(exist_ok=True)
    with pytest.raises(DataError, match="no picture"):
        learned(run, shades / "dark", shades / "none")
    with pytest.raises(UsageError, match="train a translator first"):
        translated(run, [shades / "dark" / "0.png"], None)
    with pytest.raises(UsageError, match="is no translator in the folders"):
        translated(run, [shades / "dark" / "0.png"], "/etc")

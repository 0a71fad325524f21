"""The tab Clean: results of the verb by weights of the user's, what is missing, and what a stop leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import Counted, Event, listening


@pytest.fixture
def zoo(tmp_path: Path) -> list[Path]:
    """Two pictures behind a black bar, and a file that is none."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    for name, colour in (("red", (200, 30, 30)), ("blue", (90, 90, 220))):
        pixels = np.full((40, 50, 3), colour, dtype=np.uint8)
        pixels[:, 20:24] = 0
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes(b"no")
    return [folder / f"{name}.png" for name in ("red", "blue", "broken")]


def cleaned(run: Any, files: list[Path] | None, cleaner: object, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.clean import FORM, work

    given = {"shrink": 1, **options}
    paths = None if files is None else [str(path) for path in files]
    return work(run, paths, None, None if cleaner is None else str(cleaner), *(given[name] for name in FORM.names))


def test_results_are_those_of_the_verb(
    zoo: list[Path], dark_strands: Path, run_of: Any, command: Any, lines: Any, tmp_path: Path
) -> None:
    outcome = cleaned(run_of(folders=[dark_strands.parent]), zoo, dark_strands)
    assert outcome.values[0].count("<img") == 6  # before, after, and what was painted
    assert "Knows what is nearly black." in outcome.values[1]
    assert "<td>broken.png</td>" in outcome.values[1]
    assert outcome.said == "1 picture could not be read."
    assert [path.name for path in outcome.files] == ["cleaned.csv", "before-after.png", "cleaned.zip"]
    for path in zoo:
        shutil.copy(path, tmp_path)
    assert command(*lines.words(outcome.again.shell)).code == 1  # a picture that was named could not be read
    made = outcome.files[1].parent
    for name in ("red.png", "red-mask.png", "blue.png"):
        assert (tmp_path / "cleaned" / name).read_bytes() == (made / name).read_bytes()
    assert np.asarray(Image.open(made / "red.png")).min() >= 30  # the bar is gone


def test_weights_are_the_bundled_ones_or_of_the_open_folders_and_none_are_made_up(
    zoo: list[Path], dark_strands: Path, run_of: Any, tmp_path: Path
) -> None:
    from binderclip.workbench.tabs.make.clean import CLEANER

    with_weights = run_of(folders=[dark_strands.parent])
    bundled = ("small-fence (fence)", "small-fence")
    assert CLEANER.choices(with_weights.bench) == [bundled, (f"{dark_strands.name} (fence)", str(dark_strands))]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "card.json").write_text('{"kind": "translator"}')
    assert CLEANER.choices(run_of(folders=[tmp_path]).bench) == [bundled]
    assert "small-fence" in cleaned(run_of(), zoo[:2], "small-fence").again.shell
    with pytest.raises(UsageError, match="is no cleaner in the folders"):
        cleaned(run_of(), zoo, dark_strands)
    with pytest.raises(UsageError, match="choose a Cleaner"):
        cleaned(with_weights, zoo, None)
    with pytest.raises(UsageError, match="choose pictures first"):
        cleaned(with_weights, None, dark_strands)
    with pytest.raises(DataError, match=r"; give (another picture|at least one that can)$"):
        cleaned(with_weights, zoo[2:], dark_strands)


def test_what_was_cleaned_so_far_is_left(zoo: list[Path], dark_strands: Path, run_of: Any) -> None:
    run = run_of(folders=[dark_strands.parent])

    def stop(event: Event) -> None:
        if isinstance(event, Counted) and event.done == 2:
            raise KeyboardInterrupt

    with listening(stop), pytest.raises(KeyboardInterrupt):
        cleaned(run, zoo, dark_strands)
    assert [path.name for path in run._job.left.files] == ["cleaned.zip"]
    assert (run.folder / "cleaned" / "red.png").is_file()

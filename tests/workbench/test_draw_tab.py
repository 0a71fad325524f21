"""The tab Draw: the drawing of the verb, seen while it grows; what was drawn so far stays where a run is stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import UsageError
from binderclip.tasks.events import listening
from binderclip.tasks.verbs.draw.growing import Looks

Clip = Callable[[int], Path]


def drawn(run: Any, judge: Path | None, **options: Any) -> Any:
    from binderclip.workbench.tabs.make.draw import FORM, work

    given = {
        "text": "a tree",
        "size": 32,
        "strokes": 3,
        "views": 1,
        "steps": 6,
        "judge": judge and str(judge),
        **options,
    }
    with listening(run.hear):  # as the page does
        return work(run, *(given.get(name) for name in FORM.names))


def test_the_drawing_is_that_of_the_verb_and_is_seen_before(
    tiny_clip: Clip, run_of: Any, command: Any, lines: Any, documents: list[Any], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    run, seen = run_of(str(tiny_clip(1))), list[str]()

    def show(*values: Any) -> None:
        seen.append(values[0])
        assert Image.open(values[0]).size == (512, 512)

    monkeypatch.setattr(run, "show", show)
    monkeypatch.setattr("binderclip.workbench.tab.LOOKS", 4)
    monkeypatch.setattr("binderclip.workbench.tab.LOOK_AGAIN", 0.0)
    outcome = drawn(run, tiny_clip(2))
    assert len(set(seen)) == len(seen) == 7
    assert sum(Path(path).is_file() for path in seen) == 4
    assert [path.name for path in outcome.files] == ["drawing.png", "drawing.svg"]
    assert "did not guide" in outcome.values[1]
    (here,) = documents
    there = command(*lines.words(outcome.again.shell), "--json").json()
    assert there["judge"] == pytest.approx(here["judge"])
    assert (tmp_path / "drawing.svg").read_bytes() == outcome.files[1].read_bytes()


def test_what_was_drawn_so_far_is_left(tiny_clip: Clip, run_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run, after_step = run_of(str(tiny_clip(1))), Looks.after_step

    def stopped(looks: Looks, step: int) -> None:
        after_step(looks, step)
        if step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Looks, "after_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        drawn(run, tiny_clip(2), steps=100)
    left = run._job.left
    assert [path.name for path in left.files] == ["drawing.png", "drawing.svg"]
    assert Image.open(left.values[0]).size == (512, 512)


def test_mistakes_are_called_as_the_page_calls_them(tiny_clip: Clip, run_of: Any) -> None:
    run = run_of(str(tiny_clip(1)))
    with pytest.raises(UsageError, match="type what to draw"):
        drawn(run, None, text=" ")
    with pytest.raises(UsageError, match=r"^Strokes 0: "):
        drawn(run, None, strokes=0)
    with pytest.raises(UsageError, match=r"^Model that judges .* is the model that guides"):
        drawn(run, tiny_clip(1))

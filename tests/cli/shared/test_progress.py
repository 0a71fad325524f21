"""What long commands say while they work."""

from __future__ import annotations

import pytest

from binderclip.cli.shared import progress
from binderclip.cli.shared.progress import counted, stages


def test_a_log_gets_a_line_every_pause_at_most(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with stages("loading") as say:
        for passed, _ in zip((1, 9.5, 10, 11, 19, 21), counted(range(6), lambda _: None, "", 6), strict=True):
            now[0] = 100 + passed
            say(f"second {passed}")
    assert capsys.readouterr().err.splitlines() == ["second 10 ...", "second 21 ..."]


def test_items_are_counted_when_they_are_taken() -> None:
    said: list[str] = []
    items = counted(iter("abc"), said.append, "picture", 3)
    assert said == []
    assert next(items) == "a"
    assert said == ["picture 1 of 3"]
    assert list(items) == ["b", "c"]
    assert said[-1] == "picture 3 of 3"


@pytest.mark.parametrize("name", ["heads", "anomaly"])
def test_verbs_say_what_they_are_doing(name, command, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    if name == "heads":
        (tmp_path / "words.txt").write_text("a cat\na beach\n", encoding="utf-8")
        done = command("heads", "small", "-i", pictures, "-t", tmp_path / "words.txt", "--blocks", "1", "--no-report")
        wanted = ["picture 1 of 4", "picture 4 of 4", "text 1 of 2", "naming the heads"]
    else:
        done = command("anomaly", pictures, "--name", "picture", "--normal", "none")
        wanted = ["reading the words", "picture 1 of 4", "drawing the overlays", "writing the report"]
    assert done.code == 0, done.err
    assert [line for line in wanted if line not in done.err] == []

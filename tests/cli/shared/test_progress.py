"""What long commands say while they work."""

from __future__ import annotations

import re
import shutil
import time

import pytest

from binderclip.cli.shared import progress
from binderclip.cli.shared.progress import Terminal, stages
from binderclip.display import duration, time_left
from binderclip.tasks.events import Counted, LeftOut, Started, Warned, skip, start, warn


def test_a_log_gets_a_line_early_and_then_every_pause(capsys, monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with stages("loading") as say:
        for passed in (1, 2.9, 3, 11, 12.9, 13, 19, 23.5):
            now[0] = 100 + passed
            say(f"second {passed}")
    assert capsys.readouterr().err.splitlines() == ["second 3 ...", "second 13 ...", "second 23.5 ..."]


def test_one_long_stage_is_not_silent(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.05)
    with stages("loading"):
        time.sleep(1.8)
    lines = capsys.readouterr().err.splitlines()
    assert set(lines) == {"loading ..."}
    # It does not flood either.
    assert 1 <= len(lines) <= 4


def test_the_same_line_comes_ever_more_seldom(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    printed = []
    with stages("training") as say:
        for second in range(200):
            now[0] = float(second)
            say("training")
            if capsys.readouterr().err:
                printed.append(second)
        # Something new is said within the usual pause.
        say("writing")
        now[0] += progress.PAUSE
        say("writing")
        assert capsys.readouterr().err == "writing ...\n"
    assert printed == [3, 13, 33, 73, 133, 193]


def test_the_clock_ends_with_the_work(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with pytest.raises(KeyError), stages("loading"):
        raise KeyError
    capsys.readouterr()
    time.sleep(0.7)
    assert capsys.readouterr().err == ""


def test_the_time_left_goes_by_the_pace_so_far(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    terminal = Terminal(said.append)
    for number in range(1, 6):
        terminal(Counted(number, 5, "picture", begun=True))
        now[0] += 20
    assert said == [
        "picture 1 of 5",
        "picture 2 of 5, about 80 s left",
        "picture 3 of 5, about 60 s left",
        "picture 4 of 5, about 40 s left",
        "picture 5 of 5, about 20 s left",
    ]
    # Nothing is known at the start, and nothing is left at the end.
    assert time_left(90, 0, 10) == time_left(0, 10, 10) == ""


def test_batches_that_went_before_do_not_count_for_the_pace(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    said: list[str] = []
    terminal = Terminal(said.append)
    for done in (900, 910, 920):
        terminal(Counted(done, 1000, "shard", {"loss": 0.25}))
        now[0] += 10
    # 10 shards take 10 s, so the last 80 take 80.
    assert said[0] == "shard 900 of 1000, loss 0.25"
    assert said[2] == "shard 920 of 1000, loss 0.25, about 80 s left"


def test_one_picture_is_not_counted() -> None:
    said: list[str] = []
    Terminal(said.append)(Counted(1, 1, "picture", begun=True))
    assert said == ["picture"]


def test_stages_hear_tasks_and_say_what_was_left_out_together(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    with stages("loading") as say:
        say("loading")
        start("reading")
        skip([("a.png", "broken"), ("b.png", "empty")])
        warn("careful")
        skip([("c.png", "gone")])
    lines = [each for each in capsys.readouterr().err.splitlines() if not each.startswith("loading")]
    assert lines == [
        "reading ...", "skipped 2 files:", "  a.png: broken", "  b.png: empty", "careful", "skipped 1 file:",
        "  c.png: gone",
    ]  # fmt: skip


def test_a_terminal_without_a_line_says_what_matters(capsys) -> None:
    terminal = Terminal()
    for event in (Started("loading"), Counted(1, 2, "picture"), Warned("careful"), LeftOut("a.png", "broken")):
        terminal(event)
    assert capsys.readouterr().err == "careful\n"
    terminal.end()
    terminal.end()
    assert capsys.readouterr().err == "skipped 1 file:\n  a.png: broken\n"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "1 s"), (89, "89 s"), (180, "3 min"), (3600, "1 h"), (4800, "1 h 20 min")]
)
def test_durations_are_said_as_people_say_them(seconds, said) -> None:
    assert duration(seconds) == said


VERBS = {
    "heads": (
        ("heads", "small", "-i", "photos", "-t", "words.txt", "--blocks", "1", "--no-report"),
        ["picture 1 of 4", "picture 4 of 4", "text 2 of 2", "naming the heads"],
    ),
    "anomaly": (
        ("anomaly", "photos", "--name", "picture", "--normal", "none"),
        ["reading the words", "picture 1 of 4", "drawing the overlays", "writing the report"],
    ),
    "index": (("search", "index", "photos"), ["looking for pictures", "picture 4 of 4"]),
    "segment": (("segment", "photos", "-l", "cat", "--size", "64"), ["picture 1 of 4", "picture 4 of 4"]),
    "explain": (("explain", "photos", "-l", "cat"), ["concepts: picture 1 of 4", "concepts: picture 4 of 4"]),
    "classify": (("classify", "photos", "-l", "cat"), ["looking at 4 pictures", "picture 4 of 4"]),
    "evaluate": (("evaluate", "small", "--data", "noto-emoji", "--limit", "8"), ["picture 8 of 8"]),
    "adapt": (
        ("adapt", "sorted", "--shots", "4", "--seeds", "1", "--folds", "2", "--methods", "zero-shot,gda"),
        ["encoding pictures 12 of 12", "method 1 of 2, ", "method 2 of 2, ", "writing the report"],
    ),
}


@pytest.mark.parametrize("name", VERBS)
def test_verbs_say_what_they_are_doing_without_a_terminal(name, command, pictures, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    words, wanted = VERBS[name]
    if "photos" in words:
        shutil.copytree(pictures, tmp_path / "photos")
    (tmp_path / "words.txt").write_text("a cat\na beach\n", encoding="utf-8")
    if name == "adapt":
        from binderclip.data import load_data

        emoji = load_data("noto-emoji", split="val")
        for number in range(12):
            folder = tmp_path / "sorted" / ("first" if number % 2 else "second")
            folder.mkdir(parents=True, exist_ok=True)
            emoji[number].image.convert("RGB").resize((64, 64)).save(folder / f"{number}.png")
    done = command(*words)
    assert done.code == 0, done.err
    assert [line for line in wanted if line not in done.err] == []
    if name == "adapt":
        assert re.search(r"method 2 of 2, gda: draw 1 of 1; at most \d+ (s|min) left", done.err)

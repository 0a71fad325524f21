"""The line about photographs: said beside photographs and the bundled model, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.data import load_data
from binderclip.tasks.events import Event, Warned, listening
from binderclip.tasks.report.photographs import REAL, like_a_photograph, note_weak_on_photographs

Command = Callable[..., Any]
SCREENS = {"page.png", "text.png"}
"""Scans of paper in the set of photographs."""


def test_photographs_and_drawings_are_told_apart() -> None:
    photographs = [sample.image for sample in load_data("photographs") if sample.key not in SCREENS]
    assert sum(map(like_a_photograph, photographs)) >= 0.9 * len(photographs)
    for name in ("openclipart", "noto-emoji", "icons"):
        data = load_data(name, split="val")
        drawings = [data[row].image for row in range(0, len(data), len(data) // 25)]
        assert sum(map(like_a_photograph, drawings)) <= 0.1 * len(drawings)


def test_other_models_and_no_pictures_get_no_line(tmp_path: Path) -> None:
    photograph = next(iter(load_data("photographs"))).image
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    events: list[Event] = []
    with listening(events.append):
        note_weak_on_photographs(REAL, [photograph])
        note_weak_on_photographs("small", [])
        note_weak_on_photographs("small", [tmp_path / "broken.jpg"])
        assert events == []
        note_weak_on_photographs("small", [photograph])
    assert events == [
        Warned(
            "small is weak on photographs; bundled and better there: --model everyday; a real CLIP, downloaded once: "
            f"--model {REAL}"
        )
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("classify", "-m", "small", "-l", "cat,dog"),
        ("segment", "-m", "small", "-l", "cat", "--size", "64"),
        ("explain", "-m", "small", "-l", "cat"),
    ],
)
def test_verbs_say_it_once_and_not_in_json(command: Command, pictures: Path, words: tuple[str, ...]) -> None:
    done = command(words[0], pictures / "cat.jpg", *words[1:])
    assert "bundled and better there: --model everyday" in " ".join(done.err.split())
    assert done.err.count(f"--model {REAL}") == 1
    assert REAL not in done.out
    assert REAL not in command(words[0], pictures / "cat.jpg", *words[1:], "--json").err

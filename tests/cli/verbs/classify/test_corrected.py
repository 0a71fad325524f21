"""`classify --corrected` and `--review`: labels that a person knows, and the pictures to look at next."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.data import load_data

Command = Callable[..., Any]
NAMES = {0: "zero", 1: "one", 4: "four"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of each of three digits, called after them."""
    folder = tmp_path_factory.mktemp("digits")
    data = load_data("digits")
    for label, name in NAMES.items():
        for number, row in enumerate(np.flatnonzero(data.labels == label)[:12]):
            data[int(row)].image.save(folder / f"{name}-{number:02d}.png")
    return folder


def called(document: Any) -> dict[str, str]:
    return {Path(entry["image"]).name: entry["labels"][0]["label"] for entry in document["images"]}


def accuracy(answers: dict[str, str], left_out: set[str]) -> float:
    return float(np.mean([name.startswith(label) for name, label in answers.items() if name not in left_out]))


def test_corrected_labels_mend_the_others(command: Command, digits: Path) -> None:
    words = ("classify", digits, "-l", "zero,one,four", "--json")
    before = command(*words, "--review", 5).json()
    assert len(before["review"]) == 5
    assert {"image", "label", "why"} == set(before["review"][0])
    known = {f"{name}-{number:02d}.png" for name in NAMES.values() for number in range(5)}
    with Path("labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((name, name.split("-")[0]) for name in sorted(known))])
    after = command(*words, "--corrected", "labels.csv").json()
    assert accuracy(called(after), known) > max(0.9, accuracy(called(before), known))
    assert all(called(after)[name] == name.split("-")[0] for name in known)
    learned = after["corrected"]
    assert (learned["pictures"], learned["held_out"]) == (15, 15)
    assert learned["right"] > learned["right_before"]
    differs = {name for name in called(after) if called(after)[name] != called(before)[name]}
    assert {Path(name).name for name in learned["changed"]} == differs - known

    said = command(*words[:-1], "--corrected", "labels.csv", "--review", 3).out
    assert "earned from 15 pictures" in said
    assert "worth a look first" in said.lower()


def test_a_table_that_does_not_fit_is_refused_before_the_model_is_loaded(command: Command, digits: Path) -> None:
    words = ("classify", digits, "-l", "zero,one", "--corrected")
    Path("odd.csv").write_text("file,label\nzero-00.png,seven\n")
    for table, problem in (("none.csv", "there is no file none.csv"), ("odd.csv", "the label seven")):
        done = command(*words, table)
        assert done.code in (1, 2)
        assert problem in done.err
        assert "loading" not in done.err
    Path("elsewhere.csv").write_text("file,label\nx.png,one\n")
    assert "names none of the pictures; it names x.png" in command(*words, "elsewhere.csv").err
    Path("few.csv").write_text("file,label\nzero-00.png,zero\nnowhere.png,one\n")
    done = command(*words, "few.csv")
    assert done.code == 2
    assert "1 line of few.csv name none of the pictures" in done.err
    assert "at least two labels; so far there is only zero" in done.err

"""`classify --against`: a second model asked the same, and where it says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.data import load_data
from binderclip.errors import UsageError
from binderclip.tasks.events import Event, Started, listening
from binderclip.tasks.verbs.classify.request import ClassifyRequest
from binderclip.tasks.verbs.classify.run import run

Command = Callable[..., Any]
LABELS = "a cat,a cup of coffee,a rocket,a woman,a coin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings of the bundled pack, on which the models are not of one mind."""
    folder, data = tmp_path_factory.mktemp("drawings"), load_data("openclipart", split="test")
    for row in np.linspace(0, len(data) - 1, 12).astype(int):
        data[int(row)].image.convert("RGB").resize((96, 96)).save(folder / f"{row:05d}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def likeliest(document: Any) -> dict[str, tuple[str, float]]:
    return {
        Path(entry["image"]).name: (entry["labels"][0]["label"], entry["labels"][0]["prob"])
        for entry in document["images"]
    }


def test_the_second_model_says_what_it_says_alone(command: Command, folder: Path) -> None:
    words = ("classify", folder, "-l", LABELS)
    both = command(*words, "--model", "small", "--against", "everyday", "--json").json()
    first, second = (likeliest(command(*words, "--model", name, "--json").json()) for name in ("small", "everyday"))
    assert likeliest(both) == first
    against = both["against"]
    assert against["model"] == "everyday"
    assert {
        Path(each["image"]).name: (each["label"], pytest.approx(each["prob"])) for each in against["images"]
    } == second
    differs = {Path(each["image"]).name for each in against["images"] if each["differs"]}
    assert differs == {name for name in first if first[name][0] != second[name][0]} != set()
    assert against["agreed"] == 12 - len(differs)
    printed = command(*words, "--model", "small", "--against", "everyday").out
    assert f"small and everyday agree on {12 - len(differs)} of 12 pictures" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--against", "everyday"), "--against everyday is the model itself"),
        (("--against", "smal"), "smal"),
        (("--against", "small", "--corrected", "labels.csv"), "leave out --head and --corrected"),
    ],
)
def test_what_cannot_be_compared_is_said_before_a_model_is_loaded(
    command: Command, folder: Path, words: tuple[str, ...], message: str
) -> None:
    done = command("classify", folder, "-l", LABELS, *words)
    assert done.code != 0
    assert message in " ".join(done.err.split())


def test_a_second_model_that_is_not_there_costs_no_look_at_the_pictures(folder: Path) -> None:
    events: list[Event] = []
    with listening(events.append), pytest.raises(UsageError, match="there is no model or folder 'smal'"):
        run(ClassifyRequest(images=[str(folder)], labels=["cat", "dog"], against="smal"))
    assert [each.message for each in events if isinstance(each, Started)] == ["loading the model"]

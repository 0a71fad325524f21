"""`binderclip evaluate` on a folder of classes: the accuracy first, each figure with what it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.cli.shared.output import console
from binderclip.data import load_data
from binderclip.tasks.verbs.evaluate.run import explained_rows

Command = Callable[..., Any]
CLASSES = ("cat", "house", "flower", "moon", "tree", "dog")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two drawings of each of six classes, one folder a class."""
    data = load_data("noto-emoji", split="train")
    root = tmp_path / "classes"
    for name in CLASSES:
        rows = [row for row, caption in enumerate(data.captions) if name in caption.split()][:2]
        assert rows
        (root / name).mkdir(parents=True)
        for row in rows:
            data[row].image.convert("RGB").save(root / name / f"{row}.png")
    return root


def test_a_folder_of_classes_says_top_1_and_top_5_first(
    command: Command, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "width", 200)
    figures = command("evaluate", "small", "--data", classes, "--json").json()["figures"]
    # The same by another verb: the right class among the best five of `classify`.
    answers = command("classify", classes, "-l", ",".join(sorted(CLASSES)), "--top", 5, "--json").json()["images"]
    best = [(Path(entry["image"]).parent.name, [each["label"] for each in entry["labels"]]) for entry in answers]
    assert figures["zero_shot/accuracy"] == pytest.approx(sum(own == said[0] for own, said in best) / len(best))
    assert figures["zero_shot/top5"] == pytest.approx(sum(own in said for own, said in best) / len(best))
    lines = [line.split("  ") for line in command("evaluate", "small", "--data", classes).out.splitlines()]
    names = [parts[0].strip() for parts in lines]
    # The title above is folded where the path is long.
    first = names.index("measure") + 2
    assert names[first] == "zero-shot accuracy"
    assert "zero-shot top-5" in names
    assert names.index("zero-shot top-5") < names.index("image to text R@1")
    # Every row says what it is.
    assert all(len([part for part in parts if part.strip()]) == 3 for parts in lines[first:] if parts[0].strip())


def test_retrieval_comes_first_where_pictures_have_captions() -> None:
    figures = {"image_to_text/R@1": 0.5, "image_to_text/median_rank": 2.0, "count": 4.0, "zero_shot/accuracy": 0.25}
    rows = explained_rows(figures, class_names=False)
    assert [row[:2] for row in rows] == [
        ("image to text R@1", "0.500"),
        ("image to text median rank", "2.0"),
        ("count", "4"),
        ("zero-shot accuracy", "0.250"),
    ]
    assert rows[0][2] == "share of pictures whose own caption is the most similar"

"""Pictures and labels that nobody means, with the default model, through every verb that sees one picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., Any]
TOO_LONG = " ".join(f"word{number}" for number in range(300))
LABELS = ["a cat", "qwzx vbnjk", TOO_LONG]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one picture of each odd kind."""
    folder = tmp_path_factory.mktemp("odd")
    ramp = np.arange(48 * 40).reshape(48, 40)
    Image.new("RGB", (1, 1), "red").save(folder / "one.png")
    Image.fromarray((ramp * 34).astype(np.uint16)).save(folder / "sixteen.png")
    Image.fromarray((ramp // 8).astype(np.uint8)).save(folder / "grey.png")
    seen = np.stack([ramp % 256, ramp // 8, 255 - ramp % 256, np.where(ramp % 40 < 20, 0, 255)], -1)
    Image.fromarray(seen.astype(np.uint8), "RGBA").save(folder / "alpha.png")
    Image.new("RGB", (300, 1), "blue").save(folder / "line.png")
    return folder


NAMES = ("one", "sixteen", "grey", "alpha", "line")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of labels that no tower knows, one of them far beyond its context."""
    path = tmp_path_factory.mktemp("words") / "labels.txt"
    path.write_text("\n".join(LABELS) + "\n")
    return path


def test_they_are_classified(command: Command, odd: Path, words: Path, tmp_path: Path) -> None:
    done = command("classify", odd, "--labels", f"@{words}", "--json")
    assert done.code == 0, done.err
    rows = done.json()["images"]
    assert sorted(Path(row["image"]).stem for row in rows) == sorted(NAMES)
    for row in rows:
        assert {label["label"] for label in row["labels"]} == set(LABELS)
        assert sum(label["prob"] for label in row["labels"]) == pytest.approx(1, abs=1e-3)


def test_they_are_indexed_and_found(command: Command, odd: Path, tmp_path: Path) -> None:
    assert command("search", "index", odd, "--index", tmp_path / "index").code == 0
    for asked in (*LABELS, odd / "one.png"):
        done = command("search", "query", asked, "--index", tmp_path / "index", "--json")
        assert done.code == 0, done.err
        hits = done.json()["hits"]
        assert len(hits) == len(NAMES) - (asked == odd / "one.png")
        assert np.isfinite([hit["score"] for hit in hits]).all()


@pytest.mark.parametrize("name", NAMES)
def test_they_are_segmented_explained_and_clicked(
    command: Command, odd: Path, words: Path, name: str, tmp_path: Path
) -> None:
    picture, size = odd / f"{name}.png", Image.open(odd / f"{name}.png").size
    done = command("segment", picture, "--labels", f"@{words}", "--map", "map.png")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "map.png").size == size
    done = command("explain", picture, "--label", LABELS[1], "--out", "map-of-words.png")
    assert done.code == 0, done.err
    assert (tmp_path / "map-of-words.png").is_file()
    done = command("explain", picture, "--label", TOO_LONG, "--out", "none.png")
    assert done.code == 2
    assert "is longer than the 16 tokens this model reads: shorten it" in done.err
    done = command("click", picture, "--point", "0,0", "--out", "mask.png")
    assert done.code == 0, done.err
    assert Image.open(tmp_path / "mask.png").size == size


def test_no_label_is_refused(command: Command, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    for words in (("classify", "--labels"), ("segment", "--labels"), ("explain", "--label")):
        for label in ("", "  "):
            done = command(words[0], odd / "one.png", words[1], label)
            assert done.code == 2, done.err
            assert "is empty" in done.err
    done = command("search", "query", "", "--index", "index")
    assert done.code == 2
    assert "is empty" in done.err

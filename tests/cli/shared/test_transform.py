"""`--transform` of classify, evaluate and search: the same map, fitted on named pictures, by hand in NumPy."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.data import load_data
from binderclip.models import load
from binderclip.models.files.registry import DEFAULT

Command = Callable[..., Any]
ROWS = range(0, 48, 4)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawings with a table of captions."""
    folder, data = tmp_path_factory.mktemp("pairs"), load_data("noto-emoji", split="val").subset(ROWS)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption"])
        for number, sample in enumerate(data.with_mode("RGB")):
            sample.image.save(folder / f"{number:02d}.png")
            table.writerow([f"{number:02d}.png", sample.caption])
    return folder


@pytest.fixture(scope="module")
def mapped(pairs: Path) -> tuple[list[Path], np.ndarray, Callable[[list[str]], np.ndarray]]:
    """The files, their mapped unit vectors, and what maps texts."""
    model, data = load(DEFAULT), load_data(str(pairs))
    files = sorted(pairs.glob("*.png"))
    with torch.no_grad():
        image = unit(model.encode_image(files).double().numpy())
        text = unit(model.encode_text(list(data.captions)).double().numpy())

    @torch.no_grad()
    def texts(words: list[str]) -> np.ndarray:
        return unit(unit(model.encode_text(words).double().numpy()) - text.mean(0))

    return files, unit(image - image.mean(0)), texts


def test_classify(command: Command, pairs: Path, mapped) -> None:
    files, images, texts = mapped
    options = ("-l", "an animal,a face,food", "-t", "{}", "--json")
    told = command("classify", *files, *options, "--transform", f"gap-removal={pairs}").json()["images"]
    logits = float(load(DEFAULT).scale()) * images @ texts(["an animal", "a face", "food"]).T
    expected = np.exp(logits - logits.max(1, keepdims=True))
    expected /= expected.sum(1, keepdims=True)
    for row, entry in zip(expected, told, strict=True):
        found = {each["label"]: each["prob"] for each in entry["labels"]}
        assert [found[name] for name in ("an animal", "a face", "food")] == pytest.approx(row.tolist(), abs=1e-3)


def test_evaluate(command: Command, pairs: Path, mapped) -> None:
    _, images, texts = mapped
    found = command("evaluate", DEFAULT, "--data", pairs, "--transform", f"gap-removal={pairs}", "--json").json()
    captions = list(load_data(str(pairs)).captions)
    best = (images @ texts(captions).T).argmax(1)
    right = np.mean([captions[column] == captions[row] for row, column in enumerate(best)])
    assert found["figures"]["image_to_text/R@1"] == pytest.approx(right)
    assert found["transform"] == {"name": "gap-removal", "fitted_on": str(pairs)}


def test_search(command: Command, pairs: Path, mapped, tmp_path: Path) -> None:
    files, images, texts = mapped
    place = tmp_path / "index"
    made = command("search", "index", pairs, "--index", place, "--transform", f"gap-removal={pairs}", "--json").json()
    assert (made["images"], made["transform"]) == (12, "GapRemoval")
    hits = command("search", "query", "an animal", "--index", place, "--json").json()["hits"]
    scores = (images @ texts(["an animal"]).T)[:, 0]
    order = np.argsort(-scores)[:10]
    assert [Path(hit["image"]).name for hit in hits] == [files[row].name for row in order]
    assert [hit["score"] for hit in hits] == pytest.approx(scores[order].tolist(), abs=1e-4)
    # The same command goes on with the same index, without the option too.
    assert command("search", "index", pairs, "--index", place, "--transform", f"gap-removal={pairs}").code == 0
    assert command("search", "index", pairs, "--index", place, "--json").json()["unchanged"] == 12
    mixed = command("search", "index", pairs, "--index", tmp_path / "mixed", "--mixed", "--json").json()
    assert mixed["documents"] == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--transform", "gap"), "one of gap-removal, mean-shift, whitening"),
        (("--transform", "gap-removal="), "name captioned pictures behind the sign"),
        (("--transform", "gap-removal", "--pool", "mean"), "goes with --labels and --templates"),
    ],
)
def test_bad_choices_are_short_errors(command: Command, pairs: Path, words: tuple[str, ...], said: str) -> None:
    done = command("classify", pairs / "00.png", "-l", "cat,dog", *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())

"""`binderclip attack`: files and table against what the model says of them, bad pictures, mistakes."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.models import ImageTextModel, load

Command = Callable[..., Any]
LABELS = ["cat", "dog", "bird"]
FIELDS = (("image", "label", "probability"), ("picture", "attacked", "attacked_probability"))


@pytest.fixture(scope="module")
def model(tiny_clip: Callable[[int], Path]) -> Path:
    return tiny_clip(1)


@pytest.fixture(scope="module")
def opened(model: Path) -> ImageTextModel:
    return load(str(model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of other sizes, one of them below, and one that is broken."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    (folder / "more").mkdir()
    for name, size in (("a", (40, 32)), ("b", (32, 32)), ("more/a", (64, 50))):
        Image.fromarray(rng.integers(60, 190, (*size, 3)).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "cw", "mi-fgsm", "di-fgsm"])
def test_files_are_what_the_table_says(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path, method: str
) -> None:
    words = ("attack", model, folder, "--labels", ",".join(LABELS), "--method", method, "--eps", "5/255")
    done = command(*words, "--out", tmp_path / "out", "--json")
    found = done.json()
    assert done.code == 0
    assert [Path(each["image"]).name for each in found["skipped"]] == ["broken.png"]
    assert found["labels"] == LABELS
    assert found["eps"] == pytest.approx(5 / 255)
    assert len({each["picture"] for each in found["images"]}) == 3
    bank = opened.text_bank(LABELS, "simple")
    for each in found["images"]:
        clean, changed, drawn = (pixels(Path(each[name])) for name in ("image", "picture", "difference"))
        assert clean.shape == changed.shape
        assert np.abs(changed - clean).max() == each["levels"] <= 5
        assert each["levels"] > 0
        wanted = np.clip(127.5 + 10 * (changed - clean), 0, 255)
        assert np.abs(drawn - wanted).max() <= 1
        # What it says of the files is what `classify` says of them.
        for file, label, probability in FIELDS:
            said = opened.classify([each[file]], bank)
            assert said.best == [each[label]]
            assert float(said.probs.max()) == pytest.approx(each[probability], abs=2e-3)
        assert each["success_8bit"] == (each["attacked"] != each["label"])
    assert found["success"] == sum(each["success"] for each in found["images"])
    assert found["success_8bit"] == sum(each["success_8bit"] for each in found["images"])
    with Path(found["table"]).open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["attacked"] for row in table] == [each["attacked"] for each in found["images"]]
    assert [row["in 8 bits"] == "yes" for row in table] == [each["success_8bit"] for each in found["images"]]


def test_a_strong_attack_reaches_a_label_of_ones_own(
    command: Command, model: Path, opened: ImageTextModel, folder: Path, tmp_path: Path
) -> None:
    words = (
        "attack",
        model,
        folder / "a.png",
        folder / "b.png",
        "-l",
        ",".join(LABELS),
        "--eps",
        "0.2",
        "--steps",
        "30",
    )
    bank = opened.text_bank(LABELS, "simple")
    before = opened.classify([folder / "a.png", folder / "b.png"], bank).best
    target = next(label for label in LABELS if label not in before)
    found = command(*words, "--target", target, "--out", tmp_path / "out", "--json").json()
    assert [each["label"] for each in found["images"]] == before
    assert [each["attacked"] for each in found["images"]] == [target, target]
    assert found["success"] == found["success_8bit"] == 2
    again = command(*words, "--target", target, "--out", tmp_path / "again", "--json").json()
    for one, two in zip(found["images"], again["images"], strict=True):
        assert Path(one["picture"]).read_bytes() == Path(two["picture"]).read_bytes()


def test_less_than_a_level_is_nothing_in_a_file(command: Command, model: Path, folder: Path, tmp_path: Path) -> None:
    words = ("attack", model, folder / "b.png", "-l", ",".join(LABELS), "--eps", "9/2550")
    each = command(*words, "--out", tmp_path / "out", "--json").json()["images"][0]
    assert each["levels"] == 0
    assert not each["success_8bit"]
    np.testing.assert_array_equal(pixels(Path(each["picture"])), pixels(folder / "b.png"))
    assert set(pixels(Path(each["difference"])).ravel()) == {128}


def test_large_pictures_are_reduced_and_the_page_says_what_was_done(
    command: Command, model: Path, folder: Path, tmp_path: Path
) -> None:
    done = command("attack", model, folder, "-l", "cat,dog", "--max-side", "48", "--out", tmp_path / "out")
    assert done.code == 0
    assert sorted(pixels(path).shape for path in (tmp_path / "out").glob("*a.png")) == [(40, 32, 3), (48, 38, 3)]
    assert "3 pictures; pgd within 4 levels of 255, towards another label" in done.out
    assert "of 3 pictures, and on" in done.err
    assert "1 picture reduced to 48 px" in done.err
    assert "skipped 1 file" in done.err
    # An earlier run's pictures are none of the folder's.
    inside = command("attack", model, folder, "-l", "cat,dog", "--steps", "1", "--out", folder / "out", "--json")
    twice = command("attack", model, folder, "-l", "cat,dog", "--steps", "1", "--out", folder / "out", "--json")
    assert len(inside.json()["images"]) == len(twice.json()["images"]) == 3


def test_no_result_replaces_another_or_a_picture(command: Command, model: Path, tmp_path: Path) -> None:
    pictures, rng = tmp_path / "pictures", np.random.default_rng(1)
    pictures.mkdir()
    for name in ("a", "a-difference", "b"):
        Image.fromarray(rng.integers(60, 190, (32, 32, 3)).astype(np.uint8)).save(pictures / f"{name}.png")
    words = ("attack", model, pictures, "-l", "cat,dog", "--steps", "2", "--json")
    found = command(*words, "--out", tmp_path / "out").json()["images"]
    assert len({each[name] for each in found for name in ("picture", "difference")}) == 6
    for each in found:
        changed, clean = (pixels(Path(each[name])) for name in ("picture", "image"))
        assert np.abs(changed - clean).max() == each["levels"] <= 4
    before = (pictures / "b.png").read_bytes()
    done = command("attack", "no-such-model", pictures / "b.png", "-l", "cat,dog", "--out", pictures)
    assert (done.code, "b.png is one of the pictures and would be replaced" in " ".join(done.err.split())) == (2, True)
    assert (pictures / "b.png").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "cat"], "another label"),
        (["--labels", "cat,dog", "--method", "newton"], "one of cw, di-fgsm, fgsm, mi-fgsm, pgd"),
        (["--labels", "cat,dog", "--target", "cow"], "--target 'cow' is none of --labels: cat, dog"),
        (["--labels", "cat,dog", "--eps", "four"], "neither a fraction"),
        (["--labels", "cat,dog", "--eps", "4/0"], "neither a fraction"),
        (["--labels", "cat,dog", "--eps", "4"], "at most 1"),
        (["--labels", "cat,dog", "--eps", "nan"], "neither a fraction"),
        (["--labels", "cat,dog", "--eps", "1/2/3"], "neither a fraction"),
        (["--labels", "cat,dog", "--eps", "1e2000000"], "at most 1"),  # ten million digits are never written out
        (["--labels", "cat,dog", "--method", "fgsm", "--steps", "3"], "has one step"),
        (["--labels", "cat,,dog"], "empty label"),
    ],
)
def test_mistakes_are_told_before_a_model_is_loaded(
    command: Command, folder: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    done = command("attack", "no-such-model", folder, *words, "--out", tmp_path / "out")
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_nothing_but_broken_pictures_fails(command: Command, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no picture")
    done = command("attack", model, tmp_path / "bad", "-l", "cat,dog", "--out", tmp_path / "out")
    assert done.code == 1
    assert "bad/x.png: not an image, or of a format that is not opened; give another picture" in done.err
    assert not (tmp_path / "out").exists()


def test_through_the_installed_program(program: Command, model: Path, folder: Path, tmp_path: Path) -> None:
    done = program(
        "attack", model, folder / "a.png", folder / "broken.png", "-l", "cat,dog", "--steps", "2", cwd=tmp_path
    )
    assert done.code == 1  # a picture that was named could not be read
    assert (tmp_path / "attack" / "a.png").is_file()
    assert "skipped 1 file" in done.err

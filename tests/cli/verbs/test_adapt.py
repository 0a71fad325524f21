"""`binderclip adapt` through the installed command: a folder in, a head, a report and honest figures out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.adapt import load_head
from binderclip.data import load_data, scenes
from binderclip.models import load

from ..conftest import PROGRAM, Command

METHODS = "gda,linear-probe,nearest-example,zero-shot"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class-named folders of digits, one picture unreadable, one a copy of another."""
    place = tmp_path_factory.mktemp("digits")
    digits = load_data("digits")
    for name, label in (("zero", 0), ("one", 1), ("four", 4)):
        (place / name).mkdir()
        for row in np.flatnonzero(digits.labels == label)[:14]:
            digits[int(row)].image.save(place / name / f"{row}.png")
    (place / "one" / "broken.png").write_bytes(b"not a picture")
    first = sorted((place / "zero").glob("*.png"))[0]
    (place / "zero" / "copy.png").write_bytes(first.read_bytes())
    return place


def test_a_folder_becomes_a_head_and_a_report(program: Command, folder: Path, tmp_path: Path) -> None:
    words = ("adapt", folder, "--shots", 6, "--seeds", 2, "--methods", METHODS, "--out", tmp_path / "out")
    done = program(*words)
    assert done.code == 0, done.err
    assert all(name in done.out for name in METHODS.split(","))
    assert "looked at once: accuracy" in done.out
    assert "Choosing the best of 4 flatters" in done.out
    assert "skipped 1 file" in done.err
    assert "1 near-duplicates are kept on one side" in done.err
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for section in ("Result", "Methods", "Learning curve", "Confusion", "Calibration", "Mistakes"):
        assert f">{section}</h2>" in page
    assert page.count("data:image/png;base64,") >= 3
    head = load_head(tmp_path / "out")
    assert head.classes_.tolist() == ["four", "one", "zero"]
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert figures["winner"] == figures["methods"][0]["method"] == head.about_["method"]
    # The same seed gives the same table, from scratch.
    again = program(*words[:-1], tmp_path / "again", "--no-report", "--json").json()
    del again["seconds"], figures["seconds"], again["skipped"], again["request"], figures["made_by"]
    assert again == figures


def test_the_head_classifies_new_pictures_and_refuses_strange_ones(
    program: Command, folder: Path, tmp_path: Path
) -> None:
    assert program("adapt", folder, "--methods", "gda,linear-probe", "--shots", 8, "--out", tmp_path / "h").code == 0
    digits, new = load_data("digits"), tmp_path / "new"
    new.mkdir()
    for label, name in ((0, "zero"), (1, "one"), (4, "four")):
        for row in np.flatnonzero(digits.labels == label)[40:46]:
            digits[int(row)].image.save(new / f"{name}-{row}.png")
    found = program("classify", new, "--head", tmp_path / "h", "--json").json()
    right = [Path(entry["image"]).name.startswith(entry["labels"][0]["label"]) for entry in found["images"]]
    assert sum(right) >= 13
    assert found["labels"] == ["four", "one", "zero"]
    # The probabilities are the saved head's, after its temperature.
    head, model = load_head(tmp_path / "h"), load("everyday")
    paths = [entry["image"] for entry in found["images"]]
    logits = head.decision_function(model.encode_image(paths).double().numpy()) / head.about_["temperature"]
    top = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(axis=1)
    for entry, value in zip(found["images"], top, strict=True):
        answer = entry["labels"][0]
        refused = value < head.about_["threshold"]
        assert (answer["label"] == "none of these") == refused
        assert answer["prob"] == pytest.approx(1 - value if refused else value, abs=1e-3)


def test_several_labels_a_picture(program: Command, tmp_path: Path) -> None:
    made, place = scenes(0, 40, 64, vocabulary=["cat", "house", "moon"], objects=(1, 2)), tmp_path / "scenes"
    place.mkdir()
    lines = ["file,labels"]
    for i in range(40):
        Image.fromarray((made.images[i].permute(1, 2, 0).numpy() * 255).astype("uint8")).save(place / f"{i}.png")
        lines.append(f"{i}.png,{';'.join(sorted(set(made.names[i])))}")
    (place / "metadata.csv").write_text("\n".join(lines))
    done = program("adapt", place, "--shots", 6, "--seeds", 2, "--out", tmp_path / "h")
    assert done.code == 0, done.err
    assert "mAP" in done.out
    assert ">Labels</h2>" in (tmp_path / "h" / "report.html").read_text(encoding="utf-8")
    found = program("classify", place / "0.png", place / "1.png", "--head", tmp_path / "h", "--json").json()
    assert {label["label"] for entry in found["images"] for label in entry["labels"]} <= {
        "cat", "house", "moon", "none of these"
    }  # fmt: skip


def test_a_killed_run_goes_on_from_what_was_finished(folder: Path, tmp_path: Path) -> None:
    words = [str(PROGRAM), "adapt", str(folder), "--shots", "6", "--methods", METHODS, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "BINDERCLIP_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finished = tmp_path / "out" / "finished"
    deadline = time.monotonic() + 120
    while not list(finished.glob("*.safetensors")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in finished.glob("*.safetensors")}
    assert first
    features = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == features
    assert len(list(finished.glob("*.safetensors"))) == 4 * 3


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("adapt", "nowhere"), 2, "nowhere"),
        (("adapt", "digits", "--methods", "gdaa"), 2, "did you mean 'gda'"),
        (("adapt", "digits", "--methods", ","), 2, "--methods is empty"),
        (("adapt", "digits", "--shots", 1), 2, "no validation to choose a method by"),
        (("adapt", "digits", "--templates", "a photo"), 2, "neither a set"),
        (("adapt", "photographs", "--out", "."), 1, ""),
        (("classify", "x.png", "--labels", "a,b", "--head", "h"), 2, "give --labels cat,dog,... or --head FOLDER"),
        (("classify", "x.png", "--descriptions", "animals"), 2, "give them by --labels"),
        (("classify", "x.png", "--head", "h", "--pool", "max"), 2, "--pool is about texts"),
        (("classify", ".", "--head", "h"), 1, "no images in ."),
    ],
)
def test_mistakes_get_a_short_answer(command: Command, words: tuple[object, ...], code: int, said: str) -> None:
    done = command(*words)
    if not said:
        # One picture a class: nothing can be held out, so nothing can be chosen.
        assert "nothing to choose by" in done.err
        return
    assert done.code == code, done.err
    assert said in done.err
    # On a slow machine it says first that the model is being loaded.
    assert done.err.splitlines()[-1].startswith("error:")

"""`binderclip detect`: training on a pair of folders, its table and checks, pictures, maps, mistakes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import real_fake_folder
from binderclip.quality import LinearDetector, load_detector
from binderclip.tasks.verbs.detect.train import halves

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tiny_clip: Callable[[int], Path]) -> Path:
    return tiny_clip(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Smooth pictures of two sizes; copies with a strong grid, copies with a faint one, and a broken file."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name in ("0_real", "1_fake/grid", "1_fake/faint"):
        (folder / name).mkdir(parents=True)
    for row in range(24):
        size = (36, 44) if row % 2 else (44, 36)
        smooth = Image.fromarray(rng.integers(0, 150, (4, 4, 3), dtype=np.uint8)).resize(
            size, Image.Resampling.BILINEAR
        )
        smooth.save(folder / "0_real" / f"{row}.png")
        array = np.asarray(smooth).astype(int)
        for name, strength in (("grid", 90), ("faint", 4)):
            grid = array + strength * (np.arange(array.shape[1]) % 2)[None, :, None]
            Image.fromarray(grid.clip(0, 255).astype(np.uint8)).save(folder / "1_fake" / name / f"{row}.png")
    (folder / "0_real" / "broken.png").write_bytes((folder / "0_real" / "0.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def trained(program: Command, model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("out") / "mine.safetensors"
    words = ("--method", "panoptic", "--hold-out", "faint", "--steps", "25", "--batch-size", "8", "--lr", "0.01")
    done = program("detect", "--train", data, "--out", out, "-m", model, *words, "--json")
    return out, done


def test_what_is_held_out_does_not_hang_on_where_the_folder_lies(data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "elsewhere" / "pictures")
    for seed in (0, 1):
        ours, theirs = (halves(real_fake_folder(root), [], seed) for root in (data, other))
        for one, same in zip(ours, theirs, strict=True):
            assert [one.key(row) for row in range(len(one))] == [same.key(row) for row in range(len(same))]
    assert len(ours[1]) < len(ours[0])


def test_training_leaves_a_file_and_a_table_that_tells_generators_apart(trained: tuple[Path, Any]) -> None:
    out, done = trained
    card = done.json()
    assert done.code == 0
    assert card["generators"] == ["grid"]
    found = {figures["generator"]: figures for figures in card["check"]["generators"]}
    assert found["grid"]["seen"]
    assert found["grid"]["fake_accuracy"] > 0.8
    assert not found["faint"]["seen"]
    assert found["faint"]["fake_accuracy"] <= found["grid"]["fake_accuracy"] - 0.2
    assert found["faint"]["average_precision"] < 0.7 < found["grid"]["average_precision"]
    assert any("faint" in line for line in card["check"]["findings"])
    assert {control["processing"] for control in card["check"]["processing"]} >= {"JPEG 40", "blur 1 px"}
    # Learned from and measured on different pictures; all real ones that can be read are in one of the two.
    tested = found["grid"]["n_real"]
    assert card["real"] + tested == 24
    assert card["held_out"] == 3 * tested
    assert "broken.png" in done.err
    detector, kept = load_detector(out)
    assert type(detector).__name__ == "PanopticPatchDetector"
    assert kept["generators"] == ["grid"]


def test_training_that_was_stopped_goes_on_and_leaves_the_same_file(
    command: Command, model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "detect",
        "--train",
        data,
        "-m",
        model,
        "--method",
        "linear",
        "--steps",
        "5",
        "--batch-size",
        "4",
        "--json",
    )
    whole = command(*words, "--out", tmp_path / "whole.safetensors").json()
    out, calls, real = tmp_path / "part.safetensors", [], LinearDetector.objective

    def stopping(self: LinearDetector, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(LinearDetector, "objective", stopping)
        assert command(*words, "--out", out).code == 130
    assert not out.exists()
    again = command(*words, "--out", out)
    assert again.code == 2
    assert "go on with it (--resume)" in again.err
    other = command(*words, "--out", out, "--resume", "--lr", "0.1")
    assert other.code == 1
    assert "was written with lr = 0.001" in other.err
    part = command(*words, "--out", out, "--resume").json()
    own = {"detector": "", "request": ""}
    assert {**part, **own} == {**whole, **own}
    ours, theirs = (load_detector(path)[0].state_dict() for path in (out, tmp_path / "whole.safetensors"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.safetensors", "whole.safetensors"]
    assert "belongs to --train" in command("detect", data, "--resume").err


def test_pictures_are_ordered_and_the_folder_s_truth_is_measured(
    command: Command, trained: tuple[Path, Any], data: Path, tmp_path: Path
) -> None:
    files = ("--csv", tmp_path / "scores.csv", "--maps", tmp_path / "maps", "--most", "2")
    done = command("detect", data, "--detector", trained[0], *files, "--json")
    found = done.json()
    logits = [entry["logit"] for entry in found["images"]]
    assert logits == sorted(logits, reverse=True)
    assert len(logits) == 72
    first = [Path(entry["image"]).parent.name for entry in found["images"][:20]]
    assert first.count("grid") >= 18
    assert found["images"][0]["fake"] == pytest.approx(1 / (1 + np.exp(-logits[0])))
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    assert [figures["generator"] for figures in found["check"]["generators"]] == ["faint", "grid"]
    assert any("by grid" in line and "may pass as real" in line for line in found["limits"])
    with (tmp_path / "scores.csv").open(encoding="utf-8") as file:
        assert [float(row["logit"]) for row in csv.DictReader(file)] == pytest.approx(logits)
    assert len(found["maps"]) == 2
    with Image.open(found["maps"][0]) as picture:
        assert min(picture.size) >= 256


def test_a_picture_alone_has_no_figures_and_limits_are_printed(
    command: Command, trained: tuple[Path, Any], data: Path
) -> None:
    done = command("detect", data / "1_fake" / "grid" / "3.png", "--detector", trained[0])
    assert done.code == 0
    assert "fake" in done.out
    assert "by generator" not in done.out
    assert "not calibrated" in done.err


def test_maps_replace_no_picture(command: Command, data: Path, tmp_path: Path) -> None:
    picture = Path(shutil.copy(data / "0_real" / "1.png", tmp_path))
    before = picture.read_bytes()
    done = command("detect", picture, "--detector", tmp_path / "none.safetensors", "--maps", tmp_path)
    assert done.code == 2
    assert "1.png is one of the pictures and would be replaced" in " ".join(done.err.split())
    assert picture.read_bytes() == before


def test_a_detector_of_noise_needs_no_model_and_its_title_names_none(
    command: Command, data: Path, tmp_path: Path
) -> None:
    large = tmp_path / "pictures"
    for path in sorted(data.rglob("[0-9].png")):
        target = large / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.resize((80, 72), Image.Resampling.NEAREST).save(target)
    out = tmp_path / "noise.safetensors"
    done = command("detect", "--train", large, "--out", out, "--method", "noise", "--steps", "1")
    assert done.code == 0
    assert "noise: " in done.out
    assert " on small" not in done.out
    assert command("detect", large / "0_real" / "1.png", "--detector", out, "--json").json()["detector"] == "noise"


def test_mistakes_are_said_before_any_work(
    command: Command, trained: tuple[Path, Any], data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.safetensors"
    cases = [
        (["detect"], "--detector FILE"),
        (["detect", "--train", data], "--out FILE"),
        (["detect", data, "--train", data, "--out", out], "does not go with the pictures"),
        (["detect", data, "--detector", trained[0], "--out", out], "belongs to --train"),
        (["detect", "--train", tmp_path, "--out", out, "-m", model], "real pictures go into 0_real"),
        (["detect", "--train", data, "--out", out, "-m", model, "--hold-out", "gan"], "there are faint, grid"),
        (["detect", "--train", data, "--out", out, "-m", model, "--method", "magic"], "one of linear, panoptic"),
        (["detect", data, "--detector", data / "0_real" / "1.png"], "cannot be read as a detector"),
    ]
    for words, said in cases:
        done = command(*words)
        assert done.code != 0, words
        assert said in " ".join(done.err.split()), (words, done.err)
        assert not out.exists()


def test_a_generator_without_a_usable_picture_is_left_out_of_the_figures(
    trained: tuple[Path, Any], data: Path, command: Command, tmp_path: Path
) -> None:
    other = shutil.copytree(data, tmp_path / "other")
    for path in (other / "1_fake" / "faint").iterdir():
        path.write_bytes(b"junk")
    done = command("detect", other, "--detector", trained[0], "--json")
    assert [figures["generator"] for figures in done.json()["check"]["generators"]] == ["grid"]
    assert sum("faint" in entry["image"] for entry in done.json()["skipped"]) == 24
    for path in (other / "1_fake" / "grid").iterdir():
        path.write_bytes(b"junk")
    done = command("detect", other, "--detector", trained[0])
    assert (done.code, "no generated, picture could be read" in done.err) == (1, True), done.err

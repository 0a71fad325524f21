"""`binderclip enhance`: training on two folders, results and sheet, going on, a saved enhancer, mistakes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.quality import CLIPLIT, IlluminationNet, load_enhancer, save_enhancer
from binderclip.tasks.events import Counted, Event, Started, line, listening

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def model(tiny_clip: Callable[[int], Path]) -> Path:
    return tiny_clip(2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two sizes, a third as bright in `dark/`, and a broken file there."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, gain in (("dark/deep", 0.3), ("bright", 1.0)):
        (folder / name).mkdir(parents=True)
        for row in range(4):
            size = (36, 44) if row % 2 else (44, 30)
            array = (gain * rng.integers(60, 230, (4, 4, 3))).astype(np.uint8)
            Image.fromarray(array).resize(size, Image.Resampling.BILINEAR).save(folder / name / f"{row}.png")
    (folder / "dark" / "broken.png").write_bytes((folder / "bright" / "0.png").read_bytes()[:60])
    return folder


@pytest.fixture
def brighter(tmp_path: Path) -> Path:
    """A file of an enhancer that doubles every value."""
    network = IlluminationNet(4, std=1e-4)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.zero_() if name.endswith("bias") else None
        network.last.bias.fill_(0.5)  # type: ignore[union-attr]
    return save_enhancer(network, tmp_path / "twice.safetensors", {"method": "rave"})


@pytest.mark.parametrize("method", ["rave", "clip-lit"])
def test_an_enhancer_is_trained_once_and_a_second_run_goes_on(
    command: Command, data: Path, model: Path, tmp_path: Path, method: str
) -> None:
    out = tmp_path / "out"
    words = ["enhance", data / "dark", "--dark", data / "dark", "--bright", data / "bright", "--out", out, "-m", model,
             "--method", method, "--steps", "3", "--prompt-steps", "2", "--side", "32", "--json"]  # fmt: skip
    done = command(*words)
    assert done.code == 0, done.err
    found = done.json()
    assert [Path(row["result"]).name for row in found["images"]] == [f"deep-{row}.png" for row in range(4)]
    assert [Path(entry["image"]).name for entry in found["skipped"]] == ["broken.png"]
    assert "broken.png" in done.err
    assert found["training"]["dark"] == 4
    assert found["kept"] == 0
    for row in found["images"]:
        with Image.open(row["image"]) as before, Image.open(row["result"]) as after:
            assert before.size == after.size
            assert row["mean_after"] == pytest.approx(np.asarray(after).mean() / 255)
            assert bool((np.asarray(after) >= np.asarray(before)).all())  # it never darkens
    _, card = load_enhancer(out / "enhancer.safetensors")
    assert card["method"] == method
    with Image.open(out / "before-after.png") as sheet:
        assert sheet.width > 800
    # A result is removed: it alone is made again, by the same enhancer.
    first = (out / "deep-1.png").read_bytes()
    (out / "deep-1.png").unlink()
    time = (out / "enhancer.safetensors").stat().st_mtime_ns
    again = command(*words)
    assert again.json()["kept"] == 3
    assert (out / "deep-1.png").read_bytes() == first
    assert (out / "enhancer.safetensors").stat().st_mtime_ns == time
    other = command(*words[:-1], "--seed", "5")
    assert other.code != 0
    assert "other pictures or settings" in " ".join(other.err.split())


def test_a_saved_enhancer_is_used_on_pictures_of_any_size(
    command: Command, data: Path, brighter: Path, tmp_path: Path
) -> None:
    picture = data / "dark" / "deep" / "0.png"
    out = tmp_path / "out"
    done = command("enhance", picture, "--enhancer", brighter, "--out", out, "--max-side", "20")
    assert done.code == 0, done.err
    assert "before-after.png" in done.err
    assert "hardly differ" not in done.err
    with Image.open(picture) as before, Image.open(out / "0.png") as after:
        wanted = (2.0 * np.asarray(before)).clip(0, 255)
        assert np.abs(np.asarray(after) - wanted).max() <= 1
    # The same folder with another enhancer would mix results.
    other = command("enhance", picture, "--enhancer", brighter, "--out", out)
    assert "results of another enhancer or --max-side" in " ".join(other.err.split())


def test_a_result_is_of_the_file_as_it_is_and_replaces_no_picture(
    command: Command, data: Path, brighter: Path, tmp_path: Path
) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for name, value in (("a", 40), ("before-after", 60)):
        Image.new("RGB", (24, 24), (value, value, value)).save(pictures / f"{name}.png")
    words = ("enhance", pictures, "--enhancer", brighter, "--out", out, "--json")
    first = command(*words).json()
    # The sheet has its name to itself.
    assert Path(first["sheet"]).name == "before-after.png"
    assert [row["mean_after"] * 255 for row in first["images"]] == pytest.approx([80, 120], abs=0.1)
    for row in first["images"]:
        with Image.open(row["result"]) as made:
            assert made.size == (24, 24)
    Image.new("RGB", (24, 24), (90, 90, 90)).save(pictures / "a.png")
    again = command(*words).json()
    assert again["kept"] == 1
    assert [row["mean_after"] * 255 for row in again["images"]] == pytest.approx([180, 120], abs=0.1)
    before = (pictures / "a.png").read_bytes()
    (pictures / "before-after.png").unlink()
    done = command("enhance", pictures / "a.png", "--enhancer", brighter, "--out", pictures)
    assert done.code == 2
    assert "a.png is one of the pictures and would be replaced" in done.err
    assert (pictures / "a.png").read_bytes() == before
    assert not (pictures / "enhanced.json").exists()


def test_other_pictures_of_the_same_number_are_another_training(
    command: Command, data: Path, model: Path, tmp_path: Path
) -> None:
    dark = shutil.copytree(data / "dark" / "deep", tmp_path / "dark")
    words = ("enhance", dark, "--dark", dark, "--bright", data / "bright", "--out", tmp_path / "out", "-m", model,
             "--steps", "1", "--prompt-steps", "1", "--side", "32")  # fmt: skip
    assert command(*words).code == 0
    Image.new("RGB", (44, 30), (9, 9, 9)).save(dark / "0.png")
    done = command(*words)
    assert done.code != 0
    assert "other pictures or settings" in " ".join(done.err.split())


def test_what_nobody_would_see_is_said(command: Command, data: Path, tmp_path: Path) -> None:
    same = save_enhancer(IlluminationNet(4, level=1.0, std=1e-4), tmp_path / "same.safetensors")
    done = command("enhance", data / "dark", "--enhancer", same, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "hardly differ from their pictures" in done.err


def test_mistakes_are_said_before_any_work(command: Command, data: Path, brighter: Path, tmp_path: Path) -> None:
    out = tmp_path / "none"
    cases = [
        ([], "give --enhancer FILE"),
        (["--enhancer", brighter, "--dark", data / "dark"], "give --enhancer FILE"),
        (["--dark", data / "dark"], "--bright FOLDER is missing"),
        (["--bright", data / "dark"], "--dark FOLDER is missing"),
        (["--dark", data / "dark", "--bright", tmp_path / "nowhere"], "there is no folder"),
        (["--dark", data / "dark", "--bright", data / "bright", "--method", "gamma"], "one of rave, clip-lit"),
        (["--enhancer", data / "bright" / "0.png"], "cannot be read as an enhancer"),
    ]
    for words, said in cases:
        done = command("enhance", data / "dark", "--out", out, *words)
        assert done.code != 0, words
        assert said in " ".join(done.err.split()), (words, done.err)
        assert not out.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    done = command("enhance", data / "dark", "--out", out, "--dark", data / "dark", "--bright", empty)
    assert "no picture there can be read" in " ".join(done.err.split())


def test_steps_of_the_training_come_as_counts() -> None:
    events: list[Event] = []
    with listening(events.append):
        for text in ("loading", "round 1 of 2: the network: step 3 of 9"):
            line(text)
    assert events == [Started("loading"), Counted(3, 9, "round 1 of 2: the network: step")]


def test_every_part_of_a_training_says_its_steps(data: Path, model: Path) -> None:
    pictures = {name: torch.rand(4, 3, 32, 32) for name in ("dark", "bright")}
    network = IlluminationNet(8, level=1.0, std=0.01)
    told: list[str] = []
    trainer = CLIPLIT(str(model), network=network, side=32)
    trainer.fit(
        pictures["dark"], pictures["bright"], rounds=2, prompt_steps=2, warmup_steps=1, steps=3, refine_steps=2,
        batch_size=2, progress=told.append,
    )  # fmt: skip
    for text in ("learning the prompts: step 2 of 2", "warming the network up: step 1 of 1",
                 "round 1 of 2: the network: step 3 of 3", "round 1 of 2: the prompts: step 2 of 2",
                 "round 2 of 2: the network: step 3 of 3"):  # fmt: skip
        assert text in told

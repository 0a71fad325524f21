"""`binderclip personalize` with a tiny random pipeline: what is saved, what is kept when it is stopped, and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.generate import PersonalConcept, load_denoiser, personalize
from binderclip.tasks import personalize as task
from binderclip.tasks.events import Counted, Stopped, StopToken
from binderclip.tasks.sampling import model_picture

Command = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "mine").mkdir()
    for name, size in (("a", (20, 16)), ("b", (16, 24))):
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(tmp_path / f"mine/{name}.png")
    (tmp_path / "mine/broken.png").write_bytes(b"no picture")
    return tmp_path / "mine"


def test_what_is_learned_is_saved_for_its_model(
    command: Command, folder: Path, tiny_diffusion: Path, tiny_inpainter: Path
) -> None:
    words = ("personalize", folder, "--class", "dog", "--model", tiny_diffusion, "--steps", "3", "--seed", "2")
    document = command(*words, "--out", "word", "--json").json()
    assert (document["token"], document["steps"], document["count"], document["interrupted"]) == ("<mine>", 3, 2, False)
    assert [Path(entry["image"]).name for entry in document["skipped"]] == ["broken.png"]
    denoiser = load_denoiser(tiny_diffusion)
    concept = PersonalConcept.load("word")
    images = torch.cat([model_picture(folder / f"{name}.png", denoiser.side).pixels for name in ("a", "b")])
    expected = personalize(
        denoiser, images, "dog", word="<mine>", steps=3, learning_rate=1e-4, word_rate=1e-3,
        generator=torch.Generator().manual_seed(2),
    )  # fmt: skip
    assert torch.equal(concept.vector, expected.vector)
    concept.apply(denoiser)
    mask = np.zeros((20, 16), np.uint8)
    mask[4:12, 4:12] = 255
    Image.fromarray(mask).save("mask.png")
    inpaint = ("inpaint", folder / "a.png", "--mask", "mask.png", "--text", "a <mine> dog", "--steps", "2")
    with_word = command(*inpaint, "--model", tiny_diffusion, "--personal", "word", "--json").json()
    without = command(*inpaint, "--model", tiny_diffusion, "--json").json()
    assert not np.array_equal(*(np.asarray(Image.open(one["out"])) for one in (with_word, without)))
    drawing = ("generate", "a <mine> dog", "--steps", "2", "--model", tiny_diffusion, "--overwrite", "--json")
    drawn = [
        np.asarray(Image.open(command(*drawing, *more).json()["pictures"][0]["picture"]))
        for more in ((), ("--personal", "word"))
    ]
    assert not np.array_equal(*drawn)
    refused = command(*inpaint, "--model", tiny_inpainter, "--personal", "word")
    assert (refused.code, "was learnt with another denoiser" in " ".join(refused.err.split())) == (2, True)
    again = command(*words, "--out", "word")
    assert (again.code, "is a folder that is not empty" in again.err) == (2, True)


def test_stopped_it_keeps_what_is_learned(folder: Path, tiny_diffusion: Path, tmp_path: Path) -> None:
    stop = StopToken()

    def listen(event: Any) -> None:
        if isinstance(event, Counted) and event.done == 2:
            stop.stop()

    request = task.request(
        images=[str(folder)], class_name="dog", model=tiny_diffusion, steps=50, out=tmp_path / "stopped"
    )
    with pytest.raises(Stopped):
        task.run(request, progress=listen, stop=stop)
    concept = PersonalConcept.load(tmp_path / "stopped")
    assert concept.interrupted
    assert 2 <= concept.steps <= 3


def test_bad_calls_are_named(command: Command, folder: Path, tiny_diffusion: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for place, options, words in [
        (folder, ("--token", "mine"), "angle brackets"),
        (tmp_path / "none", (), "no images"),
        (folder, ("--steps", "0"), "--steps"),
        (folder, ("--class", "<mine>"), "class_name"),
    ]:
        done = command("personalize", place, "--class", "dog", *options, "--model", tiny_diffusion, "--out", "x")
        assert done.code != 0
        assert words in " ".join(done.err.split())
    assert not Path("x").exists()

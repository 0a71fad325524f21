"""`binderclip generate`: pictures of texts by a tiny random pipeline, wide ones, out of a folder, and mistakes."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from binderclip.data import to_tensor
from binderclip.generate import ClassifierFreeGuidance, JointWindows, load_denoiser, sample
from binderclip.models import load
from binderclip.tasks import generate
from binderclip.tasks.events import Counted, Event, Previewed
from binderclip.tasks.verbs.generate.result import names_of_texts

Command = Callable[..., Any]


@pytest.fixture
def pipeline(tiny_diffusion: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(tiny_diffusion, tmp_path / "tiny-pipeline"))


def pixels(path: object) -> torch.Tensor:
    with Image.open(str(path)) as picture:
        return to_tensor(picture.convert("RGB"))


def test_texts_become_pictures_each_with_its_own_seed(command: Command, tiny_diffusion: Path, tmp_path: Path) -> None:
    words = ["generate", "a red dog", "a cat", "--count", "2", "--seed", "4", "--steps", "3", "--guidance", "2.5",
             "-m", tiny_diffusion, "--out", tmp_path / "out", "--json"]  # fmt: skip
    done = command(*words)
    assert done.code == 0, done.err
    document = done.json()
    rows = document["pictures"]
    assert [(row["text"], row["seed"]) for row in rows] == [
        ("a red dog", 4), ("a red dog", 5), ("a cat", 4), ("a cat", 5),
    ]  # fmt: skip
    assert [Path(row["picture"]).name for row in rows] == [
        "a-red-dog-4.png", "a-red-dog-5.png", "a-cat-4.png", "a-cat-5.png",
    ]  # fmt: skip
    assert document["size"] == [16, 16]
    assert document["forwards"] == 2 * 3, "both branches of guidance and both pictures in one forward a step"
    denoiser = load_denoiser(tiny_diffusion)
    noise = denoiser.noise(1, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        latents = sample(denoiser, noise, "a cat", terms=[ClassifierFreeGuidance(2.5)], num_inference_steps=3)
        expected = denoiser.decode(latents)[0]
    assert float((pixels(rows[3]["picture"]) - expected).abs().max()) < 0.5 / 255 + 1e-3
    with (tmp_path / "out" / "table.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [float(row["agreement small-b"]) for row in table] == pytest.approx(
        [row["agreement"]["small-b"] for row in rows]
    )
    with Image.open(document["sheet"]) as sheet:
        assert sheet.width > 4 * 200
    # One alone is drawn again by its seed, in the same folder.
    before = (tmp_path / "out" / "a-cat-5.png").read_bytes()
    again = command("generate", "a cat", "--seed", "5", "--steps", "3", "--guidance", "2.5", "-m", tiny_diffusion,
                    "--out", tmp_path / "again")  # fmt: skip
    assert again.code == 0, again.err
    assert float((pixels(tmp_path / "again" / "a-cat-5.png") - pixels(tmp_path / "out/a-cat-5.png")).abs().max()) < 0.01
    assert before == (tmp_path / "out" / "a-cat-5.png").read_bytes()
    assert "seed" in again.out
    assert "agreement small-b" in again.out


def test_wide_pictures_are_drawn_as_windows_that_share_their_states(tiny_diffusion: Path, tmp_path: Path) -> None:
    made = {}
    for sync in (False, True):
        result = generate(
            texts=["a red dog"], size=(16, 40), steps=3, guidance=1, sync=sync, model=tiny_diffusion,
            out=tmp_path / str(sync),
        )  # fmt: skip
        assert result.size == (16, 40)
        made[sync] = pixels(result.rows[0].path)
        assert made[sync].shape == (3, 16, 40)
        # Windows of a step are one batch; synchronising asks once more.
        assert result.forwards == 3 * (1 + sync)
    denoiser = load_denoiser(tiny_diffusion)
    windows = JointWindows((8, 20), 8, 2)
    noise = denoiser.noise(1, (16, 40), torch.Generator().manual_seed(0))[0]
    with torch.no_grad():
        states = sample(denoiser, windows.split(noise), "a red dog", hooks=[windows], num_inference_steps=3)
        expected = denoiser.decode(windows.merge(states)[None])[0]
    assert float((made[False] - expected).abs().max()) < 0.5 / 255 + 1e-3
    assert float((made[True] - made[False]).abs().max()) > 2 / 255


def test_a_folder_is_drawn_from_without_a_model(command: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "icons").mkdir()
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220)), ("green", (20, 200, 20))):
        picture = Image.new("RGB", (40, 40), "white")
        picture.paste(colour, tuple(rng.integers(4, 8, 2)) + tuple(rng.integers(26, 36, 2)))
        picture.save(tmp_path / "icons" / f"{name}.png")
    (tmp_path / "icons" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nxx")
    words = ["generate", "a red square", "--from-folder", tmp_path / "icons", "--nearest", "1", "--reach", "0",
             "--steps", "4", "--size", "32x32", "--out", tmp_path / "out", "--json"]  # fmt: skip
    done = command(*words)
    assert done.code == 0, done.err
    document = done.json()
    assert [Path(each["image"]).name for each in document["skipped"]] == ["broken.png"]
    assert "broken.png" in done.err
    assert document["forwards"] == 0
    # Of one picture every patch is its own: it comes back, and it is the one that fits the text best.
    icons = {}
    for name in ("red", "blue", "green"):
        with Image.open(tmp_path / "icons" / f"{name}.png") as picture:
            icons[name] = picture.convert("RGB").resize((32, 32), Image.Resampling.LANCZOS)
    model = load("small")
    cosines = model.encode_image(list(icons.values()), normalize=True) @ model.encode_text("a red square")[0]
    expected = to_tensor(list(icons.values())[int(cosines.argmax())])
    assert float((pixels(document["pictures"][0]["picture"]) - expected).abs().max()) < 0.03


def test_steps_are_said_and_can_be_looked_at(tiny_diffusion: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    shown: list[list[Image.Image]] = []

    def hear(event: Event) -> None:
        seen.append(event)
        if isinstance(event, Previewed):
            shown.append(list(event.render()))

    request = generate.request(texts=["a", "b"], count=2, steps=2, model=tiny_diffusion, out=tmp_path / "out")
    result = generate.run(request, progress=hear)
    steps = [(event.done, event.total) for event in seen if isinstance(event, Counted) and event.message == "step"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [[picture.size for picture in look] for look in shown] == [[(16, 16)] * 2] * 4
    assert float((to_tensor(shown[-1][1]) - pixels(result.rows[-1].path)).abs().mean()) < 0.02


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([""], "TEXTS is empty"),
        (["a", "--steps", "0"], "--steps"),
        (["a", "--guidance", "-1"], "--guidance"),
        (["a", "--guidance", "nan"], "--guidance"),
        (["a", "--size", "big"], "HEIGHTxWIDTH"),
        (["a", "--size", "8x16"], "draws 16 px and more each way"),
        (["a", "--size", "16x18"], "multiples of 4 px"),
        (["a", "--sync"], "--sync is for pictures wider"),
        (["a", "--sync", "--size", "16x16"], "--sync is for pictures wider"),
        (["a", "--nearest", "3"], "--nearest is for --from-folder"),
        (["a", "--count", "0"], "--count"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    command: Command, tiny_diffusion: Path, tmp_path: Path, words: list[str], text: str
) -> None:
    done = command("generate", *words, "-m", tiny_diffusion, "--out", tmp_path / "out")
    assert done.code == 2, done.err
    assert text in done.err
    assert not (tmp_path / "out").exists()


def test_one_step_and_no_guidance_are_fine(command: Command, tiny_diffusion: Path, tmp_path: Path) -> None:
    for guidance in ("0", "1"):
        out = tmp_path / guidance
        words = ["generate", "a cat", "--steps", "1", "--guidance", guidance, "-m", tiny_diffusion, "--out", out]
        assert command(*words).code == 0
    assert (tmp_path / "1" / "a-cat-0.png").is_file()


def test_a_folder_that_is_no_whole_pipeline_is_said(command: Command, pipeline: Path, tmp_path: Path) -> None:
    def refused(text: str, model: Path = pipeline) -> None:
        done = command("generate", "a cat", "-m", model, "--out", tmp_path / "out")
        assert done.code != 0
        assert text in done.err.replace("\n", " ")
        assert "Traceback" not in done.err
        assert len(done.err) < 900
        assert not (tmp_path / "out").exists()

    refused("nowhere", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    refused("no model_index.json", tmp_path / "empty")
    weights = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    state = load_file(weights)
    save_file({key: value for key, value in state.items() if key != "conv_in.weight"}, weights)
    refused("conv_in.weight")
    weights.write_bytes(whole[: len(whole) // 2])  # a download that was interrupted
    refused("cannot be read")
    weights.unlink()
    refused("cannot be read")
    shutil.rmtree(pipeline / "vae")
    refused("lacks vae")
    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps({**index, "text_encoder_2": ["transformers", "X"]}))
    refused("two text encoders")


def test_nothing_that_is_not_ours_is_replaced(command: Command, tiny_diffusion: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (4, 4)).save(out / "a-cat-0.png")
    mine = (out / "a-cat-0.png").read_bytes()
    words = ["generate", "a cat", "--steps", "1", "-m", tiny_diffusion, "--out", out]
    done = command(*words)
    assert done.code == 2
    assert "a-cat-0.png is there already" in done.err
    assert (out / "a-cat-0.png").read_bytes() == mine
    assert command(*words, "--overwrite").code == 0
    assert command(*words).code == 0  # ours by now


def test_what_goes_with_a_model_does_not_go_with_a_folder(command: Command, tmp_path: Path) -> None:
    for option in (["--guidance", "3"], ["--sync"], ["-m", "x"]):
        done = command("generate", "a", "--from-folder", tmp_path, *option)
        assert done.code == 2
        assert "does not go with --from-folder" in done.err
    done = command("generate", "a", "--from-folder", tmp_path / "nowhere")
    assert "is no folder" in done.err
    done = command("generate", "a", "--from-folder", tmp_path, "--out", tmp_path / "made")
    assert "no pictures in" in done.err


def test_names_of_files_are_readable_and_never_alike() -> None:
    texts = ["A red apple!", "a red  apple", "日本", "???", "x" * 300, "../etc/passwd"]
    assert names_of_texts(texts) == ["a-red-apple-1", "a-red-apple-2", "日本", "picture", "x" * 40, "etc-passwd"]

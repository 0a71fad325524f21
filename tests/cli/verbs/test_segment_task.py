"""`binderclip segment --task` on a folder, with tiny models of random weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip import models
from binderclip.models import build
from binderclip.segment.promptable import PromptModel, PromptNetwork
from binderclip.segment.task import gensam

Command = Callable[..., Any]
SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}
WORDS = ("--labels", "owl,fox,snake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("task") / "tiny"
    PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval().save(place)
    return place


@pytest.fixture(scope="module")
def clip() -> Any:
    torch.manual_seed(0)
    return build(
        {
            "embed_dim": 24,
            "vision_cfg": {"image_size": 32, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        },
        name="tiny",
    ).eval()


@pytest.fixture
def photos(tmp_path: Path, clip: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(models, "load", lambda *a, **k: clip)
    place = tmp_path / "photos"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (30, 44, 3), dtype=np.uint8)).save(place / f"{name}.png")
    return place


def test_the_masks_are_the_librarys_and_the_words_are_said(
    command: Command, folder: Path, photos: Path, clip: Any
) -> None:
    words = ("segment", photos / "a.png", "--task", "the hidden animal", *WORDS, "--segmenter", folder)
    found = command(*words, "--json").json()
    want = gensam(clip, PromptModel.open(folder), ["owl", "fox", "snake"])(photos / "a.png", "the hidden animal")
    entry = found["images"][0]
    assert entry["words"] == list(want.words)
    assert np.array_equal(np.asarray(Image.open(entry["mask"])) > 0, want.mask.numpy())
    assert entry["words"][0] in command(*words).out
    assert len(entry["words_by_round"]) == entry["rounds"] == 6


def test_a_folder_is_gone_on_with(command: Command, folder: Path, photos: Path) -> None:
    (photos / "b.png").write_bytes(b"no picture")
    words = ("segment", photos, "--task", "every animal", *WORDS, "--segmenter", folder, "--method", "int")
    first = command(*words, "--coco", "all.json", "--json").json()
    assert [Path(one["image"]).name for one in first["images"]] == ["a.png", "c.png"]
    assert [Path(one["image"]).name for one in first["skipped"]] == ["b.png"]
    assert len(json.loads(Path("all.json").read_text())["images"]) == 2
    assert "done before: 2 pictures" in command(*words).err
    assert "done before" not in command(*words[:3], "the snake", *words[4:]).err


def test_other_methods_and_mistakes(command: Command, folder: Path, photos: Path) -> None:
    picture = photos / "a.png"
    done = command("segment", picture, "--task", "fox", "--method", "slip", "--segmenter", folder, "--json")
    assert done.json()["images"][0]["words"] == ["fox"]
    assert "masks from its own 0.5 count" in done.err
    words = ("segment", picture, "--task", "every fox", "--method", "zip", *WORDS, "--segmenter", folder)
    assert set(command(*words, "--json").json()["images"][0]["words"]) <= {"fox"}
    for options, message in [
        (("--task", " "), "--task is empty"),
        (("--task", "x", "--method", "oracle"), "gensam, int, slip, zip"),
        (("--task", "x", "--ask", "http://localhost"), "go together"),
        (("--task", "x", "--map", "x.png"), "leave out --map"),
        (("--labels", "cat", "--ask", "http://localhost"), "are for --task"),
        (("--task", "x", "--ask", "ftp://x", "--ask-model", "m"), "is no address"),
    ]:
        done = command("segment", picture, *options)
        assert done.code == 2, done.err
        assert message in done.err

"""Enhancers by name, and their files: what comes back, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import (
    CLIPLIT,
    RAVE,
    IlluminationNet,
    LatentPromptGuidance,
    LearnedLightPrompts,
    LightWords,
    create_enhancer,
    load_enhancer,
    save_enhancer,
)


def test_names_make_trainers_with_their_guidance(vit: ImageTextModel) -> None:
    assert isinstance(create_enhancer("rave", vit, side=16), RAVE)
    for name, kind in (
        ("clip-lit", LearnedLightPrompts), ("clip-lit-latent", LatentPromptGuidance), ("words", LightWords)
    ):  # fmt: skip
        made = create_enhancer(name, vit, content=7.0, seed=1)
        assert isinstance(made, CLIPLIT)
        assert isinstance(made.guidance, kind)
        assert made.content == 7.0
        assert made.guidance.scale == pytest.approx(float(vit.scale().detach()))
    with pytest.raises(UsageError, match="one of rave, clip-lit"):
        create_enhancer("gamma", vit)
    with pytest.raises(UsageError, match="enhancer 'rave'"):
        create_enhancer("rave", vit, colour=3)


def test_a_file_gives_the_same_pictures_and_its_card(tmp_path: Path) -> None:
    network = IlluminationNet(6, level=0.7, std=0.2, most=1.0)
    images = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    path = save_enhancer(network, tmp_path / "mine.safetensors", {"method": "rave", "dark": 12})
    opened, card = load_enhancer(path)
    with torch.no_grad():
        assert torch.equal(opened.enhance(images), network.enhance(images))
    assert card == {"method": "rave", "dark": 12}
    assert opened.most == 1.0


def test_other_files_are_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"\x80\x04junk")
    other = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(2)}, str(other))
    broken = IlluminationNet(4)
    with torch.no_grad():
        broken.last.weight[0] = float("nan")
    os.mkfifo(tmp_path / "pipe")
    held = save_enhancer(broken, tmp_path / "nan.safetensors")
    for path, said in (
        (junk, "cannot be read"), (other, "is no file of an enhancer"), (tmp_path / "none", "no such file"),
        (tmp_path / "pipe", "no such file"),
        (held, "not finite"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=said):
            load_enhancer(path)

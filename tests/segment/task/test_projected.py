"""Heads behind frozen towers: the head by hand, and that a folder gives back what was saved."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from binderclip import load
from binderclip.errors import CheckpointError, UsageError
from binderclip.segment.task import ProjectedModel, ResidualHead


def test_the_head_by_hand() -> None:
    torch.manual_seed(0)
    head, x = ResidualHead(5, 3), torch.randn(4, 5)
    w1, b1, w2, b2 = (p.detach().double().numpy() for p in (*head.project.parameters(), *head.refine.parameters()))
    p = x.double().numpy() @ w1.T + b1
    gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)(p)
    y = gelu @ w2.T + b2 + p
    expected = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(head(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_folder_gives_back_what_was_saved(tmp_path: Path) -> None:
    model = load("small")
    torch.manual_seed(0)
    heads = [ResidualHead(model.embed_dim, width) for width in (16, 16)]
    made = ProjectedModel(model, *heads)
    made.save(tmp_path)
    again = ProjectedModel.open(tmp_path, model)
    words, image = ["a cat", "a ship"], torch.rand(1, 3, 128, 128)
    assert torch.equal(again.text_bank(words).prototypes(), made.encode_text(words))
    assert torch.equal(again.encode_image(image), made.encode_image(image))
    with torch.no_grad():
        assert torch.equal(made.encode_image(image), heads[0](model.encode_image(image, normalize=True)))


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    model = load("small")
    with pytest.raises(UsageError, match="at least 1, got 0"):
        ResidualHead(0)
    with pytest.raises(CheckpointError, match="no heads of a ProjectedModel"):
        ProjectedModel.open(tmp_path, model)
    save_file({"image.other": torch.zeros(2)}, tmp_path / "heads.safetensors")
    with pytest.raises(CheckpointError, match="no heads of a ProjectedModel"):
        ProjectedModel.open(tmp_path, model)
    ProjectedModel(model, ResidualHead(8), ResidualHead(8)).save(tmp_path)
    with pytest.raises(CheckpointError, match="heads of 8 features"):
        ProjectedModel.open(tmp_path, model)

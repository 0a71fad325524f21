"""The bundled weights `small-vq`: their size, their card, what comes back of pictures, and that they make a picture."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from binderclip import load
from binderclip.data import load_data, load_packs
from binderclip.data.images import to_tensor
from binderclip.errors import UsageError
from binderclip.generate import RandomCutouts, VQLatent, load_vq_autoencoder, vqgan_clip
from binderclip.models.files.registry import BUNDLED
from binderclip.train.bundled.generative.vq import reconstruction_figures

FOLDER = BUNDLED / "small-vq"


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert (FOLDER / "model.safetensors").stat().st_size < 2e6
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "small-vq"
    assert card["recipe"] == "binderclip.train.bundled.generative.vq.train_vq"
    assert set(card["figures"]) == {"drawings", "photographs"}
    assert "small-vq" in (BUNDLED / "NOTICE.txt").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match=r"load_vq_autoencoder\('small-vq'\) opens it"):
        load("small-vq")


def test_more_comes_back_of_a_drawing_than_its_mean_colours_hold() -> None:
    data = load_packs(split="test")
    drawings = torch.stack([to_tensor(data[row].image) for row in range(0, 1200, 50)])
    figures = reconstruction_figures(load_vq_autoencoder(), drawings)
    assert figures["PSNR"] > figures["PSNR of 4 x 4 means"] + 1
    assert figures["codes used"] > 256


def test_red_green_and_blue_stay_apart() -> None:
    model = load_vq_autoencoder()
    colours = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.7, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1], [0.5, 0.5, 0.5]])
    pictures = torch.ones(5, 3, 32, 32)
    pictures[..., 8:24, 8:24] = colours[:, :, None, None]
    with torch.no_grad():
        middle = torch.cat([VQLatent.encoded(model, picture)() for picture in pictures])[..., 12:20, 12:20]
    distances = torch.cdist(middle.mean((2, 3)), colours)  # (5, 5)
    assert distances.argmin(1).tolist() == [0, 1, 2, 3, 4]
    assert float(distances.diagonal().max()) < 0.2


def test_a_photograph_is_recognised_after_its_codes() -> None:
    photographs = [to_tensor(sample.image.convert("RGB"))[None] for sample in load_data("photographs")][::4]
    small = torch.cat([F.interpolate(one, (64, 64), mode="bicubic", antialias=True).clamp(0, 1) for one in photographs])
    with torch.no_grad():
        made = VQLatent.encoded(load_vq_autoencoder(), small)()
    distances = torch.cdist(made.flatten(1), small.flatten(1))
    assert distances.argmin(1).tolist() == list(range(len(small)))


def test_a_prompt_moves_its_codes_by_name() -> None:
    small, whole = load("small"), RandomCutouts(1, 128, flip=0.0, probability=0.0, noise=0.0)
    pale = torch.full((3, 32, 32), 0.8)
    run = vqgan_clip(small, "small-vq", "a red apple", initial=pale, steps=12, lr=0.3, transforms=whole)
    assert run.image.shape == (1, 3, 32, 32)
    first = VQLatent.encoded(load_vq_autoencoder(), pale)().detach()

    def cosine(image: torch.Tensor) -> float:
        return float(F.cosine_similarity(small.encode_image(image), small.encode_text(["a red apple"])).detach())

    assert cosine(run.image) > cosine(first) + 0.05

"""How `small-vq` is made and measured: its codebook by brute force, its errors in closed form, and a run that stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.generate import VQAutoencoder
from binderclip.train.bundled.generative import vq

TINY: dict[str, Any] = {"codes": 6, "channels": 3, "widths": (4, 4), "blocks": (1, 1)}


def test_the_codebook_is_the_decaying_mean_of_what_is_rounded_to_each_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vq, "RESTART", 1000)
    torch.manual_seed(0)
    training = vq.VQTraining(VQAutoencoder(**TINY))
    usage, sums = np.ones(6), training.sums.double().numpy().copy()
    for step in range(1, 4):
        latent, rows = torch.randn(2, 3, 4, 4), torch.randint(6, (2, 4, 4))
        training.follow(latent, rows, step)
        places, flat = latent.permute(0, 2, 3, 1).reshape(-1, 3).double().numpy(), rows.flatten().numpy()
        for code in range(6):
            usage[code] = 0.99 * usage[code] + 0.01 * (flat == code).sum()
            sums[code] = 0.99 * sums[code] + 0.01 * places[flat == code].sum(0)
    table = training.net.quantize.embedding.weight.numpy()
    np.testing.assert_allclose(table, sums / usage[:, None], rtol=1e-5, atol=1e-6)


def test_codes_that_nothing_is_rounded_to_start_again_at_a_place() -> None:
    torch.manual_seed(0)
    training = vq.VQTraining(VQAutoencoder(**TINY))
    training.usage[2] = 0.01
    latent = torch.randn(1, 3, 4, 4)
    training.follow(latent, torch.zeros(1, 4, 4, dtype=torch.long), 0)
    table = training.net.quantize.embedding.weight
    places = latent.permute(0, 2, 3, 1).reshape(-1, 3)
    assert float((places - table[2]).abs().sum(1).min()) < 1e-5
    assert float((places - table[3]).abs().sum(1).min()) > 1e-3


def test_it_starts_at_the_centres_of_groups() -> None:
    torch.manual_seed(0)
    training = vq.VQTraining(VQAutoencoder(**{**TINY, "codes": 24}))
    centres = torch.tensor([[5.0, 0, 0], [0, 5, 0], [0, 0, 5]])
    latent = (centres.repeat(40, 1) + 0.01 * torch.randn(120, 3)).T.reshape(1, 3, 10, 12)
    training.start(latent)
    table = training.net.quantize.embedding.weight
    assert float(torch.cdist(centres, table).amin(1).max()) < 0.02
    assert float(torch.cdist(table, centres).amin(1).max()) < 0.1


def test_the_error_tells_red_from_green_and_sharp_from_blurred() -> None:
    images, d = torch.zeros(1, 3, 4, 4), 0.2
    coloured, grey = images.clone(), images.clone()
    coloured[:, 0], coloured[:, 1] = d, -d
    grey[:, :2] = d
    # both have the same squared error, 2 d^2 / 3; opponents are 2 d and 0, or 0 and -d; no edge
    assert float(vq.reconstruction_error(coloured, images)) == pytest.approx(2 * d**2 / 3 + 0.5 * 4 * d**2)
    assert float(vq.reconstruction_error(grey, images)) == pytest.approx(2 * d**2 / 3 + 0.5 * d**2)
    stripes = images.clone()
    stripes[..., ::2], stripes[..., 1::2] = d, -d
    assert float(vq.reconstruction_error(stripes, images)) == pytest.approx(d**2 + (2 * d) ** 2)


def test_figures_are_decibels_and_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted(VQAutoencoder):
        def decode(self, codes: torch.Tensor) -> torch.Tensor:
            return torch.full((len(codes), 3, 8, 8), 0.2)  # 0.6 of [0, 1]

    figures = vq.reconstruction_figures(Shifted(**TINY), torch.full((2, 3, 8, 8), 0.5))
    assert figures["PSNR"] == pytest.approx(20.0)
    assert figures["PSNR of 4 x 4 means"] == pytest.approx(60.0)  # exact, as far as is counted
    assert figures["codes used"] <= 4


def test_a_folder_is_trained_measured_and_written_and_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photographs").mkdir()
    for row in range(2):
        pixels = np.random.default_rng(row).integers(0, 256, (80, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{row}.png")
    folders = [str(tmp_path / "photographs")]
    settings = {"STEPS": 4, "WARM": 1, "BATCH": 4, "CROPS": 2, "NETWORK": TINY, "EVERY": 2}
    for name, value in settings.items():
        monkeypatch.setattr(vq, name, value)
    drawings = torch.randint(256, (3, 4, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(vq, "_drawings", lambda split, most=None: drawings)
    whole = vq.train_vq(tmp_path / "whole", folders)
    card = json.loads((whole / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "whole"
    assert "2 photographs" in card["how"]
    assert set(card["figures"]) == {"drawings", "photographs"}

    class Stopped(Exception):
        pass

    forward = vq.VQTraining.forward

    def stopping(self: vq.VQTraining, batch: tuple[int, torch.Tensor]) -> object:
        if batch[0] == 3:
            raise Stopped
        return forward(self, batch)

    monkeypatch.setattr(vq.VQTraining, "forward", stopping)
    with pytest.raises(Stopped):
        vq.train_vq(tmp_path / "again", folders, checkpoint=tmp_path / "checkpoint")
    monkeypatch.setattr(vq.VQTraining, "forward", forward)
    again = vq.train_vq(tmp_path / "again", folders, checkpoint=tmp_path / "checkpoint")
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        vq.train_vq(tmp_path / "third", ["nowhere"])

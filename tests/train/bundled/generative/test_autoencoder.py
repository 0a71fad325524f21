"""The autoencoder of the bundled denoiser: its loss, its crops, and that training goes on exactly."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from binderclip.train.bundled.generative import autoencoder as recipe
from binderclip.train.bundled.generative.autoencoder import (
    COLOUR_WEIGHTS,
    OPPONENTS,
    PictureCrops,
    new_autoencoder,
    reconstruction_loss,
    reconstruction_psnr,
    train_latent_autoencoder,
)

pytest.importorskip("diffusers")


def test_opponent_colours_are_orthonormal() -> None:
    torch.testing.assert_close(OPPONENTS @ OPPONENTS.T, torch.eye(3))


def test_a_shift_of_lightness_costs_its_square_and_one_of_colour_three_times_that() -> None:
    target = torch.zeros(1, 3, 8, 8)
    for row, weight in zip(OPPONENTS, COLOUR_WEIGHTS, strict=True):  # a constant shift has no edges
        decoded = target + 0.1 * row[None, :, None, None]
        assert float(reconstruction_loss(decoded, target)) == pytest.approx(0.01 * float(weight), rel=1e-5)


def test_crops_are_cut_from_the_pictures_and_go_on_from_a_number() -> None:
    pixels = np.arange(2 * 64 * 64 * 3, dtype=np.uint32).reshape(2, 64, 64, 3) % 251
    batches = PictureCrops(pixels.astype(np.uint8), 4, 16)
    first = list(islice(batches, 3))
    assert first[0].shape == (4, 3, 16, 16)
    batches.seek(2)
    assert torch.equal(next(iter(batches)), first[2])
    assert not torch.equal(first[0], first[1])


def test_psnr_is_that_of_a_constant_error() -> None:
    class Darker(torch.nn.Module):
        def encode(self, x: torch.Tensor) -> object:
            return type("Encoded", (), {"latents": x})

        def decode(self, x: torch.Tensor) -> object:
            return type("Decoded", (), {"sample": x - 0.2})  # 0.1 of values in [0, 1]

    pixels = np.full((3, 64, 64, 3), 200, np.uint8)
    assert reconstruction_psnr(Darker(), pixels) == pytest.approx(20.0, abs=1e-3)


def test_a_run_that_was_interrupted_goes_on_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = recipe.shape_pictures(8, 0)
    monkeypatch.setattr(recipe, "drawing_pictures", lambda *_: [])
    monkeypatch.setattr(recipe, "shape_pictures", lambda *_: pictures)
    monkeypatch.setattr(recipe, "new_autoencoder", lambda: new_autoencoder(width=8))
    monkeypatch.setattr(recipe, "CHECKPOINT_EVERY", 2)

    class Interrupt:
        def before_step(self, step: int) -> None:
            if step == 4:
                raise KeyboardInterrupt

    settings = {"steps": 5, "batch": 2, "side": 16}
    whole = train_latent_autoencoder(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_latent_autoencoder(tmp_path / "parts", **settings, callbacks=[Interrupt()])
    parts = train_latent_autoencoder(tmp_path / "parts", **settings)
    assert whole.config.scaling_factor == parts.config.scaling_factor
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)

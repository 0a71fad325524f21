"""The house's vector-quantised autoencoder (for p086): rounding by brute force, how far a code reaches, its folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError, UsageError
from binderclip.generate import VQAutoencoder, VQLatent, load_vq_autoencoder, save_vq_autoencoder


@pytest.fixture
def model() -> VQAutoencoder:
    torch.manual_seed(0)
    return VQAutoencoder(codes=12, channels=5, widths=(6, 8), blocks=(1, 2)).eval()


def test_each_place_is_rounded_to_the_nearest_code_with_the_gradient_straight_through(model: VQAutoencoder) -> None:
    latent = torch.randn(2, 5, 3, 4, requires_grad=True)
    table = model.quantize.embedding.weight.detach()
    quantised = model.quantise(latent)
    for b, i, j in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
        distances = [float((latent[b, :, i, j].detach() - code).norm()) for code in table]
        assert int(quantised.rows[b, i, j]) == distances.index(min(distances))
        assert torch.equal(quantised.values[b, :, i, j].detach(), table[quantised.rows[b, i, j]])
    slope = torch.randn(2, 5, 3, 4)
    (gradient,) = torch.autograd.grad((slope * quantised.values).sum(), latent)
    assert torch.equal(gradient, slope)


def test_a_code_changes_its_neighbourhood_and_nothing_else(model: VQAutoencoder) -> None:
    for part in model.modules():  # residual branches start at zero: let them reach as far as they can
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.normal_(part.weight, std=0.3)
    codes = torch.randn(1, 5, 1, 24)
    other = codes.clone()
    other[..., 4] += 1
    changed = (model.decode(other) - model.decode(codes)).detach().abs().sum((0, 1, 2)) > 0
    # 5 codes of 4 pixels, 3 of 2 and 2 of 1 beyond its own four
    assert bool(changed[16:20].all())
    assert not bool(changed[20 + 5 * 4 + 3 * 2 + 2 :].any())


def test_a_latent_picture_is_what_the_network_makes_of_it(model: VQAutoencoder) -> None:
    image = torch.rand(3, 8, 12)
    expected = (model(2 * image[None] - 1) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(VQLatent.encoded(model, image)(), expected)


def test_folders_give_back_what_was_written(model: VQAutoencoder, tmp_path: Path) -> None:
    folder = save_vq_autoencoder(model, tmp_path / "made", card={"name": "made"}, dtype="float32")
    again = load_vq_autoencoder(folder)
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(again(images), model(images).detach())
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError):
        load_vq_autoencoder(folder)
    with pytest.raises(UsageError, match="no autoencoder or folder 'nothing'; bundled: small-vq"):
        load_vq_autoencoder("nothing")


def test_bad_settings_and_pictures_are_refused(model: VQAutoencoder) -> None:
    for images in (torch.zeros(1, 3, 8, 10), torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(1, 3, 0, 8)):
        with pytest.raises(UsageError, match="multiples of 4"):
            model.encode(images)
    for setting in ({"codes": 0}, {"channels": 0}, {"widths": (1, 8)}, {"blocks": (0, 1)}):
        with pytest.raises(UsageError, match=next(iter(setting))):
            VQAutoencoder(**setting)  # type: ignore[arg-type]

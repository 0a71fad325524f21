"""Pictures of codes (p086, arXiv 2204.08583): diffusers' own VQ model as the reference, the gradient and the range."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.generate import VQLatent


@pytest.fixture(scope="module")
def vq_model(make_vq_model: Any) -> Any:
    return make_vq_model(24)


@pytest.fixture
def latent() -> torch.Tensor:
    return torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(1))


class TamingLayout(nn.Module):
    """`encode` gives codes, loss and more; `decode` takes codes and gives a tensor: each code is a colour of 2 px."""

    def __init__(self) -> None:
        super().__init__()
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(8, 3)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, float, tuple[None, ...]]:
        return x[:, :, ::2, ::2], 0.0, (None,)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes.repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_codes_are_the_nearest_and_the_gradient_goes_straight_through(vq_model: Any, latent: torch.Tensor) -> None:
    param = VQLatent(vq_model, latent)
    quantised = param.quantised()
    codebook = vq_model.quantize.embedding.weight.detach()
    for b, i, j in ((0, 0, 0), (1, 2, 4), (0, 1, 3)):
        distances = [float((latent[b, :, i, j] - code).square().sum()) for code in codebook]
        nearest = distances.index(min(distances))
        assert int(param.codes()[b, i, j]) == nearest
        assert torch.equal(quantised[b, :, i, j], codebook[nearest])
    slope = torch.randn_like(quantised)
    (gradient,) = torch.autograd.grad((slope * quantised).sum(), param.latent)
    assert torch.equal(gradient, slope)


def test_the_picture_is_that_of_diffusers_and_so_is_an_encoded_one(vq_model: Any, latent: torch.Tensor) -> None:
    with torch.no_grad():
        expected = (vq_model.decode(latent).sample / 2 + 0.5).clamp(0, 1)
        torch.testing.assert_close(VQLatent(vq_model, latent)(), expected)
        image = torch.rand(3, 8, 12)
        torch.testing.assert_close(
            VQLatent.encoded(vq_model, image)(), (vq_model(image[None] * 2 - 1).sample / 2 + 0.5).clamp(0, 1)
        )


def test_each_channel_is_clamped_to_its_own_range(vq_model: Any) -> None:
    with torch.no_grad():
        codebook = vq_model.quantize.embedding.weight
        low, high = codebook.min(0).values, codebook.max(0).values
        param = VQLatent(vq_model, torch.cat([torch.full((1, 4, 2, 2), -99.0), torch.full((1, 4, 2, 2), 99.0)]))
        param.project_()
    assert torch.equal(param.latent[0, :, 1, 0].detach(), low)
    assert torch.equal(param.latent[1, :, 0, 1].detach(), high)
    inside = VQLatent.random(vq_model, (8, 8))
    before = inside.latent.detach().clone()
    inside.project_()
    assert torch.equal(inside.latent.detach(), before)


def test_random_codes_are_rows_of_the_codebook_and_the_seed_decides(vq_model: Any) -> None:
    param = VQLatent.random(vq_model, (40, 60), seed=3)
    assert param().shape == (1, 3, 40, 60)
    torch.testing.assert_close(param.quantised(), param.latent, rtol=0, atol=0)
    counts = torch.bincount(param.codes().flatten(), minlength=24)
    assert int((counts > 0).sum()) == 24  # 600 places
    assert torch.equal(param.codes(), VQLatent.random(vq_model, (40, 60), seed=3).codes())
    assert not torch.equal(param.codes(), VQLatent.random(vq_model, (40, 60), seed=4).codes())


def test_the_autoencoder_is_left_as_it_was(vq_model: Any, latent: torch.Tensor) -> None:
    vq_model.train()
    param = VQLatent(vq_model, latent)
    param().sum().backward()
    assert param.latent.grad is not None
    assert all(weight.grad is None and weight.requires_grad for weight in vq_model.parameters())
    assert vq_model.training
    assert [name for name, _ in param.named_parameters()] == ["latent"]
    vq_model.eval()


def test_the_layout_of_taming_transformers() -> None:
    model = TamingLayout()
    image = torch.rand(1, 3, 6, 4)
    param = VQLatent.encoded(model, image)
    torch.testing.assert_close(param.latent.detach(), image[:, :, ::2, ::2] * 2 - 1)
    codebook = model.quantize.embedding.weight.detach()
    nearest = codebook[torch.cdist(param.latent.detach().permute(0, 2, 3, 1), codebook[None]).argmin(-1)]
    expected = (nearest.permute(0, 3, 1, 2) / 2 + 0.5).clamp(0, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(param().detach(), expected)


def test_bad_autoencoders_latents_and_sizes_are_refused(vq_model: Any) -> None:
    with pytest.raises(UsageError, match="autoencoder"):
        VQLatent(nn.Linear(2, 2), torch.zeros(1, 4, 2, 2))
    with pytest.raises(UsageError, match="latent"):
        VQLatent(vq_model, torch.zeros(1, 3, 2, 2))
    with pytest.raises(UsageError, match="finite"):
        VQLatent(vq_model, torch.full((1, 4, 2, 2), math.nan))
    with pytest.raises(UsageError, match="lr"):
        VQLatent(vq_model, torch.zeros(1, 4, 2, 2), lr=math.inf)
    with pytest.raises(UsageError, match="width = 9 must be a multiple of 2"):
        VQLatent.random(vq_model, (8, 9))
    with pytest.raises(UsageError, match="height"):
        VQLatent.encoded(vq_model, torch.zeros(3, 7, 8))
    with pytest.raises(UsageError, match=r"\[0, 1\]"):
        VQLatent.encoded(vq_model, torch.full((3, 8, 8), 1.5))

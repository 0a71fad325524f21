"""VQGAN-CLIP (p086, arXiv 2204.08583): the released loop written out, its prompts, and its limiting cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip import load
from binderclip.errors import UsageError
from binderclip.generate import (
    ImageOptimisation,
    PixelImage,
    RandomCutouts,
    VQLatent,
    WeightedPrompt,
    clip_prompt,
    vqgan_clip,
)
from binderclip.models import ImageTextModel

WHOLE = RandomCutouts(1, 32, flip=0.0, probability=0.0, noise=0.0)


@pytest.fixture(scope="module")
def model(tiny_clip: Any) -> ImageTextModel:
    return load(tiny_clip(1))


@pytest.fixture(scope="module")
def vq_model(make_vq_model: Any) -> Any:
    return make_vq_model(64)


class ColourCodes(nn.Module):
    """An autoencoder that only rounds: every pixel is a code, a colour of a fine grid."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        line = torch.linspace(-1, 1, levels)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding.from_pretrained(torch.cartesian_prod(line, line, line))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return codes


class ReleasedClamp(torch.autograd.Function):
    """The gradient of a pixel above 1 counts where it is positive, and below 0 where it is negative."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(image)
        return image.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (image,), (gradient,) = ctx.saved_tensors, gradients
        keep = ((image >= 0) | (gradient <= 0)) & ((image <= 1) | (gradient >= 0))
        return gradient * keep


def test_it_is_the_released_loop(model: ImageTextModel, vq_model: Any) -> None:
    steps, weights, latent_weight = 5, (1.0, -0.4), 0.7
    cutouts = RandomCutouts(4, 32, least=0.5)
    run = vqgan_clip(
        model, vq_model, ["a cat", "a dog:-0.4"], steps=steps, transforms=cutouts, latent_weight=latent_weight, seed=4
    )
    codebook = vq_model.quantize.embedding.weight.detach()
    codes = torch.randint(64, (1, 16, 16), generator=torch.Generator().manual_seed(4))
    z = codebook[codes].permute(0, 3, 1, 2).clone().requires_grad_()
    targets = F.normalize(model.encode_text(["a cat", "a dog"]).detach(), dim=-1)
    optimizer, generator, losses = torch.optim.Adam([z], lr=0.1), torch.Generator().manual_seed(4), []
    for step in range(steps):
        image = (vq_model.decode(z).sample + 1) / 2  # diffusers' own rounding and its straight-through gradient
        views = cutouts(ReleasedClamp.apply(image), generator)
        features = F.normalize(model.encode_image(views), dim=-1)
        loss = latent_weight * F.mse_loss(z, torch.zeros_like(z)) / (2 * (2 * step + 1))
        for weight, target in zip(weights, targets, strict=True):
            chord = (features - target).norm(dim=-1)
            loss = loss + abs(weight) * math.copysign(1, weight) * (2 * (chord / 2).asin().square()).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        z.data = torch.minimum(torch.maximum(z.data, codebook.amin(0)[:, None, None]), codebook.amax(0)[:, None, None])
    assert run.history["loss"].tolist() == pytest.approx(losses, abs=1e-3)
    assert isinstance(run.param, VQLatent)
    assert run.history["latent"][0] == pytest.approx(float(codebook[codes].square().mean()), abs=1e-4)
    assert float((run.param.latent - z).detach().abs().median()) < 1e-3


def test_with_a_fine_codebook_of_colours_it_optimises_pixels(model: ImageTextModel) -> None:
    image = 0.2 + 0.6 * torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    codes = vqgan_clip(model, ColourCodes(33), "a cat", initial=image, steps=1, transforms=WHOLE)
    objective = {"prompts": clip_prompt(model, "a cat")}
    pixels = ImageOptimisation(PixelImage(image), objective, transforms=WHOLE).run(1)  # 0.05 is 0.1 of [-1, 1]
    # half a step between codes is 1 / 64 of the range
    close = (codes.image - pixels.image).abs() < 0.017
    assert float(close.double().mean()) > 0.97
    assert codes.history["loss"][0] == pytest.approx(pixels.history["loss"][0], abs=2e-2)


def test_prompts_attract_and_negative_ones_repel(model: ImageTextModel) -> None:
    def angle(image: torch.Tensor) -> float:
        features = model.encode_image(image)
        return float(F.cosine_similarity(features, model.encode_text(["a cat"])).detach().acos())

    image = torch.full((3, 32, 32), 0.5)
    runs = {
        text: vqgan_clip(model, ColourCodes(9), text, initial=image, steps=15, transforms=WHOLE)
        for text in ("a cat", "a cat:-1", "a cat:0")
    }
    angles = {text: angle(run.image) for text, run in runs.items()}
    assert angles["a cat"] < angles["a cat:0"] - 0.01
    assert angles["a cat:-1"] > angles["a cat:0"] + 0.01
    assert torch.equal(runs["a cat:0"].image, VQLatent.encoded(ColourCodes(9), image)().detach())


def test_weights_and_pictures_as_prompts_add_up(model: ImageTextModel, vq_model: Any) -> None:
    picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    prompts = [WeightedPrompt(picture, 0.5), WeightedPrompt("a cat", -2.0), WeightedPrompt(torch.ones(16))]
    run = vqgan_clip(model, vq_model, prompts, steps=1, transforms=WHOLE, seed=1)
    features = model.encode_image(VQLatent.random(vq_model, (32, 32), seed=1)().detach())
    targets = torch.cat([model.encode_image(picture), model.encode_text(["a cat"]), torch.ones(1, 16)])
    half_squares = F.cosine_similarity(features, targets).detach().double().acos().square() / 2
    expected = float((half_squares * torch.tensor([0.5, -2.0, 1.0])).sum())
    assert run.history["prompts"][0] == pytest.approx(expected, abs=1e-4)


def test_editing_starts_from_the_picture_and_a_run_goes_on(model: ImageTextModel, vq_model: Any) -> None:
    image = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(3))
    first = vqgan_clip(model, vq_model, "a cat", initial=image, steps=0)
    expected = (vq_model(image[None] * 2 - 1).sample / 2 + 0.5).clamp(0, 1).detach()
    torch.testing.assert_close(first.image, expected)
    assert isinstance(first.param, VQLatent)
    further = vqgan_clip(model, first.param, "a cat", steps=2, transforms=RandomCutouts(2, 32))
    assert further.param is first.param
    assert not torch.equal(further.image, first.image)
    codebook = vq_model.quantize.embedding.weight
    rows = further.param.quantised().permute(0, 2, 3, 1).reshape(-1, 4)
    assert float(torch.cdist(rows, codebook, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max().detach()) == 0


def test_the_syntax_of_prompts() -> None:
    one, two, three = WeightedPrompt.parse("a cat | fog:-0.5|oil painting:2:0.3")
    assert (one, two) == (WeightedPrompt("a cat"), WeightedPrompt("fog", -0.5))
    assert three == WeightedPrompt("oil painting", 2.0, 0.3)
    for text, part in (("a cat|", "empty"), ("at 12:30 o'clock", "colon"), ("fog:nan", "weight"), (":1", "empty")):
        with pytest.raises(UsageError, match=part):
            WeightedPrompt.parse(text)


@pytest.mark.parametrize(
    ("prompts", "setting", "text"),
    [
        ([], {}, "prompts"),
        ("a cat", {"steps": -1}, "steps"),
        ("a cat", {"latent_weight": -1.0}, "latent_weight"),
        ("a cat", {"size": (31, 32)}, "height"),
        ([WeightedPrompt(torch.full((3, 4, 4), 2.0))], {}, "picture"),
    ],
)
def test_settings_out_of_range_are_refused(
    model: ImageTextModel, vq_model: Any, prompts: Any, setting: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        vqgan_clip(model, vq_model, prompts, **setting)

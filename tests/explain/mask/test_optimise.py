"""Mask explanations of p106 (arXiv 2211.12857): what is optimised, its noise, its limits, and its errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.explain import METHODS, CartoonX, MaskExplanation, PixelMask, ShearletX, WaveletX, targets
from binderclip.vision import PixelTransform, ShearletTransform, WaveletTransform

SHEARLETS = ShearletTransform(scales=1, directions=(3,))
WAVELETS = WaveletTransform(vanishing=2, levels=2)
REPRESENTATIONS = [SHEARLETS, WAVELETS, PixelTransform()]


class Net(nn.Module):
    """A smooth network without normalisation layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(8 * torch.tanh(self.conv(x)).mean(dim=(2, 3)))


@pytest.fixture
def net() -> Net:
    return Net()


def pictures(count: int = 2, size: tuple[int, int] = (12, 16)) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))


def twin(net: nn.Module, image: Tensor, method: MaskExplanation, target: int, steps: int) -> Tensor:
    """One image's mask by the definition: every coefficient of every colour and sample mixed, Adam written out."""
    size = (image.shape[-2], image.shape[-1])
    s = method.representation.analysis(image)
    mean, spread = (found[0] for found in method.statistics(s[None], size))
    mask = torch.ones_like(s[0])
    first, second = torch.zeros_like(mask), torch.zeros_like(mask)
    generator = torch.Generator().manual_seed(method.seed)
    for step in range(1, steps + 1):
        m = mask.clone().requires_grad_()
        colours = 3 if method.colour_noise else 1
        u = torch.rand((method.samples, 1, colours, *mask.shape), generator=generator, dtype=s.dtype)[:, 0] * 2 - 1
        mixed = m * s + (1 - m) * (mean + spread * u)
        chance = net(method.representation.synthesis(mixed, size).clamp(0, 1)).softmax(dim=1)[:, target]
        grey = method.representation.synthesis(m * s.mean(dim=0), size).clamp(0, 1)
        loss = (1 - chance).square().mean() + method.sparsity * m.mean() + method.spatial * grey.mean()
        if method.variation:
            loss = loss + method.variation * (m.diff(dim=0).square().sum() + m.diff(dim=1).square().sum()) / m.numel()
        (gradient,) = torch.autograd.grad(loss, m)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        move = first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        mask = (mask - method.lr * move).clamp(0, 1)
    return mask


@pytest.mark.parametrize(
    "method",
    [
        ShearletX(SHEARLETS, steps=4, samples=3, seed=5),
        WaveletX(WAVELETS, steps=4, samples=3),
        PixelMask(steps=4, samples=3, variation=2.0),
    ],
    ids=lambda method: type(method).__name__,
)
def test_masks_are_those_of_the_definition_written_out(net: Net, method: MaskExplanation) -> None:
    images = pictures().double()
    net.double()
    found = method(net, images, [1, 2])
    for index, target in enumerate((1, 2)):
        torch.testing.assert_close(found.mask[index], twin(net, images[index], method, target, 4))
        assert 0.3 < float(found.mask[index].mean()) < 0.9


def test_a_mask_of_ones_has_no_distortion_and_shows_the_picture(net: Net) -> None:
    images = pictures()
    for representation in REPRESENTATIONS:
        found = MaskExplanation(representation, sparsity=0, steps=1, samples=2, aim="keep")(net, images)
        assert float(found.losses["distortion"].max()) < 1e-10
        # Nothing to gain: the gradient of a distortion of zero is zero, to rounding.
        chances = net(images).softmax(dim=1)
        torch.testing.assert_close(found.value, chances.amax(dim=1).detach())
        want = images.mean(dim=(1, 2, 3))
        torch.testing.assert_close(found.losses["spatial"][0], want)
        torch.testing.assert_close(found.losses["sparsity"][0], torch.ones(2))
        best = (1 - chances.amax(dim=1)).square().detach()
        far = MaskExplanation(representation, steps=1, samples=2)(net, images).losses["distortion"][0]
        torch.testing.assert_close(far, best)


def test_a_mask_of_zeros_leaves_noise_of_each_bands_own_mean_and_spread() -> None:
    images = pictures(2, (32, 32)) * torch.tensor([1.0, 0.4]).view(2, 1, 1, 1)
    transform = ShearletTransform(scales=1, directions=(4,))
    method = ShearletX(transform, samples=400)
    coefficients = transform.analysis(images)
    mean, spread = method.statistics(coefficients, (32, 32))
    grey = transform.analysis(images.mean(dim=1)).numpy()
    for index in range(2):
        for k in range(len(transform)):
            assert float(mean[index, k].unique()) == pytest.approx(grey[index, k].mean(), abs=1e-6)
            assert float(spread[index, k].unique()) == pytest.approx(grey[index, k].std(), rel=1e-4)
    noise = method._draw(coefficients, torch.Generator().manual_seed(0))
    assert noise.shape == (400, 1, 1, 5, 32, 32)
    # Uniform on [mean - sd, mean + sd]: a third of the variance, and never outside.
    seen = (mean + spread * noise[:, :, 0])[:, 1]
    for k in range(5):
        assert float(seen[:, k].std()) == pytest.approx(grey[1, k].std() / 3**0.5, rel=0.02)
        assert float((seen[:, k] - mean[1, k]).abs().max()) <= grey[1, k].std() * 1.0001
    gaussian = ShearletX(transform, samples=400, noise="gaussian")._draw(coefficients, torch.Generator().manual_seed(0))
    assert float(gaussian.std()) == pytest.approx(1, rel=0.01)
    zeros = ShearletX(transform, noise="zeros").statistics(coefficients, (32, 32))
    assert not any(bool(found.any()) for found in zeros)
    noisy, kept = method._mixed(torch.zeros_like(mean), coefficients, mean, spread, noise[:3], (32, 32))
    want = transform.synthesis(mean + spread * noise[:3, :, 0]).clamp(0, 1)
    torch.testing.assert_close(noisy, want[:, :, None].expand(-1, -1, 3, -1, -1), atol=1e-5, rtol=0)
    assert not kept.any()


def test_wavelet_bands_are_levels_and_colours_have_their_own_noise() -> None:
    images = pictures(1, (16, 16))
    method = WaveletX(WAVELETS, samples=2)
    coefficients = WAVELETS.analysis(images)
    mean, spread = method.statistics(coefficients, (16, 16))
    start = 0
    for count in (16, 3 * 16, 3 * 64):
        band = coefficients[0, :, start : start + count].numpy()
        np.testing.assert_allclose(mean[0, start : start + count], band.mean(), atol=1e-6)
        np.testing.assert_allclose(spread[0, start : start + count], band.std(), rtol=1e-4)
        start += count
    assert start == 256
    assert method._draw(coefficients, torch.Generator()).shape == (2, 1, 3, 256)


def test_legacy_clamp_clips_coefficients_so_negative_ones_are_lost(net: Net) -> None:
    images = pictures()
    coefficients = SHEARLETS.analysis(images)
    method = ShearletX(SHEARLETS, samples=2, legacy_clamp=True)
    mean, spread = method.statistics(coefficients, (12, 16))
    noise = method._draw(coefficients, torch.Generator())
    noisy, _ = method._mixed(torch.ones_like(mean), coefficients, mean, spread, noise, (12, 16))
    want = SHEARLETS.synthesis(coefficients.clamp(0, 1))
    torch.testing.assert_close(noisy, want.expand(2, -1, -1, -1, -1))
    assert float((want - images).abs().max()) > 0.05
    ours, theirs = (ShearletX(SHEARLETS, steps=3, samples=2, legacy_clamp=c)(net, images) for c in (False, True))
    assert float((ours.losses["distortion"] - theirs.losses["distortion"]).abs().max()) > 1e-3


def test_images_do_not_interact_however_they_are_grouped(net: Net) -> None:
    images = pictures(3)
    chosen = [0, 3, 1]
    together = ShearletX(SHEARLETS, steps=5, samples=2)(net, images, chosen)
    small = ShearletX(SHEARLETS, steps=5, samples=2, batch=4)(net, images, chosen)
    torch.testing.assert_close(small.mask, together.mask, atol=1e-4, rtol=0)
    assert together.losses["distortion"].shape == (5, 3)
    for index in range(3):
        alone = ShearletX(SHEARLETS, steps=5, samples=2)(net, images[index], chosen[index])
        torch.testing.assert_close(alone.mask[0], together.mask[index], atol=1e-4, rtol=0)
    again = ShearletX(SHEARLETS, steps=5, samples=2, seed=1)(net, images, chosen)
    assert not torch.equal(again.mask, together.mask)


class Corner(nn.Module):
    """Two classes: the brightness of the upper left quarter against a constant."""

    def forward(self, x: Tensor) -> Tensor:
        half = x[..., : x.shape[-2] // 2, : x.shape[-1] // 2].mean(dim=(1, 2, 3))
        return torch.stack([20 * half, torch.full_like(half, 8.0)], dim=1)


@pytest.mark.parametrize("name", ["shearletx", "waveletx", "cartoonx", "pixelmask"])
def test_what_the_class_needs_is_kept_and_the_rest_given_up(name: str) -> None:
    images = torch.full((1, 3, 32, 32), 0.05)
    images[..., 4:12, 4:12] = images[..., 20:28, 20:28] = 1.0
    images[..., 4:12, 20:28] = 1.0
    settings: dict = {"steps": 60, "samples": 4, "lr": 0.1}
    if name != "pixelmask":
        settings["representation"] = ShearletTransform(1, (4,)) if name == "shearletx" else WaveletTransform(1, 3)
    if name != "cartoonx":
        settings["spatial"] = 1.0
    found = METHODS[name](**settings)(Corner(), images, 0)
    maps = found.maps()[0]
    assert found.method == name
    assert maps.shape == (32, 32)
    assert float(maps[:16, :16].sum()) > 0.7 * float(maps.sum())
    first, last = found.losses["sparsity"][[0, -1], 0].tolist()
    assert first == 1.0
    assert last < 0.5
    assert 0 <= float(found.mask.min()) <= float(found.mask.max()) <= 1
    if name == "pixelmask":
        torch.testing.assert_close(maps, found.mask[0])
        torch.testing.assert_close(found.explanation, found.mask[:, None] * images)
    else:
        torch.testing.assert_close(maps, found.explanation[0].square().sum(dim=0))
    assert found.peak()[0] < 16


def test_the_smoothness_term_is_the_mean_squared_difference_and_is_lowered() -> None:
    images = pictures(2, (16, 16))
    settings: dict = {"samples": 1, "noise": "zeros"}
    last = []
    for variation in (1e-9, 5.0):
        found = PixelMask(steps=15, variation=variation, **settings)(Corner(), images, 0)
        mask = PixelMask(steps=14, variation=variation, **settings)(Corner(), images, 0).mask
        want = [(np.diff(m, axis=0) ** 2).sum() + (np.diff(m, axis=1) ** 2).sum() for m in mask.numpy()]
        np.testing.assert_allclose(found.losses["variation"][-1], np.array(want) / 256, rtol=1e-4)
        last.append(found.losses["variation"][-1])
    assert (last[0] > 1e-3).all()
    assert (last[1] < 0.7 * last[0]).all()


def test_cartoons_are_wavelets_without_the_spatial_term(net: Net) -> None:
    images = pictures()
    cartoon = CartoonX(WAVELETS, steps=5, samples=2)(net, images).mask
    torch.testing.assert_close(cartoon, WaveletX(WAVELETS, spatial=0.0, steps=5, samples=2)(net, images).mask)
    assert not torch.equal(cartoon, WaveletX(WAVELETS, steps=5, samples=2)(net, images).mask)


def test_image_text_models_are_explained_at_their_input(clip_model) -> None:
    images = torch.rand(2, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    method = PixelMask(steps=2, samples=2)
    target = targets.probability("a cat", ["a dog", "a tree"])
    found = method(clip_model, images, target)
    assert found.explanation.shape == found.images.shape == (2, 3, 32, 32)
    # A centre crop: the map lies in the middle of the picture and is empty beside it.
    maps = found.maps()
    assert maps.shape == (2, 40, 60)
    assert not maps[:, :, :9].any()
    assert maps[:, :, 12:48].any()
    predictor = clip_model.predictor(["a cat", "a dog", "a tree"], templates=["{}"])
    want = predictor(images).softmax(dim=1)[:, 0].detach()
    torch.testing.assert_close(found.value, want, rtol=1e-4, atol=1e-6)
    same = method(predictor, images, "a cat")
    torch.testing.assert_close(same.mask, found.mask, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageError, match=r"a single text has none: .* targets\.probability"):
        method(clip_model, images, "a cat")


def test_bad_settings_are_named(net: Net) -> None:
    with pytest.raises(UsageError, match="sparsity must be at least 0, not -1"):
        ShearletX(sparsity=-1)
    with pytest.raises(UsageError, match="steps must be at least 1, not 0"):
        WaveletX(steps=0)
    with pytest.raises(UsageError, match="lr must be above 0"):
        PixelMask(lr=0)
    with pytest.raises(UsageError, match="noise must be one of uniform, gaussian, zeros, got 'salt'"):
        CartoonX(noise="salt")
    with pytest.raises(UsageError, match="aim must be one of maximise, keep"):
        PixelMask(aim="least")
    with pytest.raises(UsageError, match="a mask with rows and columns"):
        WaveletX(WAVELETS, variation=1.0)(net, pictures())
    with pytest.raises(UsageError, match="12 x 16 has no 5 levels"):
        WaveletX()(net, pictures())
    with pytest.raises(UsageError, match="three colours"):
        PixelMask()(net, torch.rand(1, 1, 8, 8))
    with pytest.raises(UsageError, match="target=9 is not a class"):
        PixelMask()(net, pictures(), 9)

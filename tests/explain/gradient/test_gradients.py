"""SmoothGrad (p008), integrated gradients and image x gradient against closed forms and Captum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import (
    METHODS,
    GaussianNoise,
    InputXGradient,
    IntegratedGradients,
    Path,
    Saliency,
    SmoothGrad,
    attribute,
)
from binderclip.explain.engine.attribute import gradient_times_value


class Quadratic(nn.Module):
    """S = x'Ax / 2 of the flattened image, with A symmetric; other outputs are multiples of it."""

    def __init__(self, size: int = 12) -> None:
        super().__init__()
        a = torch.randn(size, size, generator=torch.Generator().manual_seed(4))
        self.a = nn.Parameter((a + a.T) / 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return (0.5 * ((flat @ self.a) * flat).sum(1, keepdim=True)) * torch.tensor([1.0, -2.0])


@contextmanager
def fed(module: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a module is given while the context is open, one row an entry."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].detach().split(1)))
    try:
        yield seen
    finally:
        handle.remove()


def noises(model: nn.Module, image: torch.Tensor, method: SmoothGrad, target: int) -> torch.Tensor:
    """The noise that a method added, as the model saw it (the clean pass comes first)."""
    with fed(model) as seen:
        method(model, image, target)
    return torch.cat(seen[1:]) - image


@pytest.mark.parametrize("n", [1, 3])
def test_without_noise_it_is_the_plain_signal(conv_net: nn.Module, images: torch.Tensor, n: int) -> None:
    plain = Saliency()(conv_net, images, 1)
    torch.testing.assert_close(SmoothGrad(n, level=0)(conv_net, images, 1).maps(), plain.maps())
    product = SmoothGrad(n, level=0, signal=gradient_times_value, reduce="sum", finish="signed")
    torch.testing.assert_close(product(conv_net, images, 1).maps(), InputXGradient()(conv_net, images, 1).maps())
    torch.testing.assert_close(SmoothGrad(n, 0, "variance")(conv_net, images, 1).maps(), torch.zeros(3, 12, 16))


def test_a_linear_score_has_one_gradient_everywhere(images: torch.Tensor) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))
    want = model[1].weight[2].detach().view(3, 12, 16)
    found = SmoothGrad(7, 0.5, reduce="sum", finish="signed")(model, images, 2).maps()
    torch.testing.assert_close(found, want.sum(0).expand(3, -1, -1))
    # The gradient is not averaged after its sign is lost: |.| and the maximum over channels come last.
    torch.testing.assert_close(SmoothGrad(7, 0.5)(model, images, 2).maps()[0], want.abs().amax(0))


def test_a_quadratic_score_converges_as_its_standard_error_says() -> None:
    model = Quadratic()
    image = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    a, x, n = model.a.detach(), image.flatten(), 400
    span = float(image.max() - image.min())
    kept = {"reduce": "sum", "finish": "signed"}
    found = SmoothGrad(n, 0.2, **kept)(model, image, 0).maps()[0]
    # Channel sums of A x, and of independent errors sigma |A_row| / sqrt(n).
    wanted = (a @ x).view(3, 2, 2).sum(0)
    rows = a.view(3, 2, 2, 12).sum(0)
    error = 0.2 * span * rows.norm(dim=-1) / n**0.5
    assert ((found - wanted).abs() < 4 * error).all()
    assert ((found - wanted).abs() > 1e-4 * error).all()
    told = SmoothGrad(n, 0.2, "standard-error", reduce="l2")(model, image, 0).maps()[0]
    torch.testing.assert_close(told, 0.2 * span * a.norm(dim=1).view(3, 2, 2).norm(dim=0) / n**0.5, rtol=0.1, atol=0)
    # The mean of a linear gradient is the gradient at the mean of what was fed.
    mean = x + noises(model, image, SmoothGrad(n, 0.2), 0).mean(0).flatten()
    torch.testing.assert_close(found, (a @ mean).view(3, 2, 2).sum(0), rtol=1e-4, atol=1e-5)


def test_it_is_the_gradient_of_the_blurred_score() -> None:
    class OnePixel(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(6 * (x[:, :1, 0, 0] - 0.5))

    image = torch.tensor([0.5, 0.0, 1.0, 0.5]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    sigma, n = 0.2, 4000
    grid = np.linspace(-2, 3, 5001)
    bell = np.exp(-((grid - 0.5) ** 2) / (2 * sigma**2))
    blurred = float((6 / np.cosh(6 * (grid - 0.5)) ** 2 * bell).sum() / bell.sum())
    options = {"reduce": "sum", "finish": "signed", "batch": 1000}
    found = float(SmoothGrad(n, sigma, **options)(OnePixel(), image, 0).maps()[0, 0, 0])
    error = float(SmoothGrad(n, sigma, "standard-error", batch=1000)(OnePixel(), image, 0).maps()[0, 0, 0])
    assert abs(found - blurred) < 4 * error
    assert abs(6.0 - blurred) > 20 * error


@pytest.mark.parametrize(
    ("statistic", "kind"), [("mean", "smoothgrad"), ("mean-square", "smoothgrad_sq"), ("variance", "vargrad")]
)
def test_captum_agrees_on_the_same_noise(
    conv_net: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch, statistic: str, kind: str
) -> None:
    captum = pytest.importorskip("captum.attr")
    method = SmoothGrad(10, 0.3, statistic, reduce="sum", finish="signed", batch=4)
    noise = noises(conv_net, images[:1], method, 2)
    assert len(noise) == 10
    conv_net.eval().requires_grad_(False)
    tunnel = captum.NoiseTunnel(captum.Saliency(conv_net))
    monkeypatch.setattr(torch, "normal", lambda mean, std: noise)
    want = tunnel.attribute(images[:1].clone(), nt_type=kind, nt_samples=10, stdevs=1.0, target=2, abs=False)
    monkeypatch.undo()
    torch.testing.assert_close(method(conv_net, images[:1], 2).maps(), want.sum(1), rtol=1e-4, atol=1e-8)


def test_moments_belong_together(conv_net: nn.Module, images: torch.Tensor) -> None:
    def found(statistic: str, reduce: str) -> torch.Tensor:
        return SmoothGrad(9, 0.3, statistic, reduce=reduce, batch=6)(conv_net, images, 1).maps()

    variance = found("variance", "sum")
    torch.testing.assert_close(found("mean-square", "sum"), variance + found("mean", "l2").square())
    torch.testing.assert_close(found("standard-error", "l2").square() * 8, variance)
    assert float(variance.mean()) > 0


@pytest.mark.parametrize("statistic", ["mean", "variance"])
def test_neither_the_batch_nor_the_micro_batch_matters(
    conv_net: nn.Module, images: torch.Tensor, statistic: str
) -> None:
    scaled = images * torch.tensor([1.0, 0.5, 2.0])[:, None, None, None]
    whole = SmoothGrad(7, 0.2, statistic)(conv_net, scaled, [0, 1, 2]).maps()
    for size in (1, 2, 6, 100):
        found = SmoothGrad(7, 0.2, statistic, batch=size)(conv_net, scaled, [0, 1, 2]).maps()
        torch.testing.assert_close(found, whole)
    for index in range(3):
        torch.testing.assert_close(
            SmoothGrad(7, 0.2, statistic)(conv_net, scaled[index], index).maps()[0], whole[index]
        )


def test_noise_is_as_large_as_said_and_drawn_from_its_seed(conv_net: nn.Module, images: torch.Tensor) -> None:
    image = 3 * images[:1] - 1
    noise = noises(conv_net, image, SmoothGrad(40, 0.25), 0)
    span = float(image.max() - image.min())
    assert float(noise.std()) == pytest.approx(0.25 * span, rel=0.03)
    assert abs(float(noise.mean())) < 0.02 * span
    assert float((image + noise).min()) < float(image.min()) - 0.2  # nothing is clipped
    assert torch.equal(noise, noises(conv_net, image, SmoothGrad(40, 0.25), 0))
    assert not torch.allclose(noise, noises(conv_net, image, SmoothGrad(40, 0.25, seed=1), 0))


def test_the_class_is_that_of_the_clean_image() -> None:
    class Fickle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = x[:, 0, 0, 0]
            return torch.stack([2 * first, 2 - 2 * first], dim=1)  # changes its mind at 0.5

    image = torch.zeros(1, 3, 2, 2)
    image[..., 0, 0], image[..., 1, 1] = 0.51, 1.0
    found = SmoothGrad(20, 0.5, reduce="sum", finish="signed")(Fickle(), image)
    assert float(found.maps()[0, 0, 0]) == pytest.approx(2.0)


def test_noise_is_added_after_resizing(clip_model) -> None:
    # At four times the model's size: noise on the picture itself would be averaged away.
    image = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with fed(clip_model.visual) as seen:
        found = SmoothGrad(6, 0.2)(clip_model, image, "a cat")
    fitted = clip_model.preprocess.fit(image)
    std = torch.tensor(clip_model.preprocess.std).view(3, 1, 1)
    noise = (torch.cat(seen[1:]) - seen[0]) * std
    assert float(noise.std()) == pytest.approx(0.2 * float(fitted.max() - fitted.min()), rel=0.05)
    assert found.maps().shape == (1, 128, 128)


def test_captum_agrees_on_single_passes(conv_net: nn.Module, images: torch.Tensor) -> None:
    captum = pytest.importorskip("captum.attr")
    conv_net.eval().requires_grad_(False)
    want = captum.Saliency(conv_net).attribute(images.clone(), target=1).amax(1)
    torch.testing.assert_close(Saliency()(conv_net, images, 1).maps(), want)
    want = captum.InputXGradient(conv_net).attribute(images.clone().requires_grad_(), target=1).sum(1)
    torch.testing.assert_close(InputXGradient()(conv_net, images, 1).maps(), want.detach())


def test_captum_agrees_on_integrated_gradients(conv_net: nn.Module, images: torch.Tensor) -> None:
    captum = pytest.importorskip("captum.attr")
    conv_net.eval().requires_grad_(False)
    ours = IntegratedGradients(20, baseline=(0.5, 0.2, 0.8), batch=9)(conv_net, images, 3)
    base = torch.tensor([0.5, 0.2, 0.8]).view(1, 3, 1, 1).expand_as(images)
    theirs = captum.IntegratedGradients(conv_net).attribute(
        images.clone(), baselines=base, target=3, n_steps=20, method="gausslegendre"
    )
    torch.testing.assert_close(ours.maps(), theirs.sum(1).float(), rtol=1e-4, atol=1e-7)
    rise = (conv_net(images) - conv_net(base))[:, 3]
    torch.testing.assert_close(ours.promised, rise)


@pytest.mark.parametrize("rule", ["gauss", "midpoint"])
def test_one_node_is_enough_for_a_quadratic(rule: str) -> None:
    image = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = IntegratedGradients(1, rule=rule)(Quadratic(), image, 1)
    assert float(found.completeness_error().max()) < 1e-5
    torch.testing.assert_close(found.maps().sum((1, 2)), Quadratic()(image)[:, 1].detach(), rtol=1e-4, atol=1e-5)


def test_completeness_grows_with_the_nodes(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    errors = [float(IntegratedGradients(n)(clip_model, images, "a cat").completeness_error().max()) for n in (2, 8, 32)]
    assert errors[2] < 0.02 < errors[0]
    assert errors[2] < errors[1] < errors[0]
    grey = torch.full((2, 3, 32, 32), 0.5)
    found = IntegratedGradients(32, 0.5)(clip_model, images, "a cat")
    text = clip_model.encode_text("a cat", normalize=True)
    rise = (clip_model.encode_image(images, normalize=True) - clip_model.encode_image(grey, normalize=True)) @ text.T
    torch.testing.assert_close(found.promised, rise.detach()[:, 0], rtol=1e-3, atol=1e-5)


def test_image_times_gradient_is_the_score_without_biases(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(560, 3, bias=False))
    found = InputXGradient()(net, images, 1).maps().sum((1, 2))
    torch.testing.assert_close(found, net(images)[:, 1].detach(), rtol=1e-4, atol=1e-5)


def test_bad_settings_are_named(conv_net: nn.Module, images: torch.Tensor) -> None:
    for make, words in [
        (lambda: SmoothGrad(0), "n_samples must be at least 1"),
        (lambda: SmoothGrad(5, -0.1), "level at least 0"),
        (lambda: SmoothGrad(5, float("nan")), "level at least 0"),
        (
            lambda: SmoothGrad(5, statistic="median"),
            "statistic must be one of mean, mean-square, variance, standard-error",
        ),
        (lambda: SmoothGrad(1, statistic="standard-error"), "at least 2 copies"),
        (lambda: SmoothGrad(5, reduce="mean"), "reduce must be"),
        (lambda: SmoothGrad(5, batch=0), "n and batch at least 1"),
        (lambda: IntegratedGradients(0), "n and batch at least 1"),
        (lambda: IntegratedGradients(rule="simpson"), "rule must be one of gauss, midpoint"),
        (lambda: IntegratedGradients(baseline=(0.5, 0.5)), "one grey level or three numbers"),
    ]:
        with pytest.raises(UsageError, match=words):
            make()
    with pytest.raises(UsageError, match="defined at the input"):
        attribute(conv_net, images, 0, ensemble=Path(3), layers="act2")
    assert IntegratedGradients(2, baseline=[0.1, 0.2, 0.3])(conv_net, images, 0).maps().shape == (3, 12, 16)
    assert METHODS["vargrad"]().statistic == "variance"
    assert GaussianNoise(3).passes == GaussianNoise(3, statistic="variance").passes

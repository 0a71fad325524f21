"""Grad-CAM++ and Smooth Grad-CAM++ (p178) against loops, closed forms, pytorch-grad-cam and Captum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.explain import GradCAM, GradCAMPlusPlus, SmoothGradCAMPlusPlus, attribute
from binderclip.explain.engine.attribute import gradient_times_value
from binderclip.explain.gradient.gradcam_plus_plus import channel_weights


class Deep(nn.Module):
    """Convolutions and a head that keeps places apart, so that gradients differ from place to place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 5, 3, 1, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(5 * 6 * 8, 4)
        with torch.no_grad():
            self.fc.weight.mul_(20)  # pytorch-grad-cam adds 1e-6 to a denominator of squared gradients
        self.eval().requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = self.relu(torch.tanh(self.conv2(torch.tanh(self.conv1(x)))))
        return torch.sin(self.fc(self.last.flatten(1)))


@pytest.fixture
def deep() -> Deep:
    return Deep()


def activation_and_gradient(model: Deep, images: torch.Tensor, target: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, K, h, w) of both, by autograd alone."""
    score = model(images.clone().requires_grad_())[:, target].sum()
    (gradient,) = torch.autograd.grad(score, model.last)
    return model.last.detach(), gradient


def weighted(model: Deep, images: torch.Tensor, copies: list[torch.Tensor], target: int) -> np.ndarray:
    """The published sums as loops over images, channels and places; (B, h, w) before the ReLU."""
    activation = activation_and_gradient(model, images, target)[0].numpy().astype(np.float64)
    grads = [activation_and_gradient(model, c, target)[1].numpy().astype(np.float64) for c in copies]
    batch, channels, height, width = activation.shape
    found = np.zeros((batch, height, width))
    for b in range(batch):
        for k in range(channels):
            weight, total = 0.0, activation[b, k].sum()
            for i in range(height):
                for j in range(width):
                    values = [g[b, k, i, j] for g in grads]
                    d1, d2, d3 = (sum(v**power for v in values) / len(values) for power in (1, 2, 3))
                    if d2 > 0:
                        weight += d2 / (2 * d2 + total * d3) * max(d1, 0.0)
            found[b] += weight * activation[b, k]
    return found


def test_grad_cam_plus_plus_is_the_published_sum(deep: Deep, images: torch.Tensor) -> None:
    found = GradCAMPlusPlus("relu")(deep, images, 2)
    np.testing.assert_allclose(found.layers[0].numpy(), weighted(deep, images, [images], 2), rtol=2e-3, atol=1e-3)
    assert found.finish == "relu"
    assert not torch.allclose(found.maps(normalize=True), GradCAM("relu")(deep, images, 2).maps(normalize=True), 0.1)


def test_powers_are_averaged_over_the_noisy_copies(deep: Deep, images: torch.Tensor) -> None:
    seen: list[torch.Tensor] = []
    handle = deep.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    method = SmoothGradCAMPlusPlus("relu", n_samples=6, level=0.3, batch=9)
    found = method(deep, images, 1)
    handle.remove()
    copies = list(torch.cat(seen[-2:]).split(3))
    assert len(copies) == 6
    np.testing.assert_allclose(found.layers[0].numpy(), weighted(deep, images, copies, 1), rtol=2e-3, atol=1e-3)
    # Neither the powers of the mean gradient nor the mean of the maps.
    mean_gradient = torch.stack([activation_and_gradient(deep, c, 1)[1] for c in copies]).mean(0)
    activation = activation_and_gradient(deep, images, 1)[0].permute(0, 2, 3, 1)
    g = mean_gradient.permute(0, 2, 3, 1)
    other = (channel_weights(activation, g, g**2, g**3)[:, None, None] * activation).sum(-1)
    assert not torch.allclose(found.layers[0], other, rtol=1e-2, atol=1e-2)
    averaged = SmoothGradCAMPlusPlus("relu", n_samples=6, level=0.3, activation="mean")(deep, images, 1)
    assert not torch.allclose(found.layers[0], averaged.layers[0], rtol=1e-3)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("activation", ["clean", "mean"])
def test_without_noise_it_is_grad_cam_plus_plus(deep: Deep, images: torch.Tensor, n: int, activation: str) -> None:
    found = SmoothGradCAMPlusPlus("relu", n_samples=n, level=0, activation=activation)(deep, images)
    torch.testing.assert_close(found.layers[0], GradCAMPlusPlus("relu")(deep, images).layers[0], rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_images_and_the_micro_batch_does_not_matter(deep: Deep, images: torch.Tensor) -> None:
    whole = SmoothGradCAMPlusPlus("relu", n_samples=5)(deep, images, 3).layers[0]
    for size in (1, 4, 50):
        found = SmoothGradCAMPlusPlus("relu", n_samples=5, batch=size)(deep, images, 3).layers[0]
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
    for index in range(3):
        one = SmoothGradCAMPlusPlus("relu", n_samples=5)(deep, images[index], 3).layers[0]
        torch.testing.assert_close(one[0], whole[index], rtol=1e-4, atol=1e-5)


def test_average_pooling_and_a_linear_head_have_a_closed_form(conv_net: nn.Module, images: torch.Tensor) -> None:
    activation = conv_net.act2(conv_net.conv2(conv_net.act1(conv_net.conv1(images)))).detach()
    places = activation[0, 0].numel()
    for c in range(4):
        g = conv_net.fc.weight[c].detach() / places  # the same at every place
        weights = places * g.clamp(min=0) / (2 + activation.sum((2, 3)) * g)
        want = torch.einsum("bk,bkhw->bhw", weights, activation)
        torch.testing.assert_close(GradCAMPlusPlus()(conv_net, images, c).layers[0], want, rtol=1e-4, atol=1e-7)


def test_equal_sums_give_the_order_of_grad_cam() -> None:
    g = torch.randn(1, 1, 1, 9, generator=torch.Generator().manual_seed(0)).expand(1, 3, 4, 9)
    activation = torch.rand(1, 3, 4, 9, generator=torch.Generator().manual_seed(1))
    activation = activation / activation.sum((1, 2), keepdim=True)
    found = channel_weights(activation, g, g**2, g**3)[0]
    raising = g[0, 0, 0] > 0
    assert int(raising.sum()) >= 2
    assert torch.equal(found > 0, raising)
    assert torch.equal(found[raising].argsort(), g[0, 0, 0][raising].argsort())


def test_places_without_a_gradient_weigh_nothing() -> None:
    zero = torch.zeros(1, 2, 2, 3)
    found = channel_weights(torch.ones(1, 2, 2, 3), zero, zero, zero)
    assert found.tolist() == [[0.0, 0.0, 0.0]]


def peer_map(kind: str, model: nn.Module, layer: nn.Module, images: torch.Tensor, target: int) -> np.ndarray:
    """pytorch-grad-cam's map before it is cut off, normalised and enlarged."""
    cams = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    kept: dict[str, Any] = {}
    with getattr(cams, kind)(model, [layer]) as cam:
        original = cam.get_cam_image

        def spy(*args: Any, **options: Any) -> np.ndarray:
            kept["map"] = original(*args, **options)
            return kept["map"].copy()

        cam.get_cam_image = spy
        cam(images.clone().requires_grad_(), [targets.ClassifierOutputTarget(target)] * len(images))
    return kept["map"]


def test_pytorch_grad_cam_agrees(deep: Deep, images: torch.Tensor) -> None:
    for kind, method in {"GradCAM": GradCAM("relu", signed=True), "GradCAMPlusPlus": GradCAMPlusPlus("relu")}.items():
        found = method(deep, images, 2).layers[0].numpy()
        np.testing.assert_allclose(found, peer_map(kind, deep, deep.relu, images, 2), rtol=5e-3, atol=2e-3)
    # HiResCAM keeps places apart: gradient x feature map, summed over channels.
    found = attribute(deep, images, 2, signal=gradient_times_value, layers="relu").layers[0].numpy()
    np.testing.assert_allclose(found, peer_map("HiResCAM", deep, deep.relu, images, 2), rtol=1e-4, atol=1e-4)


def test_after_average_pooling_all_cams_are_one(conv_net: nn.Module, images: torch.Tensor) -> None:
    conv_net.eval()
    with torch.no_grad():
        conv_net.fc.weight.mul_(1000)
    found = GradCAM(signed=True)(conv_net, images, 1).layers[0].numpy()
    for kind in ("GradCAM", "XGradCAM", "HiResCAM"):
        wanted = peer_map(kind, conv_net, conv_net.act2, images, 1)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def test_captum_agrees_on_grad_cam(deep: Deep, images: torch.Tensor) -> None:
    captum = pytest.importorskip("captum.attr")
    want = captum.LayerGradCam(deep, deep.relu).attribute(images.clone().requires_grad_(), target=0)[:, 0].detach()
    torch.testing.assert_close(GradCAM("relu", signed=True)(deep, images, 0).layers[0], want)


def test_channels_add_up_and_neurons_restrict_the_weights(deep: Deep, images: torch.Tensor) -> None:
    def found(**options: Any) -> torch.Tensor:
        return SmoothGradCAMPlusPlus("relu", n_samples=3, **options)(deep, images, 2).layers[0]

    whole = found()
    torch.testing.assert_close(found(channels=range(5)), whole)
    torch.testing.assert_close(found(neurons=torch.ones(6, 8, dtype=torch.bool)), whole)
    torch.testing.assert_close(found(channels=[0, 3]) + found(channels=[4, 1, 2]), whole, rtol=1e-4, atol=1e-4)
    half = torch.zeros(6, 8, dtype=torch.bool)
    half[:2, 3:] = True
    pairs = [(i, j) for i in range(2) for j in range(3, 8)]
    torch.testing.assert_close(found(neurons=half), found(neurons=pairs))
    torch.testing.assert_close(found(neurons=half.numpy()), found(neurons=pairs))
    torch.testing.assert_close(found(neurons=half) + found(neurons=~half), whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found(neurons=half), whole, rtol=1e-2)


def test_a_tower_is_read_after_the_norm_of_its_last_block(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    text = clip_model.encode_text("a dog", normalize=True).detach()
    seen: list[torch.Tensor] = []
    norm = clip_model.visual.transformer.resblocks[-1].ln_1
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    cosine = (clip_model.encode_image(images.requires_grad_(), normalize=True) * text).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(cosine, seen[0])
    g, a = gradient[:, 1:].double(), seen[0][:, 1:].detach().double()
    alpha = g**2 / (2 * g**2 + a.sum(1, keepdim=True) * g**3)
    want = ((alpha * g.clamp(min=0)).sum(1, keepdim=True) * a).sum(-1).unflatten(1, (4, 4))
    found = GradCAMPlusPlus()(clip_model, images.detach(), "a dog").layers[0]
    torch.testing.assert_close(found.double(), want, rtol=1e-3, atol=1e-6)


def test_bad_settings_are_named(deep: Deep, images: torch.Tensor) -> None:
    for make, words in [
        (lambda: SmoothGradCAMPlusPlus(n_samples=0), "n and batch at least 1"),
        (lambda: SmoothGradCAMPlusPlus(activation="last"), "activation must be one of clean, mean"),
    ]:
        with pytest.raises(UsageError, match=words):
            make()
    for options, words in [
        ({"channels": [5]}, r"the layer has 5 \(0 to 4\)"),
        ({"channels": []}, "the layer has 5"),
        ({"neurons": torch.ones(3, 3, dtype=torch.bool)}, "the layer's grid is 6 x 8"),
        ({"neurons": [(6, 0)]}, "outside the layer's grid of 6 x 8"),
        ({"neurons": torch.ones(6, 8)}, r"bool or \(row, column\) pairs"),
    ]:
        with pytest.raises(UsageError, match=words):
            GradCAMPlusPlus("relu", **options)(deep, images, 0)

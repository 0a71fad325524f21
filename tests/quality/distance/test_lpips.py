"""LPIPS and ST-LPIPS (p119, arXiv 2207.13686): torchmetrics' network, geometry by hand, shifts, training, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.image.lpips import _LPIPS
from torchvision.models.vgg import make_layers

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import load_vision
from binderclip.quality import LPIPS, create_metric
from binderclip.quality.weights import write_weights

NARROW = (6, 8, 10, 8, 8)


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def smooth(count: int, side: int, seed: int = 0) -> Tensor:
    return F.interpolate(made(count, 3, 9, 9, seed=seed), size=(side, side), mode="bicubic").clamp(0, 1)


@torch.no_grad()
def test_the_vanilla_variant_is_that_of_torchmetrics() -> None:
    peer: Any = _LPIPS(pretrained=False, net="alex", pnet_rand=True, use_dropout=True)
    ours = LPIPS("alex", "vanilla")
    for a, b in zip(convolutions(ours.trunk), convolutions(peer.net), strict=True):
        a.load_state_dict(b.state_dict())
    for weight, layer in zip(ours.weights, peer.lins, strict=True):
        weight.copy_(layer.model[-1].weight.abs()[0, :, 0, 0])
        layer.model[-1].weight.abs_()
    x, y = made(2, 3, 64, 72), made(2, 3, 64, 72, seed=1)
    value, layers = peer(x, y, retperlayer=True, normalize=True)
    assert torch.allclose(ours(x, y), value.flatten(), rtol=1e-4)
    assert torch.allclose(ours(x, y, per_layer=True), torch.cat([layer[:, 0, 0] for layer in layers], 1), rtol=1e-4)


@torch.no_grad()
def test_maps_of_vgg_are_those_before_torchvisions_poolings() -> None:
    narrow = [4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 5, 5, 5, "M", 7, 7, 7, "M"]
    peer, ours = make_layers(narrow), LPIPS("vgg", "vanilla", widths=(4, 6, 8, 5, 7))  # type: ignore[arg-type]
    for a, b in zip(convolutions(ours.trunk), convolutions(peer), strict=True):
        a.load_state_dict(b.state_dict())
    x = made(1, 3, 32, 48)
    y, wanted = (x - ours.trunk.mean) / ours.trunk.std, []
    for layer in peer:
        if isinstance(layer, nn.MaxPool2d):
            wanted.append(y)
        y = layer(y.clone())
    for found, expected in zip(ours.trunk(x), wanted, strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_shift_tolerant_layers_have_the_papers_geometry() -> None:
    metric = LPIPS("alex", "shift-tolerant", widths=NARROW)
    # 64 -> 11x11 convolution, borders of 2: 58; mirrored by 2: 62; blurred by 3 at every second: 30. Then poolings of 3
    # and the same blur: 28, 32, 15; 13, 17, 8; the rest keeps its size.
    sizes = [tuple(maps.shape[2:]) for maps in metric.trunk(made(1, 3, 64, 64))]
    assert sizes == [(30, 30), (15, 15), (8, 8), (8, 8), (8, 8)]
    assert [type(layer).__name__ for layer in metric.trunk.stages[0].children()] == ["Conv2d", "BlurPool", "ReLU"]
    assert [tuple(m.shape[2:]) for m in LPIPS("alex", "vanilla", widths=NARROW).trunk(made(1, 3, 64, 64))] == [
        (15, 15), (7, 7), (3, 3), (3, 3), (3, 3),
    ]  # fmt: skip
    vgg = LPIPS("vgg", "shift-tolerant", widths=NARROW).trunk(made(1, 3, 32, 32))
    # 32; pooled by 2 at every place: 31; mirrored: 35; blurred: 17. Then 16, 20, 9; 8, 12, 5; 4, 8, 3.
    assert [maps.shape[2] for maps in vgg] == [32, 17, 9, 5, 3]


@torch.no_grad()
def test_a_filter_of_one_number_is_the_vanilla_network() -> None:
    plain, blurred = (LPIPS("alex", v, widths=NARROW, blur=1) for v in ("vanilla", "antialiased"))  # type: ignore[arg-type]
    for a, b in zip(convolutions(plain.trunk), convolutions(blurred.trunk), strict=True):
        b.load_state_dict(a.state_dict())
    x = made(1, 3, 67, 67)
    ours, theirs = blurred.trunk(x), plain.trunk(x)
    assert torch.allclose(ours[0][..., ::2, ::2], theirs[0], atol=1e-6)
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("variant", ["vanilla", "antialiased", "shift-tolerant"])
@torch.no_grad()
def test_it_is_a_distance(variant: Any) -> None:
    metric = LPIPS("alex", variant, widths=NARROW)
    x, y = smooth(3, 48), smooth(3, 48, seed=1)
    assert metric.lower_better is True
    assert metric(x, x).abs().max() == 0
    assert torch.allclose(metric(x, y), metric(y, x))
    assert bool((metric(x, y) > 0).all())
    assert torch.allclose(metric(x, y, per_layer=True).sum(1), metric(x, y))
    one = metric(x, y[:1])
    assert torch.allclose(one[2], metric(x[2:], y[:1])[0], atol=1e-6)


@torch.no_grad()
def test_lite0_keeps_its_weights_and_changes_less_under_a_shift() -> None:
    vanilla, tolerant = LPIPS("lite0", "vanilla"), create_metric("st-lpips")
    x = made(1, 3, 64, 64)
    net: Any = load_vision("lite0").module
    features = net.blocks(net.bn1(net.conv_stem((x - vanilla.trunk.mean) / vanilla.trunk.std)))
    assert torch.allclose(vanilla.trunk(x)[-1], features, atol=1e-5)
    assert (tolerant.net, tolerant.variant) == ("lite0", "shift-tolerant")
    for a, b in zip(convolutions(vanilla.trunk), convolutions(tolerant.trunk), strict=True):
        assert torch.equal(a.weight, b.weight)
    # The finer four layers change less where a picture with fine detail is shifted by a pixel.
    wide = made(2, 3, 96, 97)
    moved = [metric(wide[..., 1:], wide[..., :96], per_layer=True).mean(0)[:4] for metric in (vanilla, tolerant)]
    assert bool((moved[1] < 0.8 * moved[0]).all())


def test_choices_are_learned_and_weights_stay_positive(tmp_path: Path) -> None:
    reference = smooth(60, 32, seed=2)
    noisy, dark = reference + 0.02 * made(60, 3, 32, 32), reference * 0.3
    # People here do not mind the dark but the noise: against what random features say.
    metric = LPIPS("alex", "vanilla", widths=NARROW)
    with torch.no_grad():
        before = float((metric(noisy.clamp(0, 1), reference) < metric(dark, reference)).float().mean())
        metric.weights[0][0] = -1.0
    result = metric.fit_triplets(
        reference, noisy.clamp(0, 1), dark, torch.ones(60), steps=30, lr=1e-2, batch_size=15, seed=1
    )  # fmt: skip
    assert before > 0.9
    assert result.history["lr"][0] == pytest.approx(1e-2)
    assert result.history["lr"][-1] < 1e-3
    assert result.history["loss"][-5:].mean() < 0.3 * result.history["loss"][0]
    assert min(float(weight.detach().min()) for weight in metric.weights) >= 0
    path = metric.save_weights(tmp_path / "w.safetensors")
    again = create_metric("lpips", path=path)
    with torch.no_grad():
        assert torch.equal(again(noisy[:4], reference[:4]), metric(noisy[:4], reference[:4]))


@pytest.mark.parametrize("variant", ["vanilla", "shift-tolerant"])
def test_pictures_of_another_range_are_refused(variant: Any) -> None:
    metric, right = LPIPS("alex", variant, widths=NARROW), made(2, 3, 40, 40)
    hurt = right.clone()
    hurt[1, 0, 3, 4] = float("nan")
    metric(right + 0.05, right)  # rounding and resampling may leave the range a little
    for wrong, said in ((255 * right, "from .* to 25"), (2 * right - 1, "from -"), (hurt, "from nan")):
        for pair in ((wrong, right), (right, wrong), (wrong.double(), right)):
            with pytest.raises(UsageError, match=f"float images must lie in .*{said}"):
                metric(*pair)
        leaf = wrong.clone().requires_grad_()
        with pytest.raises(UsageError, match="must lie in"):
            metric(leaf, right)
        for place in range(3):
            triplet = [right, right, right]
            triplet[place] = wrong
            with pytest.raises(UsageError, match="must lie in"):
                metric.fit_triplets(*triplet, torch.ones(2), steps=1)  # type: ignore[misc]


def test_mistakes_are_named(tmp_path: Path) -> None:
    metric, images = LPIPS("alex", widths=NARROW), made(2, 3, 40, 40)
    for make, said in (
        (lambda: LPIPS("resnet"), "net 'resnet' is unknown"),  # type: ignore[arg-type]
        (lambda: LPIPS("alex", "blurry"), "variant 'blurry' is unknown"),  # type: ignore[arg-type]
        (lambda: LPIPS("lite0", widths=NARROW), "for alex and vgg"),
        (lambda: metric(made(1, 3, 40, 40), made(1, 3, 40, 41)), "must be of one size"),
        (lambda: metric(made(1, 3, 24, 40), made(1, 3, 24, 40)), "24 x 40 pixels are too small"),
        (lambda: metric.maps(torch.zeros(1, 1, 40, 40)), "must be float"),
        (lambda: metric.fit_triplets(images, images, images, torch.tensor([0.0, 2.0]), steps=1), "must lie in"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            make()
    path = write_weights(tmp_path / "w", {}, "LPIPS", net="alex", variant="odd", widths=NARROW, blur=3)
    with pytest.raises(CheckpointError, match="variant 'odd' is unknown"):
        LPIPS.from_weights(path)

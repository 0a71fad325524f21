"""p124: translation networks against the released code's keys and shapes, and filters of other libraries."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import convolve1d
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import PatchDiscriminator, PatchProjection, ResnetTranslator

# What `torch.save(net.state_dict())` of the released code holds with its default options: horse2zebra_cut_pretrained.
BIAS = {"model.1": 64, "model.4": 128, "model.8": 256, "model.22": 128, "model.26": 64, "model.30": 3}
GENERATOR = {
    "model.1.weight": (64, 3, 7, 7),
    "model.4.weight": (128, 64, 3, 3),
    "model.7.filt": (128, 1, 3, 3),
    "model.8.weight": (256, 128, 3, 3),
    "model.11.filt": (256, 1, 3, 3),
    **{f"model.{n}.conv_block.{c}.weight": (256, 256, 3, 3) for n in range(12, 21) for c in (1, 5)},
    **{f"model.{n}.conv_block.{c}.bias": (256,) for n in range(12, 21) for c in (1, 5)},
    "model.21.filt": (256, 1, 4, 4),
    "model.22.weight": (128, 256, 3, 3),
    "model.25.filt": (128, 1, 4, 4),
    "model.26.weight": (64, 128, 3, 3),
    "model.30.weight": (3, 64, 7, 7),
    **{f"{name}.bias": (width,) for name, width in BIAS.items()},
}
DISCRIMINATOR = {
    "model.0.weight": (64, 3, 4, 4),
    "model.0.bias": (64,),
    "model.2.filt": (64, 1, 3, 3),
    "model.3.weight": (128, 64, 4, 4),
    "model.3.bias": (128,),
    "model.6.filt": (128, 1, 3, 3),
    "model.7.weight": (256, 128, 4, 4),
    "model.7.bias": (256,),
    "model.10.filt": (256, 1, 3, 3),
    "model.11.weight": (512, 256, 4, 4),
    "model.11.bias": (512,),
    "model.14.weight": (1, 512, 4, 4),
    "model.14.bias": (1,),
}
PROJECTION = {
    f"mlp_{n}.{layer}.{kind}": (256, inner if layer == 0 else 256) if kind == "weight" else (256,)
    for n, inner in enumerate((3, 128, 256, 256, 256))
    for layer in (0, 2)
    for kind in ("weight", "bias")
}


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def test_released_checkpoints_fit_by_key_and_shape() -> None:
    with torch.device("meta"):
        translator, discriminator = ResnetTranslator(), PatchDiscriminator()
    assert shapes(translator) == GENERATOR
    assert shapes(discriminator) == DISCRIMINATOR
    assert shapes(PatchProjection((3, 128, 256, 256, 256))) == PROJECTION


def test_halving_is_the_binomial_filter_and_doubling_is_bilinear() -> None:
    model = ResnetTranslator(1, 1, ngf=1, n_blocks=0).model
    x = torch.randn(1, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    blurred = x.numpy()
    for axis in (2, 3):
        blurred = convolve1d(blurred, [0.25, 0.5, 0.25], axis=axis, mode="mirror")
    torch.testing.assert_close(model[7](x), torch.from_numpy(blurred[..., ::2, ::2].copy()))
    double = model[12]
    wide = x.repeat(1, 2, 1, 1)
    bilinear = F.interpolate(wide, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(double(wide), bilinear)


def test_a_logit_of_the_plain_discriminator_sees_seventy_pixels() -> None:
    net = PatchDiscriminator(1, ndf=2, antialias=False)
    for number, layer in enumerate(net.model):
        if isinstance(layer, nn.InstanceNorm2d):  # a norm sees the whole map
            net.model[number] = nn.Identity()
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, 128, 128, requires_grad=True)
    logits = net(x)
    (gradient,) = torch.autograd.grad(logits[0, 0, 7, 7], x)
    assert int((gradient[0, 0].abs().sum(0) > 0).sum()) == 70


def test_features_are_what_the_whole_network_computes_on_its_way() -> None:
    translator = ResnetTranslator(ngf=4, n_blocks=2)
    x, kept = torch.randn(2, 3, 16, 16), {}
    for place in (0, 4, 13):
        translator.model[place].register_forward_hook(lambda m, i, o, place=place: kept.update({place: o}))
    output = translator(x)
    taps = translator.features(x, (0, 4, 13))
    assert all(torch.equal(tap, whole) for tap, whole in zip(taps, list(kept.values()), strict=True))
    assert translator.tap_channels((0, 4, 13)) == [3, 8, 16]
    assert output.shape == x.shape


def test_what_has_no_meaning_is_refused() -> None:
    translator = ResnetTranslator(ngf=2, n_blocks=1)
    for taps in ((), (4, 0), (0, 13)):
        with pytest.raises(UsageError, match="taps"):
            translator.tap_channels(taps)
    with pytest.raises(UsageError, match="multiples of 4"):
        translator(torch.zeros(1, 3, 18, 16))
    with pytest.raises(UsageError, match="ngf"):
        ResnetTranslator(ngf=0)
    with pytest.raises(UsageError, match="n_layers"):
        PatchDiscriminator(n_layers=9)
    with pytest.raises(UsageError, match="feature map"):
        PatchProjection(())

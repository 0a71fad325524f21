"""Extract and aggregate against really inserted layers, materialised outer products and pytorch-grad-cam (p066)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.explain import ExtractAggregate, GaussianNoise, NormGrad, Saliency, attribute_all, extract_aggregate

EXTRACTS = ("bias", "scaling", "conv1x1", "conv3x3", "depthwise3x3")


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """A signed feature map and gradient (B, C, h, w)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 5, 6, generator=generator), torch.randn(2, 4, 5, 6, generator=generator)


def terms(x: Tensor, g: Tensor, extract: str) -> Tensor:
    """The terms of all places, written out: (B, entries, h, w)."""
    b, c, h, w = x.shape
    patches = F.unfold(x, 3, padding=1).reshape(b, c, 9, h, w)
    if extract == "bias":
        return g
    if extract == "scaling":
        return x * g
    if extract == "conv1x1":
        return torch.einsum("bihw,bohw->boihw", x, g).reshape(b, -1, h, w)
    if extract == "conv3x3":
        return torch.einsum("biphw,bohw->boiphw", patches, g).reshape(b, -1, h, w)
    return (patches * g[:, :, None]).reshape(b, -1, h, w)


def aggregated(entries: Tensor, aggregate: str) -> Tensor:
    return {
        "sum": lambda t: t.sum(1),
        "norm": lambda t: torch.linalg.vector_norm(t, dim=1),
        "filter-norm": lambda t: torch.linalg.vector_norm(t.relu(), dim=1),
        "max": lambda t: t.max(1).values,
        "max-abs": lambda t: t.abs().max(1).values,
    }[aggregate](entries)


def inserted(x: Tensor, extract: str, weight: Tensor) -> Tensor:
    """A real layer behind x that changes nothing."""
    if extract == "bias":
        return x + weight[None, :, None, None]
    if extract == "scaling":
        return x * weight[None, :, None, None]
    if extract == "depthwise3x3":
        return F.conv2d(x, weight, padding=1, groups=x.shape[1])
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


def identity(extract: str, c: int) -> Tensor:
    if extract in ("bias", "scaling"):
        return torch.full((c,), float(extract == "scaling"))
    side = 1 if extract == "conv1x1" else 3
    weight = torch.zeros(c, 1 if extract == "depthwise3x3" else c, side, side)
    for k in range(c):
        weight[k, 0 if extract == "depthwise3x3" else k, side // 2, side // 2] = 1
    return weight


@pytest.mark.parametrize("extract", EXTRACTS)
def test_terms_sum_to_the_gradient_of_a_really_inserted_layer(extract: str, pair: tuple[Tensor, Tensor]) -> None:
    x = pair[0][:1]
    weight = identity(extract, 4).requires_grad_()
    torch.manual_seed(1)
    head = nn.Sequential(nn.Conv2d(4, 7, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(210, 1))
    out = inserted(x, extract, weight)
    torch.testing.assert_close(out, x)
    g, slope = torch.autograd.grad(head(out).sum(), [out, weight])
    written = terms(x, g, extract)
    torch.testing.assert_close(written.sum(dim=(0, 2, 3)).view_as(slope), slope, rtol=1e-4, atol=1e-6)
    ours = extract_aggregate(x.permute(0, 2, 3, 1), g.permute(0, 2, 3, 1), extract, "sum")
    torch.testing.assert_close(ours.sum(), slope.sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("extract", EXTRACTS)
@pytest.mark.parametrize("aggregate", ["sum", "norm", "filter-norm", "max", "max-abs"])
def test_aggregates_equal_those_of_the_terms_written_out(
    extract: str, aggregate: str, pair: tuple[Tensor, Tensor]
) -> None:
    x, g = pair
    # All of one sign at some places: there the largest entry may be negative.
    x, g = torch.where(x[:, :1] > 0, x.abs(), x), torch.where(g[:, :1] > 0, -g.abs(), g)
    found = extract_aggregate(x.permute(0, 2, 3, 1), g.permute(0, 2, 3, 1), extract, aggregate)
    torch.testing.assert_close(found, aggregated(terms(x, g, extract), aggregate), rtol=1e-4, atol=1e-5)


def test_normgrad_is_the_product_of_norms_at_a_layer(conv_net: nn.Module, images: Tensor) -> None:
    x = conv_net.act1(conv_net.conv1(images)).detach().requires_grad_()
    (g,) = torch.autograd.grad(conv_net.fc(conv_net.act2(conv_net.conv2(x)).mean(dim=(2, 3)))[:, 2].sum(), x)
    found = NormGrad(layers="act1")(conv_net, images, 2)
    torch.testing.assert_close(found.layers[0], (x.norm(dim=1) * g.norm(dim=1)).detach())
    assert (found.method, found.finish) == ("normgrad", "abs")


def test_scaling_and_sum_are_pytorch_grad_cams_elementwise_methods(conv_net: nn.Module, images: Tensor) -> None:
    cam = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    wanted = [ClassifierOutputTarget(1)] * len(images)
    ours = ExtractAggregate("scaling", "sum", layers="act1")
    # HiResCAM: the positive part of the sum, brought to [0, 1] and resized by its own means, so compared on the grid.
    theirs = cam.HiResCAM(model=conv_net, target_layers=[conv_net.act1])(input_tensor=images, targets=wanted)
    found = ours(conv_net, images, 1).layers[0].clamp(min=0)
    assert found.shape == theirs.shape
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    torch.testing.assert_close((found - low) / (high - low), torch.from_numpy(theirs), rtol=1e-3, atol=1e-4)
    # LayerCAM drops negative gradients: the same where none is negative.
    with torch.no_grad():
        conv_net.conv2.weight.abs_()
        conv_net.fc.weight.abs_()
    theirs = cam.LayerCAM(model=conv_net, target_layers=[conv_net.act1])(input_tensor=images, targets=wanted)
    found = ours(conv_net, images, 1).layers[0]
    low, high = found.amin((1, 2), keepdim=True), found.amax((1, 2), keepdim=True)
    torch.testing.assert_close((found - low) / (high - low), torch.from_numpy(theirs), rtol=1e-3, atol=1e-4)


def test_bias_and_largest_magnitude_at_the_input_is_gradient_saliency(conv_net: nn.Module, images: Tensor) -> None:
    found = attribute_all(
        conv_net, images, 0, methods={"a": ExtractAggregate("bias", "max-abs", layers="input"), "b": Saliency()}
    )
    torch.testing.assert_close(found["a"].maps(), found["b"].maps())


def test_patch_tokens_are_places_and_the_class_token_is_none(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    text = clip_model.encode_text("a dog", normalize=True).detach()
    seen: list[Tensor] = []
    handle = clip_model.visual.transformer.resblocks[1].ln_1.register_forward_hook(lambda m, i, o: seen.append(o))
    cosine = (clip_model.encode_image(images.requires_grad_(), normalize=True) * text).sum()
    handle.remove()
    (g,) = torch.autograd.grad(cosine, seen[0])
    x, g = (t.detach()[:, 1:].transpose(1, 2).unflatten(2, (4, 4)) for t in (seen[0], g))
    for extract in ("conv1x1", "conv3x3", "depthwise3x3"):
        found = ExtractAggregate(extract, "norm", layers=1)(clip_model, images.detach(), "a dog")
        want = aggregated(terms(x, g, extract), "norm")
        torch.testing.assert_close(found.layers[0], want, rtol=1e-3, atol=1e-6)


def test_several_passes_average_aggregated_maps(conv_net: nn.Module, images: Tensor) -> None:
    plain = NormGrad(layers="act1")(conv_net, images, 1)
    still = NormGrad(layers="act1", ensemble=GaussianNoise(3, 0.0))(conv_net, images, 1)
    torch.testing.assert_close(still.layers[0], plain.layers[0])
    moved = NormGrad(layers="act1", ensemble=GaussianNoise(3, 0.3))(conv_net, images, 1)
    assert not torch.allclose(moved.layers[0], plain.layers[0])


def test_unknown_choices_are_named() -> None:
    with pytest.raises(UsageError, match="extract must be one of bias, scaling"):
        ExtractAggregate("conv5x5")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="aggregate must be one of sum, norm"):
        NormGrad(aggregate="mean")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="combine must be one of sum, mean, product"):
        NormGrad(combine="max")  # type: ignore[arg-type]

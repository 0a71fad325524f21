"""FullGrad of p062 (arXiv 1905.00780): sums by hand, the published map written anew, implicit biases by slopes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import (
    METHODS,
    FullGrad,
    GradCAM,
    Saliency,
    SmoothGrad,
    attribute_all,
    deletion_auc,
    full_gradients,
)
from binderclip.models import load


class Network(nn.Module):
    """Everything the decomposition has to get right: batch norms, ReLU in place, one layer used twice, a side path."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(6) if bias else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.twice = nn.Conv2d(6, 6, 3, padding=1, bias=bias)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 5, 3, bias=False)
        self.norm2 = nn.BatchNorm2d(5) if bias else nn.Identity()
        self.fc = nn.Linear(5, 4, bias=bias)
        generator = torch.Generator().manual_seed(4)
        for norm in (self.norm1, self.norm2):
            if isinstance(norm, nn.BatchNorm2d):
                for values in (norm.weight, norm.bias, norm.running_mean):
                    values.data.copy_(torch.randn(values.shape, generator=generator))
                norm.running_var.copy_(0.2 + torch.rand(norm.running_var.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm1(self.conv1(x)))
        x = x + self.act(self.twice(x))
        x = self.pool(self.act(self.twice(x)))
        return self.fc(self.act(self.norm2(self.conv2(x))).mean(dim=(2, 3)))


@pytest.fixture
def network() -> Network:
    return Network().eval()


def gradient_at(score: Tensor, at: Tensor) -> Tensor:
    return torch.autograd.grad(score.sum(), at, retain_graph=True)[0]


def test_two_linear_pieces_by_hand() -> None:
    # f(x) = 3 relu(2 x - 1) + 0.5
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.ReLU(inplace=True), nn.Linear(1, 1))
    with torch.no_grad():
        for layer, weight, bias in ((net[1], 2.0, -1.0), (net[3], 3.0, 0.5)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    found = full_gradients(net, torch.tensor([2.0, 0.25]).view(2, 1, 1, 1), 0)
    # Right of the kink the slope is 6 and the first bias counts three times; left of it only the last one is left.
    assert found.input.flatten().tolist() == [12.0, 0.0]
    assert [(term.name, term.op) for term in found.terms] == [("1", "linear"), ("3", "linear")]
    assert [term.total().tolist() for term in found.terms] == [[-3.0, 0.0], [0.5, 0.5]]
    assert found.value.tolist() == found.total().tolist() == [9.5, 0.5]


def test_without_biases_the_input_is_everything(images: Tensor) -> None:
    net = Network(bias=False).eval()
    x = images.clone().requires_grad_()
    score = net(x)[:, 1]
    product = (gradient_at(score, x) * x).detach()
    found = full_gradients(net, images, 1)
    assert not found.terms
    torch.testing.assert_close(found.input, product)
    torch.testing.assert_close(product.sum((1, 2, 3)), score.detach())
    for index, maps in enumerate(FullGrad()(net, images, 1).maps()):
        size = product[index].abs()
        want = (size - size.min()) / (size.max() - size.min() + 1e-6)
        torch.testing.assert_close(maps, want.sum(0))


def published(net: Network, images: Tensor, target: int, simple: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Map and bias terms of the paper, layer by layer, channel by channel, with effective biases by its formula."""
    x = images.clone().requires_grad_()
    layers, places = [], []

    def apply(layer: nn.Module, fed: Tensor) -> Tensor:
        out = layer(fed)
        layers.append(layer)
        places.append(out)
        return out.clone()

    one = apply(net.norm1, apply(net.conv1, x)).relu()
    two = one + apply(net.twice, one).relu()
    three = net.pool(apply(net.twice, two).relu())
    last = apply(net.norm2, net.conv2(three)).relu().mean(dim=(2, 3))
    score = apply(net.fc, last)[:, target]
    maps, terms = psi(gradient_at(score, x) * x).sum(1).detach(), []
    for layer, place in zip(layers, places, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            bias = layer.bias - layer.running_mean * layer.weight / torch.sqrt(layer.running_var + layer.eps)
        else:
            bias = layer.bias
        gradient = gradient_at(score, place)
        terms.append((gradient * bias.view(-1, *[1] * (place.ndim - 2))).detach())
        if place.ndim == 4:
            shown = psi(gradient.detach() if simple else terms[-1])
            for channel in range(shown.shape[1]):
                part = shown[:, channel : channel + 1]
                maps = maps + F.interpolate(part, images.shape[-2:], mode="bilinear", align_corners=True)[:, 0]
    return maps, terms


def psi(values: Tensor) -> Tensor:
    out = []
    for each in values.abs():
        low = each - each.min()
        out.append(low / (low.max() + 1e-6))
    return torch.stack(out)


def test_terms_and_map_equal_the_published_formula(network: Network, images: Tensor) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    want, terms = published(network, images, 2)
    found = full_gradients(network, images, 2)
    assert [term.name for term in found.terms] == ["conv1", "norm1", "twice", "twice", "norm2", "fc"]
    assert not any(term.implicit for term in found.terms)
    for term, expected in zip(found.terms, terms, strict=True):
        torch.testing.assert_close(term.values, expected, rtol=1e-4, atol=1e-6)
    assert float(found.completeness_error().max()) < 1e-4
    attribution = FullGrad()(network, images, 2)
    torch.testing.assert_close(attribution.maps(), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attribution.value, network(images)[:, 2].detach())
    error = attribution.completeness_error()
    assert error is not None
    assert float(error.max()) < 1e-4
    simple = published(network, images, 2, simple=True)[0]
    torch.testing.assert_close(FullGrad("simple")(network, images, 2).maps(), simple, rtol=1e-4, atol=1e-5)
    # A bias parameter taken for the effective bias would be another map, and no sum.
    assert not torch.allclose(simple, want, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())


def test_a_batch_norm_folded_into_its_convolution_changes_no_sum(network: Network, images: Tensor) -> None:
    split = full_gradients(network, images, 1)
    folded_net = Network().eval()
    folded_net.conv1, folded_net.norm1 = fuse_conv_bn_eval(network.conv1, network.norm1), nn.Identity()
    folded_net.conv2, folded_net.norm2 = fuse_conv_bn_eval(network.conv2, network.norm2), nn.Identity()
    folded = full_gradients(folded_net, images, 1)
    torch.testing.assert_close(folded.total(), split.total(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(folded.input, split.input, rtol=1e-4, atol=1e-6)
    both = sum(term.total() for term in split.terms if term.name in ("conv1", "norm1"))
    torch.testing.assert_close(folded.terms[0].total(), both, rtol=1e-4, atol=1e-6)


class Curved(nn.Module):
    """One operation after the image, read by fixed weights: its implicit bias can be had from slopes along the ray."""

    def __init__(self, operation: Any, read: Tensor) -> None:
        super().__init__()
        self.operation, self.read = operation, read

    def forward(self, x: Tensor) -> Tensor:
        return (self.operation(x) * self.read.to(x)).flatten(1).sum(1, keepdim=True)


def attention(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)[:, None]
    return F.scaled_dot_product_attention(tokens, 3 * tokens, tokens).reshape(len(x), 3, 12, 16)


def overwriting(x: Tensor) -> Tensor:
    out = torch.full_like(x, 0.3)
    out[:, :, ::2] = x[:, :, ::2]
    out.mul_(2)
    out += 1
    return out.clamp_(max=2.5)


@pytest.mark.parametrize(
    "operation",
    [
        F.gelu,
        torch.sigmoid,
        nn.SiLU(),
        nn.LayerNorm(16),
        nn.GroupNorm(3, 3),
        attention,
        overwriting,
        lambda x: x.softmax(-1) * x,
        lambda x: x.mean((2, 3), keepdim=True).expand_as(x).sigmoid(),
        lambda x: F.hardtanh(2 * x, 0.2, 0.9, inplace=True),
        lambda x: F.normalize(x.flatten(1), dim=1).view_as(x),
        lambda x: torch.cat([x[:, :1], torch.ones_like(x[:, 1:])], dim=1),
        lambda x: x.amax(1, keepdim=True) + torch.logsumexp(x, dim=1, keepdim=True),
        lambda x: F.interpolate(x, size=(12, 16), mode="bicubic", antialias=True).clamp(0.1, 0.8),
    ],
)
def test_implicit_biases_are_what_the_slope_along_the_ray_leaves(operation: Any, images: Tensor) -> None:
    x = images.double()
    net = Curved(operation, torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(1))).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = full_gradients(net, x, 0)
    with torch.no_grad():
        slope = (net((1 + 1e-6) * x) - net((1 - 1e-6) * x))[:, 0] / 2e-6
        torch.testing.assert_close(found.input.sum((1, 2, 3)), slope, rtol=1e-5, atol=1e-6)
        rest = sum(term.total() for term in found.terms)
        torch.testing.assert_close(rest, net(x)[:, 0] - slope, rtol=1e-5, atol=1e-6)
    assert found.terms
    assert float(found.completeness_error().max()) < 1e-6


def test_the_implicit_bias_of_a_layer_norm_has_a_closed_form(images: Tensor) -> None:
    norm = nn.LayerNorm(16, eps=0.05)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(1))
    read = torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(2))
    (term,) = full_gradients(Curved(norm, read), images, 0).terms
    # Along the ray a normalised vector moves only as far as eps counts: b = var / (var + eps) * scaled + shift.
    variance = images.var(-1, unbiased=False, keepdim=True)
    scaled = (images - images.mean(-1, keepdim=True)) / (variance + norm.eps).sqrt() * norm.weight
    want = read * (variance / (variance + norm.eps) * scaled + norm.bias)
    torch.testing.assert_close(term.values, want.detach(), rtol=1e-4, atol=1e-5)
    assert term.implicit
    assert (term.name, term.op) == ("operation", "layer_norm")


def test_images_on_another_axis_do_not_mix(images: Tensor) -> None:
    class SequenceFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.TransformerEncoderLayer(12, 3, 16, batch_first=False)
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.reshape(len(x), 3 * 16, 12).transpose(0, 1)
            return self.head(self.layer(tokens).mean(0))

    net = SequenceFirst().eval()
    together = full_gradients(net, images, 1)
    assert float(together.completeness_error().max()) < 1e-4
    for index in range(3):
        alone = full_gradients(net, images[index], 1)
        torch.testing.assert_close(alone.input[0], together.input[index], rtol=1e-4, atol=1e-6)
        for one, all_three in zip(alone.terms, together.terms, strict=True):
            assert one.op == all_three.op
            torch.testing.assert_close(one.total()[0], all_three.total()[index], rtol=1e-3, atol=1e-5)
    one_each = full_gradients(net, images, [1, 0, 1])
    torch.testing.assert_close(one_each.terms[0].total()[[0, 2]], together.terms[0].total()[[0, 2]])
    assert not torch.allclose(one_each.terms[0].total()[1], together.terms[0].total()[1])


def test_a_cosine_is_all_in_its_own_bias(clip_model: Any) -> None:
    images = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    found = full_gradients(clip_model, images, "a red cat")
    cosine = clip_model.encode_image(images, normalize=True) @ clip_model.encode_text("a red cat", normalize=True).T
    torch.testing.assert_close(found.value, cosine[:, 0].detach())
    assert float(found.completeness_error().max()) < 1e-4
    # The length of the features does not matter, so no step along the ray changes a cosine.
    assert found.terms[-1].op == "normalize"
    torch.testing.assert_close(found.terms[-1].total(), found.value.double(), rtol=1e-4, atol=1e-5)
    attribution = FullGrad()(clip_model, images, "a red cat")
    # Of the tall image the model sees the middle: terms of tokens say nothing about the rest.
    assert float(attribution.maps()[:, :4].abs().max()) == 0 < float(attribution.maps()[:, 4:36].min())
    assert len(attribution.layers) > 20
    names = {term.name for term in found.terms if term.op == "linear"}
    assert "transformer.resblocks.1.mlp.c_fc" in names


def test_terms_of_a_classifier_of_logits_are_worth_as_much_as_its_score(clip_model: Any) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = full_gradients(clip_model.predictor(["a cat", "a dog"]), images, 1)
    assert float(found.completeness_error().max()) < 1e-4


@pytest.mark.parametrize("name", ["small", "small-b"])
def test_the_bundled_models_lose_no_term_to_layers_that_are_made_fast(name: str) -> None:
    """Their depthwise convolutions have biases, which a convolution as one operation of its own hid."""
    model: Any = load(name)
    images = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = full_gradients(model, images, "a red cat")
    assert float(found.completeness_error().max()) < 1e-4
    biased = {
        name
        for name, part in model.visual.named_modules()
        if isinstance(part, nn.Conv2d) and part.bias is not None and part.groups > 1
    }
    assert biased <= {term.name for term in found.terms if term.op == "conv2d"}


def test_missing_terms_are_warned_of(images: Tensor, network: Network) -> None:
    norm = Curved(nn.LayerNorm(16), torch.randn(3, 12, 16, generator=torch.Generator().manual_seed(2)))
    with pytest.warns(UserWarning, match=r"without implicit biases .* the rest is in layer_norm; implicit=True"):
        assert not full_gradients(norm, images, 0, implicit=False).terms
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        full_gradients(network, images, 0, implicit=False)

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return 3 * ctx.saved_tensors[0] ** 2 * gradients[0]

    with pytest.warns(UserWarning, match=r"the terms miss the score by up to 200.0%: some operation of Curved"):
        full_gradients(Curved(Cube.apply, torch.ones(3, 12, 16)), images, 0)


def test_smooth_terms_are_means_over_noise_before_psi(network: Network, images: Tensor) -> None:
    generator = torch.Generator().manual_seed(5)
    spread = 0.2 * (images.flatten(1).amax(1) - images.flatten(1).amin(1))[:, None, None, None]
    total: list[Tensor] = []
    for _ in range(3):
        noisy = images + spread * torch.randn(images.shape[1:], generator=generator)
        x = noisy.clone().requires_grad_()
        product = (gradient_at(network(x)[:, 1], x) * x).detach()
        parts = [product.sum(1, keepdim=True), *published(network, noisy, 1)[1]]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    want = torch.zeros(3, 12, 16)
    for part in total:
        if part.ndim == 4:
            resized = F.interpolate(psi(part / 3), (12, 16), mode="bilinear", align_corners=True)
            want = want + resized.sum(1)
    method = FullGrad("smooth", n_samples=3, level=0.2, seed=5)
    found = method(network, images, 1)
    torch.testing.assert_close(found.maps(), want, rtol=1e-4, atol=1e-4)
    assert float(found.completeness_error().max()) < 1e-4  # type: ignore[union-attr]
    torch.testing.assert_close(method(network, images[1], 1).maps()[0], found.maps()[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("look", ["register_hook", "retain_grad", "numpy", "statistics"])
def test_what_somebodys_hook_does_to_look_on_changes_nothing(network: Network, images: Tensor, look: str) -> None:
    want = full_gradients(network, images, 2)
    seen: list[Any] = []

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if look == "register_hook":
            output.register_hook(lambda gradient: seen.append(gradient.clone()))
        elif look == "retain_grad":
            output.retain_grad()
            seen.append(output)
        elif look == "numpy":
            seen.append((output.numpy(force=True), output.tolist(), repr(output)))
        else:
            seen.append((output.std().item(), bool(output.isnan().any()), output.argmax(), output.shape))

    handles = [module.register_forward_hook(hook) for module in (network.conv1, network.norm2, network.fc)]
    try:
        found = full_gradients(network, images, 2)
    finally:
        for handle in handles:
            handle.remove()
    assert len(seen) >= 3
    assert float(found.completeness_error().max()) < 1e-4
    torch.testing.assert_close(found.input, want.input, rtol=0, atol=0)
    assert [(term.name, term.op) for term in found.terms] == [(term.name, term.op) for term in want.terms]
    for term, expected in zip(found.terms, want.terms, strict=True):
        torch.testing.assert_close(term.values, expected.values, rtol=0, atol=0)


def returns_nothing(call: Any, *arguments: Any) -> Any:
    """A forward hook that does something with the output."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        call(output, *arguments)

    return hook


def test_a_hook_that_asks_for_gradients_stands_in_nobodys_way(
    network: Network, images: Tensor, clip_model: Any
) -> None:
    cases = [
        lambda: FullGrad("smooth", n_samples=2)(network, images, 2).maps(),
        lambda: SmoothGrad(n_samples=2)(network, images).maps(),
        lambda: GradCAM()(network, images, 2).maps(),
        lambda: deletion_auc(network, images, 2, maps=torch.rand(3, 12, 16, generator=torch.Generator())).curve,
        lambda: full_gradients(clip_model, images, "a cat").total(),
        lambda: SmoothGrad(n_samples=2)(clip_model, images, "a cat").maps(),
        lambda: deletion_auc(clip_model, images, "a cat", maps=torch.ones(3, 12, 16), steps=2).curve,
    ]
    want = [case() for case in cases]
    hooked = [network.conv1, network.norm2, clip_model.visual.conv1, clip_model.visual.ln_post]
    handles = [module.register_forward_hook(returns_nothing(Tensor.register_hook, lambda g: None)) for module in hooked]
    handles += [module.register_forward_hook(returns_nothing(Tensor.retain_grad)) for module in hooked]
    try:
        found = [case() for case in cases]
    finally:
        for handle in handles:
            handle.remove()
    assert not any(each.requires_grad for each in found)
    for each, expected in zip(found, want, strict=True):
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-6)


def test_it_runs_beside_methods_that_share_a_pass(network: Network, images: Tensor) -> None:
    found = attribute_all(network, images, None, methods={"full": METHODS["fullgrad"](), "saliency": Saliency()})
    assert list(found) == ["full", "saliency"]
    predicted = network(images).argmax(1).tolist()
    torch.testing.assert_close(found["full"].maps(), FullGrad()(network, images, predicted).maps())
    for index in range(3):
        torch.testing.assert_close(FullGrad()(network, images[index]).maps()[0], found["full"].maps()[index])


def test_bad_input_is_named(network: Network, images: Tensor) -> None:
    with pytest.raises(UsageError, match="variant must be one of full, simple, smooth, got 'rough'"):
        FullGrad("rough")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="noise"):
        FullGrad(n_samples=0)
    with pytest.raises(UsageError, match="target=9 is not a class"):
        FullGrad()(network, images, 9)
    distances = Curved(lambda x: torch.cdist(x, x + 1), torch.ones(3, 12, 12))
    with pytest.raises(NotSupported, match="the bias of cdist cannot be found"):
        full_gradients(distances, images, 0)

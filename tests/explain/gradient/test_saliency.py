"""Saliency of p147 (Deep Inside Convolutional Networks, arXiv 1312.6034) against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import METHODS, Saliency


class Linear(nn.Module):
    """S_c = w_c . I."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 3, 12, 16, generator=torch.Generator().manual_seed(5)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.w)


def test_a_linear_score_is_explained_by_its_weights(images: torch.Tensor) -> None:
    model = Linear()
    found = Saliency()(model, images, 2)
    want = model.w[2].detach().abs().amax(dim=0)
    torch.testing.assert_close(found.maps(), want.expand(3, -1, -1))
    torch.testing.assert_close(found.value, model(images)[:, 2].detach())
    torch.testing.assert_close(Saliency(reduce="abs-sum")(model, images, 2).maps()[0], model.w[2].abs().sum(0).detach())
    torch.testing.assert_close(Saliency(reduce="l2")(model, images, 2).maps()[0], model.w[2].norm(dim=0).detach())


def test_finite_differences_agree_on_twenty_pixels(images: torch.Tensor) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(384, 3)]
    model = nn.Sequential(*layers).double()
    x = images.double()
    maps = Saliency()(model, x, 1).maps()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        b, i, j = (int(torch.randint(n, (), generator=generator)) for n in (3, 12, 16))
        slopes = []
        for channel in range(3):
            step = torch.zeros_like(x)
            step[b, channel, i, j] = 1e-5
            slopes.append(float((model(x + step) - model(x - step))[b, 1]) / 2e-5)
        assert float(maps[b, i, j]) == pytest.approx(max(map(abs, slopes)), rel=1e-3, abs=1e-7)


def test_samples_do_not_interact_and_the_model_is_left_alone(conv_net: nn.Module, images: torch.Tensor) -> None:
    conv_net.train()
    conv_net.fc.weight.requires_grad_(False)
    together = Saliency()(conv_net, images).maps()
    for index in range(3):
        torch.testing.assert_close(Saliency()(conv_net, images[index]).maps()[0], together[index])
    assert conv_net.training
    assert conv_net.conv1.weight.requires_grad
    assert not conv_net.fc.weight.requires_grad
    assert all(parameter.grad is None for parameter in conv_net.parameters())


def test_none_is_the_predicted_class_and_a_list_is_one_an_image(conv_net: nn.Module, images: torch.Tensor) -> None:
    predicted = conv_net(images).argmax(dim=1)
    default = Saliency()(conv_net, images)
    one_each = Saliency()(conv_net, images, predicted.tolist())
    torch.testing.assert_close(default.maps(), one_each.maps())
    torch.testing.assert_close(default.value, conv_net(images).amax(dim=1).detach())


def two_layers(weight: torch.Tensor, top: torch.Tensor, inplace: bool = False, six: bool = False) -> nn.Module:
    act = nn.ReLU6(inplace) if six else nn.ReLU(inplace)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 8, bias=False), act, nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(weight)
        net[3].weight.copy_(top)
    return net


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("six", [False, True])
def test_relu_rules_equal_their_definitions(inplace: bool, six: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 3 * torch.randn(8, 12, generator=generator)
    top = torch.randn(2, 8, generator=generator)
    x = torch.rand(1, 3, 2, 2, generator=generator)
    net = two_layers(weight, top, inplace, six)
    before = weight @ x.flatten()
    on = (before > 0) & (before < (6.0 if six else float("inf")))
    assert on.any()
    assert not on.all()
    signals = {"gradient": top[1] * on, "deconv": top[1].clamp(min=0), "guided": top[1].clamp(min=0) * on}
    for rule, signal in signals.items():
        want = (weight.T @ signal).view(3, 2, 2).abs().amax(dim=0)
        found = Saliency(relu_rule=rule)(net, x, 1)
        torch.testing.assert_close(found.maps()[0], want)
        torch.testing.assert_close(found.value, net(x)[:, 1].detach())
    # The context restores the modules: the plain gradient is back.
    assert "forward" not in vars(net[2])


def test_deconv_and_gradient_agree_where_everything_is_positive() -> None:
    generator = torch.Generator().manual_seed(3)
    net = two_layers(torch.rand(8, 12, generator=generator), torch.rand(2, 8, generator=generator))
    x = torch.rand(2, 3, 2, 2, generator=generator)
    torch.testing.assert_close(Saliency(relu_rule="deconv")(net, x, 0).maps(), Saliency()(net, x, 0).maps())


def test_ten_crops_equal_a_loop(conv_net: nn.Module) -> None:
    x = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    height, width = 14, 21
    total, count = torch.zeros(16, 24), torch.zeros(16, 24)
    for top, left in [(1, 1), (0, 0), (0, 3), (2, 0), (2, 3)]:
        for mirrored in (False, True):
            crop = x[..., top : top + height, left : left + width]
            crop = (crop.flip(-1) if mirrored else crop).clone().requires_grad_()
            (gradient,) = torch.autograd.grad(conv_net(crop)[0, 3], crop)
            gradient = gradient.flip(-1) if mirrored else gradient
            total[top : top + height, left : left + width] += gradient[0].abs().amax(dim=0)
            count[top : top + height, left : left + width] += 1
    found = Saliency(tta=10)(conv_net, x, 3).maps()[0]
    torch.testing.assert_close(found, total / count)
    assert not torch.allclose(found, Saliency()(conv_net, x, 3).maps()[0], rtol=1e-2)


def test_a_text_target_is_the_gradient_of_the_cosine(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = Saliency()(clip_model, images, "a red cat")
    x = images.clone().requires_grad_()
    cosine = (clip_model.encode_image(x, normalize=True) * clip_model.encode_text("a red cat", normalize=True)).sum(-1)
    (gradient,) = torch.autograd.grad(cosine.sum(), x)
    torch.testing.assert_close(found.value, cosine.detach())
    torch.testing.assert_close(found.maps(), gradient.abs().amax(dim=1))


def test_the_map_is_zero_where_the_model_does_not_look(clip_model) -> None:
    # A centre crop of a wide image: the outer columns never reach the model.
    wide = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    maps = Saliency()(clip_model, wide, "a cat").maps()[0]
    assert float(maps[:, :16].abs().max()) == 0.0 == float(maps[:, 48:].abs().max())
    assert float(maps[:, 16:48].abs().min()) > 0


def test_bad_input_is_named(conv_net: nn.Module, images: torch.Tensor, clip_model) -> None:
    assert METHODS["saliency"] is Saliency
    for settings, words in [
        ({"tta": 11}, "tta must be from 1 to 10"),
        ({"reduce": "mean"}, "reduce must be"),
        ({"relu_rule": "lrp"}, "relu_rule must be"),
    ]:
        with pytest.raises(UsageError, match=words):
            Saliency(**settings)
    for target, words in [
        (4, r"target=4 is not a class: there are 4 \(0 to 3\)"),
        ([0, 1], "2 targets for 3 images"),
        ("cat", "no class names"),
        (1.5, "give a class index"),
        (lambda logits: logits, "one number an image"),
    ]:
        with pytest.raises(UsageError, match=words):
            Saliency()(conv_net, images, target)
    for target, words in [(None, "has no classes; give a text"), (3, "target=3"), ("  ", "text to explain is empty")]:
        with pytest.raises(UsageError, match=words):
            Saliency()(clip_model, images, target)
    with pytest.raises(UsageError, match="different sizes"):
        Saliency()(clip_model, [images[0], images[0, :, :6]], "a cat")
    with pytest.raises(UsageError, match="images is empty"):
        Saliency()(clip_model, [], "a cat")
    with pytest.raises(UsageError, match="cannot explain int"):
        Saliency()(3, images, 0)
    with pytest.raises(NotSupported, match=r"needs nn\.ReLU modules"):
        Saliency(relu_rule="guided")(Linear(), images, 0)

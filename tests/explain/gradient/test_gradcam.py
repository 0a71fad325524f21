"""Grad-CAM against the class activation map's closed form and against the library's own forward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import GradCAM, Saliency
from binderclip.models import classifier


def test_average_pooling_and_a_linear_layer_give_the_class_activation_map(
    conv_net: nn.Module, images: torch.Tensor
) -> None:
    features = conv_net.act2(conv_net.conv2(conv_net.act1(conv_net.conv1(images)))).detach()
    for c in range(4):
        cam = torch.einsum("k,bkhw->bhw", conv_net.fc.weight[c].detach(), features) / features[0, 0].numel()
        found = GradCAM(signed=True)(conv_net, images, c)
        torch.testing.assert_close(found.layers[0], cam)
        want = nn.functional.interpolate(cam.clamp(min=0)[:, None], size=(12, 16), mode="bilinear")[:, 0]
        torch.testing.assert_close(GradCAM()(conv_net, images, c).maps(), want)


def test_in_place_activations_do_not_overwrite_the_record(images: torch.Tensor) -> None:
    nets = [nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(p), nn.Conv2d(4, 4, 3), nn.ReLU(p), nn.Flatten()) for p in (0, 1)]
    nn.init.constant_(nets[0][2].bias[:1], 1.0)  # the unit that is explained is not cut off
    nets[1].load_state_dict(nets[0].state_dict())
    # The layer before the activation: in place, its output would be changed after it was recorded.
    maps = [GradCAM(layer="2", signed=True)(net, images, 7).maps() for net in nets]
    torch.testing.assert_close(maps[0], maps[1])
    assert float(maps[0].abs().max()) > 0


def test_a_layer_is_given_as_the_module_or_by_its_name(conv_net: nn.Module, images: torch.Tensor) -> None:
    by_name = GradCAM(layer="conv1")(conv_net, images, 1).maps()
    torch.testing.assert_close(GradCAM(layer=conv_net.conv1)(conv_net, images, 1).maps(), by_name, rtol=0, atol=0)
    several = GradCAM(layer=[conv_net.conv1, "act2"])(conv_net, images, 1).maps()
    torch.testing.assert_close(several, GradCAM(layer=["conv1", "act2"])(conv_net, images, 1).maps(), rtol=0, atol=0)
    # A Sequential can be read like a list, and is one layer.
    whole = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten(), nn.LazyLinear(2))
    whole(images)
    torch.testing.assert_close(
        GradCAM(layer=whole[0])(whole, images, 1).maps(), GradCAM(layer="0")(whole, images, 1).maps(), rtol=0, atol=0
    )
    with pytest.raises(UsageError, match=r"the layer Linear is no part of .*; it has conv1"):
        GradCAM(layer=nn.Linear(2, 2))(conv_net, images, 1)


def test_a_tower_is_explained_as_the_library_computes_it(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    text = clip_model.encode_text("a dog", normalize=True).detach()
    seen: list[torch.Tensor] = []
    norm = clip_model.visual.transformer.resblocks[-1].ln_1
    handle = norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    cosine = (clip_model.encode_image(images.requires_grad_(), normalize=True) * text).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(cosine, seen[0])
    weights = gradient[:, 1:].mean(dim=1, keepdim=True)
    want = (weights * seen[0][:, 1:]).sum(-1).unflatten(1, (4, 4)).detach()
    found = GradCAM(signed=True)(clip_model, images.detach(), "a dog")
    torch.testing.assert_close(found.layers[0], want, rtol=1e-4, atol=1e-7)


def test_a_predictor_on_a_tower_has_the_same_layers(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    predictor = clip_model.predictor(["a dog", "a cat"])
    found = GradCAM(signed=True)(predictor, images, "a cat")
    plain = GradCAM(signed=True)(clip_model, images, "a cat")
    # The logit is the scaled cosine, so its map is the scaled map.
    scale = float(clip_model.scale().detach())
    torch.testing.assert_close(found.layers[0], scale * plain.layers[0], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(found.value, scale * plain.value, rtol=1e-4, atol=1e-4)


def test_the_map_lies_where_the_model_looks(clip_model) -> None:
    # 32 x 64: the crop is columns 16 to 48, as the pixel gradient shows.
    wide = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    cam = GradCAM(signed=True)(clip_model, wide, "a cat")
    seen = Saliency()(clip_model, wide, "a cat").maps()[0] > 0
    drawn = cam.maps()[0]
    assert torch.equal(seen.any(0), drawn.abs().sum(0) > 0)
    # Inside, the drawing is the grid stretched over the crop.
    want = nn.functional.interpolate(cam.layers[0][:, None], size=(32, 32), mode="bilinear")[0, 0]
    torch.testing.assert_close(drawn[:, 16:48], want, rtol=1e-4, atol=1e-6)


def test_a_wrapped_network_is_shown_in_pixels_of_the_image(conv_net: nn.Module) -> None:
    predictor = classifier(conv_net, list("abcd"), mean=(0, 0, 0), std=(1, 1, 1), size=(12, 16))
    big = torch.rand(1, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    found = GradCAM()(predictor, big, "c")
    assert found.maps().shape == (1, 24, 32)
    assert float(found.value) == pytest.approx(float(predictor(big).detach()[0, 2]), abs=1e-5)


def test_layers_that_cannot_be_shown_are_named(conv_net: nn.Module, images: torch.Tensor, clip_model) -> None:
    with pytest.raises(UsageError, match="no layer 'conv9'; it has conv1, conv2, fc"):
        GradCAM(layer="conv9")(conv_net, images, 0)
    with pytest.raises(UsageError, match="neither a feature map"):
        GradCAM(layer="fc")(conv_net, images, 0)
    with pytest.raises(UsageError, match="the tower has 2 blocks"):
        GradCAM(layer=5)(clip_model, torch.rand(1, 3, 32, 32), "a cat")
    with pytest.raises(UsageError, match="block indices are for image-text models"):
        GradCAM(layer=1)(conv_net, images, 0)
    with pytest.raises(NotSupported, match="no feature map"):
        GradCAM()(nn.Sequential(nn.Flatten(), nn.Linear(576, 3)), images, 0)
    # The last block's output reaches the class token no more: its patches have no gradient to show.
    with pytest.raises(UsageError, match="does not depend on"):
        GradCAM(layer="dead")(WithDeadBranch(), images, 0)


class WithDeadBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.dead(x)
        return x.mean(dim=(2, 3))


def test_channels_last_maps_are_read_as_such(images: torch.Tensor) -> None:
    class Last(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 3, 1, 2)

    torch.manual_seed(0)
    conv, head = nn.Conv2d(3, 80, 4, stride=4), nn.Linear(80, 5)
    first = nn.Sequential(conv, nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    last = nn.Sequential(conv, Last(), First(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    want = GradCAM(layer="1", signed=True)(first, images, 2)
    found = GradCAM(layer="1", signed=True)(last, images, 2)
    assert found.layers[0].shape == (len(images), images.shape[2] // 4, images.shape[3] // 4)
    torch.testing.assert_close(found.layers[0], want.layers[0])

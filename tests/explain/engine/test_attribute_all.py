"""Shared passes: equal results, as many forwards and backwards as there are distinct passes; half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import (
    METHODS,
    GradCAM,
    GradCAMPlusPlus,
    InputXGradient,
    IntegratedGradients,
    Saliency,
    SmoothGrad,
    SmoothGradCAMPlusPlus,
    attribute,
    attribute_all,
    iter_attributions,
    targets,
)
from binderclip.explain.engine.attribute import Plan, PlanMethod, gradient, signal_plan


def sheet(n: int = 20) -> dict[str, Any]:
    """Ten methods that need three sets of passes: the image, noisy copies, a path."""
    return {
        "saliency": Saliency(),
        "abs": Saliency(reduce="abs-sum"),
        "product": InputXGradient(),
        "cam": GradCAM(),
        "cam++": GradCAMPlusPlus(),
        "smooth": SmoothGrad(n),
        "squared": SmoothGrad(n, statistic="mean-square"),
        "variance": SmoothGrad(n, statistic="variance"),
        "smooth cam++": SmoothGradCAMPlusPlus(n_samples=n),
        "path": IntegratedGradients(n),
    }


@contextmanager
def counted(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[int]]]:
    """Rows of each forward of a module, and the number of backward passes."""
    seen: dict[str, list[int]] = {"forward": [], "backward": []}
    handle = module.register_forward_pre_hook(lambda _, inputs: seen["forward"].append(len(inputs[0])))
    original = torch.autograd.grad

    def grad(outputs: torch.Tensor, inputs: Any, **options: Any) -> Any:
        seen["backward"].append(len(inputs))
        return original(outputs, inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    try:
        yield seen
    finally:
        handle.remove()
        monkeypatch.undo()


def check_equal(found: dict[str, Any], model: Any, images: torch.Tensor, target: Any, methods: dict[str, Any]) -> None:
    assert list(found) == list(methods)
    for name, method in methods.items():
        alone = method(model, images, target)
        assert found[name].method == alone.method
        torch.testing.assert_close(found[name].maps(), alone.maps(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[name].value, alone.value)
        assert float(alone.maps().abs().max()) > 0


def test_each_distinct_pass_runs_once(
    conv_net: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = sheet()
    with counted(conv_net.conv1, monkeypatch) as seen:
        found = attribute_all(conv_net, images, 1, methods=methods)
    # To find the last feature map 1; the images 3; 20 copies and 20 nodes of 3 images, five at once; the baseline 1.
    assert seen["forward"] == [1, 3, *[15] * 4, *[15] * 4, 1]
    # One backward a pass: at the input and the last map for the image and its copies, at the input on the path.
    assert seen["backward"] == [2, *[2] * 4, *[1] * 4]
    with counted(conv_net.conv1, monkeypatch) as seen:
        check_equal(found, conv_net, images, 1, methods)
    assert sum(seen["forward"]) > 4 * 60
    assert seen["forward"].count(1) == 1  # the last map was known; the baseline again


def test_a_map_is_handed_out_as_soon_as_its_passes_have_run(
    conv_net: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    guided = Saliency(relu_rule="guided")  # which cannot share
    methods = {"path": IntegratedGradients(5), "guided": guided, "smooth": SmoothGrad(5), "saliency": Saliency()}
    for parameter in conv_net.parameters():
        parameter.requires_grad_(True)
    conv_net.train()
    order = {}
    with counted(conv_net.conv1, monkeypatch) as seen, torch.no_grad():
        for name, _ in iter_attributions(conv_net, images, 1, methods=methods):
            order[name] = sum(seen["forward"])
            # Between two of them the model and the gradients are the caller's.
            assert conv_net.training
            assert all(parameter.requires_grad for parameter in conv_net.parameters())
            assert not torch.is_grad_enabled()
    # The images 3; five nodes of 3 images and the baseline; five noisy copies of 3 images.
    assert order == {"saliency": 3, "path": 3 + 15 + 1, "smooth": 3 + 15 + 1 + 15, "guided": order["guided"]}
    assert list(order) == ["saliency", "path", "smooth", "guided"]


def test_a_tower_is_run_once_for_all(clip_model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    methods = sheet(8)
    with counted(clip_model.visual.conv1, monkeypatch) as seen:
        found = attribute_all(clip_model, images, ["a cat", "a dog"], methods=methods)
    assert seen["forward"] == [2, 16, 16, 1]
    assert seen["backward"] == [2, 2, 1]
    check_equal(found, clip_model, images, ["a cat", "a dog"], methods)


def test_other_noise_is_another_pass(
    conv_net: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = [SmoothGrad(4, seed=0), SmoothGrad(4, seed=1), SmoothGrad(4, level=0.1), SmoothGrad(5)]
    with counted(conv_net.conv1, monkeypatch) as seen:
        found = attribute_all(conv_net, images, 1, methods=methods)
    assert seen["forward"] == [3, 12, 12, 12, 15]
    assert list(found) == ["smoothgrad", "smoothgrad_#2", "smoothgrad_#3", "smoothgrad_#4"]
    assert not torch.allclose(found["smoothgrad"].maps(), found["smoothgrad_#2"].maps())


def test_blocks_and_names_of_submodules_go_their_own_ways(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    name = "transformer.resblocks.1.ln_1"
    methods = {"block": GradCAM(1), "name": GradCAM(name), "input": Saliency(), "noise": SmoothGradCAMPlusPlus(name)}
    found = attribute_all(clip_model, images, "a cat", methods=methods)
    check_equal(found, clip_model, images, "a cat", methods)
    torch.testing.assert_close(found["block"].maps(), found["name"].maps(), rtol=1e-3, atol=1e-6)
    with pytest.raises(UsageError, match="cannot be seen in one pass"):
        GradCAM([1, name])(clip_model, images, "a cat")
    with pytest.raises(UsageError, match="a patch target needs block indices"):
        GradCAM(name)(clip_model, images, targets.patch("a cat", 1, 2))
    with pytest.raises(NotSupported, match="no transformer tower"):
        Saliency()(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), images, targets.patch("a cat", 0, 0))


def test_methods_that_cannot_share_run_alone_and_classes_stand_for_their_defaults(
    conv_net: nn.Module, images: torch.Tensor
) -> None:
    guided = Saliency(relu_rule="guided")
    assert guided.plan() is None
    named = {name: METHODS[name] for name in ("saliency", "smoothgrad", "vargrad", "gradcampp")}
    found = attribute_all(conv_net, images, 2, methods={"guided": guided, "class": Saliency, **named})
    torch.testing.assert_close(found["guided"].maps(), guided(conv_net, images, 2).maps())
    torch.testing.assert_close(found["class"].maps(), found["saliency"].maps())
    assert list(found)[2:] == list(named)
    with pytest.raises(UsageError, match="methods is empty"):
        attribute_all(conv_net, images, 2, methods=[])


def test_the_target_is_resolved_once_without_a_graph_for_noise_alone(conv_net: nn.Module, images: torch.Tensor) -> None:
    graphs: list[bool] = []

    class Watched(nn.Module):
        """Not by a hook, which would get gradients in every pass."""

        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            output = self.net(x)
            graphs.append(output.requires_grad)
            return output

    SmoothGrad(6, batch=9)(Watched(), images, 0)
    assert graphs == [False, True, True]


def test_half_precision_is_close_and_summed_in_single(conv_net: nn.Module, clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for model, target in ((conv_net, 1), (clip_model, "a cat")):
        types: list[torch.dtype] = []
        part = model.act2 if model is conv_net else clip_model.visual.transformer.resblocks[1].mlp
        handle = part.register_forward_hook(lambda module, inputs, output, t=types: t.append(output.dtype))
        methods = {"guided": Saliency(relu_rule="guided")} if model is conv_net else {}
        methods |= {"smooth": SmoothGrad(6), "cam": GradCAM(signed=True), "path": IntegratedGradients(6)}
        full = attribute_all(model, images, target, methods=methods)
        assert set(types) == {torch.float32}
        types.clear()
        half = attribute_all(model, images, target, methods=methods, precision="bfloat16")
        handle.remove()
        assert set(types) == {torch.bfloat16}
        for name in methods:
            one, other = full[name].maps().flatten(), half[name].maps().flatten()
            assert other.dtype == torch.float32
            assert not torch.equal(one, other)
            assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.98, name
    single = attribute(conv_net, images, 1, precision="bfloat16").maps()
    assert not torch.equal(single, attribute(conv_net, images, 1).maps())
    with pytest.raises(UsageError, match="precision must be one of float32, bfloat16"):
        attribute(conv_net, images, 1, precision="float16")


@dataclass(frozen=True)
class Slope(PlanMethod):
    """A method that is wholly said by its plan."""

    places: str = "input"

    def plan(self) -> Plan:
        return signal_plan(gradient, layers=self.places, method="slope")


def test_a_method_of_a_plan_alone_is_called_and_shared_like_the_others(images: torch.Tensor) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))
    # The score of class 2 is linear in the pixels: its gradient is the row of weights, whatever the image.
    expected = linear[1].weight.detach()[2].view(3, 12, 16).sum(dim=0)
    alone = Slope()(linear, images, 2)
    assert alone.method == "slope"
    shared = attribute_all(linear, images, 2, methods=[Slope, InputXGradient()])
    assert list(shared) == ["slope", "input_x_gradient"]
    for found in (alone, shared["slope"]):
        torch.testing.assert_close(found.maps(), expected.expand(3, 12, 16), rtol=1e-5, atol=1e-6)


def test_the_base_of_such_methods_has_no_plan_of_its_own(images: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="PlanMethod has no plan"):
        PlanMethod()(nn.Flatten(), images, 0)

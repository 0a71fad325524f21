"""The meta step against finite differences, SGD on a copy, and itself one image at a time (p066)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain import GradCAM, MetaStep, NormGrad, SmoothGrad, attribute, attribute_all, meta_saliency
from binderclip.explain.gradient import meta_step


class Smooth(nn.Module):
    """Two layers with second derivatives, in double precision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.Tanh()
        self.second, self.head = nn.Conv2d(4, 5, 3), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor, offset: Tensor | float = 0.0) -> Tensor:
        x = self.act(self.first(x)) + offset
        return self.head(torch.tanh(self.second(x)).mean(dim=(2, 3)))


@pytest.fixture
def net() -> Smooth:
    return Smooth().eval()


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def after_step(net: nn.Module, image: Tensor, label: int, eps: float, offset: Tensor | float = 0.0) -> Tensor:
    """The logit after a step of SGD on cross-entropy by torch's own optimizer; the offset is there both times."""
    moved = copy.deepcopy(net)
    optimizer = torch.optim.SGD(moved.parameters(), lr=eps)
    nn.functional.cross_entropy(moved(image[None], offset), torch.tensor([label])).backward()
    optimizer.step()
    return moved(image[None], offset)[0, label].detach()


def test_the_gradient_is_that_of_the_whole_step_by_finite_differences(net: Smooth, pictures: Tensor) -> None:
    labels, eps, h = [2, 0], 0.3, 1e-5
    step = MetaStep(eps, "cross-entropy")
    found = attribute(net, pictures, labels, layers=("act", "input"), ensemble=step)
    plain = attribute(net, pictures, labels, layers=("act", "input"))
    assert float((found.layers[0] - plain.layers[0]).abs().max()) > 0.05 * float(plain.layers[0].abs().max())
    for index, label in enumerate(labels):
        image = pictures[index]
        assert float(found.value[index]) == pytest.approx(float(plain.value[index]))
        for y, x in [(0, 0), (2, 3), (4, 1)]:
            nudge = torch.zeros(1, 4, 5, 5, dtype=torch.float64)
            nudge[:, :, y, x] = h
            up, down = (after_step(net, image, label, eps, sign * nudge) for sign in (1, -1))
            assert float(found.layers[0][index, y, x]) == pytest.approx(
                float((up - down) / (2 * h)), rel=1e-4, abs=1e-7
            )
            moved = torch.zeros_like(image)
            moved[:, y, x] = h
            up, down = (after_step(net, image + sign * moved, label, eps) for sign in (1, -1))
            assert float(found.layers[1][index, y, x]) == pytest.approx(
                float((up - down) / (2 * h)), rel=1e-4, abs=1e-7
            )


def test_without_second_order_it_is_the_plain_method_after_a_step_of_sgd(net: Smooth, pictures: Tensor) -> None:
    found = NormGrad(layers="act", ensemble=MetaStep(0.3, "cross-entropy", second_order=False))(net, pictures, [2, 0])
    for index, label in enumerate([2, 0]):
        moved = copy.deepcopy(net)
        optimizer = torch.optim.SGD(moved.parameters(), lr=0.3)
        nn.functional.cross_entropy(moved(pictures[index : index + 1]), torch.tensor([label])).backward()
        optimizer.step()
        want = NormGrad(layers="act")(moved, pictures[index : index + 1], label)
        torch.testing.assert_close(found.layers[0][index], want.layers[0][0])


def test_no_step_is_the_plain_map(net: Smooth, pictures: Tensor, clip_model) -> None:
    methods = {"norm": NormGrad(layers="act"), "cam": GradCAM("second")}
    plain = attribute_all(net, pictures, 1, methods=methods)
    meta = attribute_all(net, pictures, 1, methods={k: meta_saliency(m, eps=0.0) for k, m in methods.items()})
    for name in methods:
        torch.testing.assert_close(meta[name].layers[0], plain[name].layers[0])
    assert meta["norm"].method == "meta normgrad"
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a dog", "a cat", "a house"]
    for method in (GradCAM(signed=True), NormGrad()):
        found, want = meta_saliency(method, eps=0.0)(clip_model, images, texts), method(clip_model, images, texts)
        torch.testing.assert_close(found.layers[-1], want.layers[-1], rtol=1e-3, atol=1e-6)


def test_all_at_once_equals_one_by_one(clip_model, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a dog", "a cat", "a house"]
    # A library's block by name runs under vmap; fused attention lies behind it.
    layers = ["transformer.resblocks.0.ln_1", "transformer.resblocks.1.ln_1"]
    method = NormGrad(layers=layers, ensemble=MetaStep(0.05, batch=2))
    alone: list[int] = []
    plain = meta_step._Job.alone
    monkeypatch.setattr(meta_step._Job, "alone", lambda job, row: alone.append(row) or plain(job, row))
    together = method(clip_model, images, texts)
    assert not alone

    def refuse(job: Any, rows: Tensor) -> Any:
        raise meta_step._NotTogether

    monkeypatch.setattr(meta_step._Job, "together", refuse)
    loop = method(clip_model, images, texts)
    assert alone == [0, 1, 2]
    for a, b in zip(together.layers, loop.layers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    # Blocks of the tower are the same places; they go one by one.
    tower = NormGrad(layers=[0, 1], ensemble=MetaStep(0.05))(clip_model, images, texts)
    for a, b in zip(tower.layers, loop.layers, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
    still = NormGrad(layers=[0, 1])(clip_model, images, texts)
    assert float((tower.layers[0] - still.layers[0]).abs().max()) > 0.01 * float(still.layers[0].max())


def test_the_model_is_left_as_it_was(clip_model) -> None:
    before = {name: value.clone() for name, value in clip_model.state_dict().items()}
    NormGrad(layers=[1], ensemble=MetaStep(1.0))(clip_model, torch.rand(1, 3, 32, 32), "a dog")
    assert all(torch.equal(value, before[name]) for name, value in clip_model.state_dict().items())
    assert all(p.requires_grad for p in clip_model.backbone.parameters())


def test_only_the_named_weights_move(net: Smooth, pictures: Tensor) -> None:
    # Of a linear layer behind the place alone: d theta' is known in closed form.
    eps = 0.3
    found = attribute(net, pictures, 1, layers="second", ensemble=MetaStep(eps, weights=("head.weight",)))

    def feature(x: Tensor) -> Tensor:
        return torch.tanh(x).mean(dim=(2, 3))

    place = net.second(net.act(net.first(pictures))).detach().requires_grad_()
    # score' = (w + eps f) f + b
    score = net.head(feature(place))[:, 1] + eps * feature(place).square().sum(1)
    (want,) = torch.autograd.grad(score.sum(), place)
    torch.testing.assert_close(found.layers[0], want.sum(1).float())


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g


def test_what_cannot_be_done_is_said(net: Smooth, pictures: Tensor, clip_model) -> None:
    class Stuck(Smooth):
        def forward(self, x: Tensor, offset: Tensor | float = 0.0) -> Tensor:
            return self.head(Once.apply(torch.tanh(self.second(self.act(self.first(x)))).mean(dim=(2, 3))))

    stuck = Stuck().eval()
    with pytest.raises(NotSupported, match=r"differentiated twice: use second_order=False"):
        NormGrad(layers="act", ensemble=MetaStep(0.1))(stuck, pictures, 0)
    assert NormGrad(layers="act", ensemble=MetaStep(0.1, second_order=False))(stuck, pictures, 0).maps().any()
    with pytest.raises(UsageError, match="no parameter of Smooth begins so"):
        NormGrad(layers="act", ensemble=MetaStep(weights=("tail",)))(net, pictures, 0)
    with pytest.raises(NotSupported, match="cross-entropy needs logits"):
        NormGrad(layers=1, ensemble=MetaStep(loss="cross-entropy"))(clip_model, torch.rand(1, 3, 32, 32), "a dog")
    with pytest.raises(NotSupported, match="methods of one pass"):
        meta_saliency(SmoothGrad())(net, pictures, 0)
    with pytest.raises(UsageError, match="eps must be"):
        MetaStep(-1.0)
    with pytest.raises(UsageError, match="loss must be"):
        MetaStep(loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="method must be one of"):
        meta_saliency(lambda model, images, target: images)

"""p049 (arXiv 2410.16476): the models between two others, and the layers that break the way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.landscape import (
    InterpolationCurve,
    classification_figures,
    interpolate_weights,
    interpolation_curve,
    keep_largest_updates,
    straggler_layers,
    weight_layers,
)

F64 = torch.float64


def network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    net[1].num_batches_tracked.fill_(10 + seed)
    return net


def pictures(count=30, seed=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=g), torch.randint(0, 3, (count,), generator=g)


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_the_ends_are_the_models_to_the_bit_and_between_is_the_mean():
    first, second = network(0), network(1)
    kept = bits(first), bits(second)
    assert bits(interpolate_weights(first, second, 0.0)) == kept[0]
    assert bits(interpolate_weights(first, second, 1.0)) == kept[1]
    half = interpolate_weights(first, second, 0.25).state_dict()
    for name, tensor in half.items():
        a, b = first.state_dict()[name], second.state_dict()[name]
        if name.endswith("tracked"):
            assert int(tensor) == 10
        else:
            np.testing.assert_allclose(tensor, 0.75 * a.double() + 0.25 * b.double(), rtol=1e-5, atol=1e-6)
    assert (bits(first), bits(second)) == kept


def test_all_layers_one_by_one_are_the_whole_interpolation():
    first, second = network(0), network(1)
    layers = weight_layers(second)
    assert list(layers) == ["0", "1", "4", "6"]
    assert layers["1"] == ("1.weight", "1.bias", "1.running_mean", "1.running_var")
    whole = interpolate_weights(first, second, 0.3).state_dict()
    for layer, names in layers.items():
        single = interpolate_weights(first, second, 0.3, [layer]).state_dict()
        for name, tensor in single.items():
            expected = whole[name] if name in names else second.state_dict()[name]
            assert torch.equal(tensor, expected), (layer, name)


def test_blocks_are_layers_and_a_logit_scale_is_none():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.logit_scale = nn.Parameter(torch.tensor(1.0))
            self.class_embedding = nn.Parameter(torch.zeros(4))
            self.conv1 = nn.Conv2d(3, 4, 2)
            self.resblocks = nn.ModuleList(nn.ModuleDict({"attn": nn.Linear(4, 4), "mlp": nn.Linear(4, 4)})
                                           for _ in range(2))  # fmt: skip
            self.layer1 = nn.ModuleList([nn.ModuleDict({"conv": nn.Linear(4, 4)})])
            self.proj = nn.Parameter(torch.zeros(4, 2))

    assert list(weight_layers(Tower())) == [
        "class_embedding",
        "proj",
        "conv1",
        "resblocks.0",
        "resblocks.1",
        "layer1.0",
    ]
    assert len(weight_layers(Tower())["resblocks.1"]) == 4


def test_the_curve_is_what_the_interpolated_models_are_worth():
    first, second = network(0), network(1)
    second.train()
    kept = bits(second)
    sets = {"own": [pictures(seed=1), pictures(10, seed=2)], "shifted": [pictures(seed=3)]}
    counts = []
    curve = interpolation_curve(first, second, sets, progress=lambda *count: counts.append(count))
    assert curve.alphas.tolist() == pytest.approx([step / 10 for step in range(11)])
    for place in (0, 3, 10):
        model = interpolate_weights(first, second, place / 10).eval()
        batch = tuple(torch.cat(parts) for parts in zip(*sets["own"], strict=True))
        with torch.no_grad():
            loss, accuracy = classification_figures(model, batch)
        assert float(curve.loss["own"][place]) == pytest.approx(float(loss), rel=1e-5)
        assert float(curve.accuracy["own"][place]) == pytest.approx(float(accuracy), abs=1e-6)
    assert bits(second) == kept
    assert second.training
    assert counts[-1] == (11, 11)
    accuracy = curve.accuracy["shifted"].numpy()
    chord = np.linspace(accuracy[0], accuracy[-1], 11)
    assert curve.gain("shifted") == pytest.approx((accuracy - chord)[1:-1].max())


def test_between_linear_models_the_logits_are_the_chord_and_nothing_is_gained():
    torch.manual_seed(0)
    first, second = (nn.Sequential(nn.Linear(4, 1)).double() for _ in range(2))
    x, y = torch.randn(20, 4, dtype=F64), torch.randn(20, 1, dtype=F64)

    def mean_output(model, batch):
        return model(batch[0]).mean()

    curve = interpolation_curve(first, second, [(x, y)], loss=mean_output)
    assert abs(curve.gain("data")) < 1e-12
    report = straggler_layers(first, second, [(x, y)], loss=mean_output)
    assert float(report.barrier.abs().max()) < 1e-12
    # the squared error is a parabola in the weight: its gain is a quarter of its second difference at 1/2
    squared = interpolation_curve(first, second, [(x, y)], loss=lambda m, b: (m(b[0]) - b[1]).square().mean())
    gap = float((first(x) - second(x)).square().mean())
    assert squared.gain("data") == pytest.approx(gap / 4, rel=1e-9)
    assert squared.barrier("data") == pytest.approx(-gap * 0.09, rel=1e-9)


def product_problem():
    """y = u v x in one number each: along both at once the way from (1, 1) to (-1, -1) crosses 0."""

    class Product(nn.Module):
        def __init__(self, u, v, w):
            super().__init__()
            self.u, self.v, self.w = (nn.Linear(1, 1, bias=False).double() for _ in range(3))
            for layer, value in ((self.u, u), (self.v, v), (self.w, w)):
                nn.init.constant_(layer.weight, value)

        def forward(self, x):
            return self.v(self.u(x)) * self.w.weight**2

    x = torch.ones(4, 1, dtype=F64)
    return Product, [(x, x)], lambda model, batch: (model(batch[0]) - batch[1]).abs().mean()


def test_the_layer_whose_sign_turns_has_the_barrier():
    make, batches, loss = product_problem()
    # w goes from -1 to 1: w^2 is 1 at the ends and 0 between; u and v are nearly equal
    report = straggler_layers(make(0.9, 1.0, -1.0), make(1.0, 1.0, 1.0), batches, loss=loss)
    assert report.layers == ("u", "w")
    assert report.stragglers == ("w",)
    assert report.barrier.tolist() == pytest.approx([0, 1])
    assert report.criticality.tolist() == pytest.approx([0.1, 1])
    # |1 - (2a - 1)^2| by trapezoids of step 1/10, and a triangle of height .1
    trapezoids = np.trapezoid(1 - (2 * np.arange(11) / 10 - 1) ** 2, dx=0.1)
    assert report.mean_rise.tolist() == pytest.approx([0.05, trapezoids])
    assert report.error[:, -1].tolist() == [0, 0]
    assert [row[0] for row in report.table()[1]] == ["w", "u"]
    curve = interpolation_curve(make(1.0, 1.0, -1.0), make(1.0, 1.0, 1.0), batches, loss=loss)
    assert curve.barrier("data") == pytest.approx(1)
    assert curve.gain("data") == pytest.approx(-0.36)


def test_rules_name_so_many_layers():
    first, second = network(0), network(1)
    report = straggler_layers(first, second, [pictures()], rule="topk", k=3)
    assert len(report.stragglers) == 3
    by_barrier = sorted(zip(report.layers, report.barrier.tolist(), strict=True), key=lambda row: -row[1])
    assert report.stragglers == tuple(layer for layer, _ in by_barrier[:3])
    assert len(straggler_layers(first, second, [pictures()]).stragglers) == 1
    assert straggler_layers(first, second, [pictures()], layers=["4"], rule="topk", k=9).stragglers == ("4",)


def test_where_the_loss_is_not_finite_the_layer_is_a_straggler_and_the_curve_has_a_gap(tmp_path):
    make, batches, plain = product_problem()

    def broken(model, batch):
        loss = plain(model, batch)
        return torch.where(model.u.weight[0, 0].abs() < 0.3, torch.nan, loss)

    first, second = make(-1.0, 1.0, 0.9), make(1.0, 1.0, 1.0)
    report = straggler_layers(first, second, batches, loss=broken)
    assert report.stragglers == ("u",)
    assert float(report.barrier[0]) == math.inf
    curve = interpolation_curve(first, second, batches, loss=broken)
    assert int(curve.loss["data"].isnan().sum()) == 3
    assert curve.barrier("data") == math.inf
    assert curve.best("data") == 1.0
    curve.plot().savefig(tmp_path / "curve.png")


def test_only_the_largest_steps_are_kept():
    first, second = network(0), network(1)
    fixed = keep_largest_updates(first, second, ["4"], 0.1)
    step = (second[4].weight - first[4].weight).detach().abs().flatten()
    step = torch.cat([step, (second[4].bias - first[4].bias).detach().abs()])
    kept = torch.cat([fixed[4].weight.flatten() == second[4].weight.flatten(), fixed[4].bias == second[4].bias])
    assert int(kept.sum()) == round(0.1 * len(step))
    assert float(step[kept].min()) > float(step[~kept].max())
    back = torch.cat([fixed[4].weight.flatten() == first[4].weight.flatten(), fixed[4].bias == first[4].bias])
    assert torch.equal(back, ~kept)
    assert torch.equal(fixed[0].weight, second[0].weight)
    assert bits(keep_largest_updates(first, second, ["4"], 1.0)) == bits(second)
    none = keep_largest_updates(first, second, ["4"], 0.0)
    assert torch.equal(none[4].weight, first[4].weight)


def test_infinities_that_both_models_hold_stay_as_they_are():
    first, second = network(0), network(1)
    for net in (first, second):
        net.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
    half = interpolate_weights(first, second, 0.5)
    assert torch.equal(half.mask, first.mask)
    assert interpolation_curve(first, second, [pictures()]).loss["data"].isfinite().all()
    assert "mask" not in straggler_layers(first, second, [pictures()]).layers


def test_among_equals_the_best_weight_is_the_middle_one():
    alphas = torch.linspace(0, 1, 5, dtype=F64)
    accuracy = torch.tensor([0.5, 0.7, 0.7, 0.7, 0.6], dtype=F64)
    curve = InterpolationCurve(alphas, {"data": torch.ones(5, dtype=F64)}, {"data": accuracy})
    assert curve.best("data") == 0.5
    assert curve.gain("data") == pytest.approx(0.7 - 0.525)


def test_what_cannot_be_interpolated_is_refused():
    first, second, data = network(0), network(1), [pictures()]
    broken = network(2)
    broken[4].weight.data[0, 0] = math.nan
    refusals = {
        "alpha must be": lambda: interpolate_weights(first, second, 1.5),
        "alpha must be a finite": lambda: interpolate_weights(first, second, math.nan),
        "no layer '9'": lambda: interpolate_weights(first, second, 0.5, ["9"]),
        "layers is a list": lambda: interpolate_weights(first, second, 0.5, []),
        "differ in architecture": lambda: interpolate_weights(first, nn.Linear(2, 2), 0.5),
        "in the other": lambda: interpolate_weights(nn.Linear(2, 2), nn.Linear(3, 2), 0.5),
        "same weights": lambda: interpolation_curve(first, network(0), data),
        "of the second model holds NaN": lambda: interpolation_curve(first, broken, data),
        r"in \[0, 1\]": lambda: interpolation_curve(first, second, data, alphas=[0.0, 2.0]),
        "holds no set": lambda: interpolation_curve(first, second, {}),
        "needs weights from 0 to 1": lambda: interpolation_curve(first, second, data, alphas=[0.5, 1.0]).gain("data"),
        "has no set": lambda: interpolation_curve(first, second, data, alphas=[0.5]).best("other"),
        "rule must be one of": lambda: straggler_layers(first, second, data, rule="most"),
        "k must be": lambda: straggler_layers(first, second, data, k=0),
        "run from 0 to 1": lambda: straggler_layers(first, second, data, alphas=[0.0, 1.0]),
        "none of these layers": lambda: straggler_layers(
            first, interpolate_weights(first, second, 0.5, ["4"]), data, layers=["0"]
        ) and straggler_layers(interpolate_weights(second, first, 0.0, ["4"]), first, data, layers=["0"]),
        "fraction must be": lambda: keep_largest_updates(first, second, ["4"], -0.1),
        "no weight with an axis": lambda: weight_layers(nn.ReLU()),
    }  # fmt: skip
    for words, call in refusals.items():
        with pytest.raises(errors.UsageError, match=words):
            call()

"""p133 (arXiv 1712.09913): filter-normalised directions, lines and planes of the loss, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.landscape import (
    LossCurve,
    LossSurface,
    classification_figures,
    direction_between,
    direction_cosine,
    loss_line,
    loss_surface,
    random_direction,
)

F64 = torch.float64


def regression(model, batch):
    inputs, target = batch
    return (model(inputs) - target).square().mean() / 2


def convolutional(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net


def pictures(count=24, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 8, 8, generator=g, dtype=F64), torch.randint(0, 3, (count,), generator=g)


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_filters_of_the_direction_have_the_lengths_of_the_weights():
    net = convolutional()
    direction = random_direction(net, seed=3)
    assert set(direction) == {name for name, _ in net.named_parameters()}
    for name, weight in net.named_parameters():
        if weight.ndim < 2:
            assert not direction[name].any()
            continue
        for filter_, own in zip(direction[name], weight.detach(), strict=True):
            assert float(filter_.norm()) == pytest.approx(float(own.norm()), rel=1e-6)
    again = random_direction(net, seed=3)
    assert all(torch.equal(direction[name], again[name]) for name in direction)
    assert abs(direction_cosine(direction, random_direction(net, seed=4))) < 0.5


@pytest.mark.parametrize("normalize", ["layer", "weight", "dfilter", "dlayer", None])
def test_the_other_normalisations_scale_the_same_draw(normalize):
    net = convolutional()
    plain = random_direction(net, None, None, seed=5)
    scaled = random_direction(net, normalize, None, seed=5)
    for name, weight in net.named_parameters():
        d, w = plain[name].numpy(), weight.detach().numpy()
        if w.ndim < 2:
            expected = d if normalize is None else w
        else:
            rows = d.reshape(len(d), -1)
            expected = {
                "layer": d * np.linalg.norm(w) / np.linalg.norm(d),
                "weight": d * w,
                "dfilter": (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(d.shape),
                "dlayer": d / np.linalg.norm(d),
                None: d,
            }[normalize]
        np.testing.assert_allclose(scaled[name].numpy(), expected, rtol=1e-6)


def test_embeddings_have_rows_as_filters_and_scalars_stay():
    class Tower(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.randn(5, 3))
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
            self.second.weight = self.first.weight

    tower = Tower()
    direction = random_direction(tower)
    assert float(direction["scale"]) == 0
    assert "second.weight" not in direction
    torch.testing.assert_close(direction["position"].norm(dim=1), tower.position.detach().norm(dim=1))


def test_the_surface_of_a_linear_regression_is_its_quadratic():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=g, dtype=F64), torch.randn(30, 1, generator=g, dtype=F64)
    net = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    directions = tuple(random_direction(net, seed=seed) for seed in (0, 1))
    d = torch.stack([each["weight"][0] for each in directions], 1)  # [4, 2]
    hessian = d.T @ (x.T @ x / 30) @ d
    # unequal batches: the mean is over samples
    surface = loss_surface(net, [(x[:20], y[:20]), (x[20:], y[20:])], directions, alphas=[-1.0, 0.0, 2.0],
                           betas=[-0.5, 0.0], loss=regression)  # fmt: skip
    start = float(regression(net, (x, y)))
    for i, a in enumerate([-1.0, 0.0, 2.0]):
        for j, b in enumerate([-0.5, 0.0]):
            at = torch.tensor([a, b], dtype=F64)
            assert float(surface.loss[i, j]) == pytest.approx(start + float(at @ hessian @ at) / 2, rel=1e-9)
    assert surface.accuracy is None
    assert surface.cosine == pytest.approx(float(nn.functional.cosine_similarity(d[:, 0], d[:, 1], dim=0)))


def test_a_line_is_the_column_of_the_surface_and_all_is_put_back():
    net, data = convolutional(), [pictures()]
    net.train()
    net[0].eval()
    before = state(net)
    directions = (random_direction(net, seed=0), random_direction(net, seed=1))
    seen = []
    grid = [-1.0, -0.5, 0.0, 0.5, 1.0]
    surface = loss_surface(net, data, directions, alphas=grid, progress=lambda *count: seen.append(count))
    line = loss_line(net, data, directions[0], alphas=grid)
    assert torch.equal(line.loss, surface.loss[:, 2])
    assert torch.equal(line.accuracy, surface.accuracy[:, 2])
    assert seen == [(n, 25) for n in range(1, 26)]
    assert [net.training, net[0].training, net[1].training] == [True, False, True]
    after = net.state_dict()
    assert all(before[name].numpy().tobytes() == after[name].numpy().tobytes() for name in before)
    with torch.no_grad():
        loss, accuracy = classification_figures(net.eval(), data[0])
    assert (float(line.loss[2]), float(line.accuracy[2])) == (float(loss), pytest.approx(float(accuracy)))


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_a_rescaled_network_has_the_same_filter_normalised_curve_alone(factor):
    net, data, grid = convolutional(), [pictures()], [-1.0, -0.3, 0.4, 1.0]
    drawn = {kind: loss_line(net, data, random_direction(net, kind, seed=2), alphas=grid) for kind in ("filter", None)}
    with torch.no_grad():  # the same function: batch norm divides by what its input was multiplied by
        net[0].weight.mul_(factor)
        net[0].bias.mul_(factor)
        net[1].running_mean.mul_(factor)
        net[1].running_var.add_(net[1].eps).mul_(factor**2).sub_(net[1].eps)
    again = {kind: loss_line(net, data, random_direction(net, kind, seed=2), alphas=grid) for kind in ("filter", None)}
    torch.testing.assert_close(again["filter"].loss, drawn["filter"].loss, rtol=1e-9, atol=0)
    assert float((again[None].loss / drawn[None].loss - 1).abs().max()) > 0.02


def test_the_way_to_another_model_ends_there_with_its_running_statistics():
    net, other, data = convolutional(0), convolutional(7), [pictures()]
    ends = [float(classification_figures(each.eval(), data[0])[0].detach()) for each in (net, other)]
    line = loss_line(net, data, direction_between(net, other, buffers=True), alphas=[0.0, 1.0])
    assert line.loss.tolist() == pytest.approx(ends, rel=1e-12)
    without = loss_line(net, data, direction_between(net, other), alphas=[0.0, 1.0])
    assert abs(float(without.loss[1]) - ends[1]) > 1e-6


def test_points_without_a_finite_loss_are_reported_and_left_out(tmp_path):
    net = nn.Linear(2, 2).double()
    data = [(torch.ones(4, 2, dtype=F64), torch.tensor([0, 1, 0, 1]))]

    def broken(model, batch):
        loss, accuracy = classification_figures(model, batch)
        return torch.where(model.weight[0, 0] > start + 0.5, torch.nan, loss), accuracy

    start = float(net.weight[0, 0].detach())
    step = {"weight": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}
    line = loss_line(net, data, step, alphas=[-1.0, 0.0, 1.0], loss=broken)
    assert line.gaps == 1
    assert math.isnan(float(line.loss[2]))
    surface = loss_surface(net, data, (step, {"weight": torch.tensor([[0.0, 1.0], [0.0, 0.0]])}),
                           alphas=[-1.0, 0.0, 1.0], loss=broken)  # fmt: skip
    assert surface.gaps == 3
    for each, kind in ((line, LossCurve), (surface, LossSurface)):
        each.plot().savefig(tmp_path / "picture.png")
        assert "without a finite loss" in each.plot().axes[0].get_title()
        copy = kind.load(each.save(tmp_path / "numbers.json"))
        torch.testing.assert_close(copy.loss, each.loss, equal_nan=True, rtol=0, atol=0)
        torch.testing.assert_close(copy.accuracy, each.accuracy, rtol=0, atol=0)
    with pytest.raises(errors.DataError, match="no loss of this kind"):
        LossCurve.load(tmp_path / "numbers.json")
    blank = loss_line(net, data, step, alphas=[1.0, 2.0], loss=broken)
    blank.plot().savefig(tmp_path / "picture.png")


def test_weights_come_back_where_the_loss_raises():
    net = nn.Linear(2, 2)
    before = state(net)

    def failing(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loss_line(net, [(torch.ones(2, 2), torch.tensor([0, 1]))], random_direction(net), loss=failing)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert net.training


def test_the_width_of_a_parabola_is_between_its_crossings():
    alphas = torch.linspace(-2, 2, 401, dtype=F64)
    loss = torch.where(alphas < 0, alphas**2, 4 * alphas**2)
    assert LossCurve(alphas, loss).width(1.0) == pytest.approx(1.5, abs=1e-6)
    assert LossCurve(alphas, loss).widths(1.0) == pytest.approx((1, 0.5), abs=1e-6)
    assert LossCurve(alphas, loss).width(5.0) == math.inf
    assert LossCurve(alphas, loss).widths(5.0) == pytest.approx((math.inf, 5**0.5 / 2), abs=1e-4)
    loss[alphas > 0.3] = math.nan
    assert LossCurve(alphas, loss).width(1.0) == pytest.approx(1.3, abs=0.011)


def test_points_of_a_line_are_not_measured_again_on_the_plane_finite_or_not():
    net, places = nn.Linear(1, 1, bias=False), []
    nn.init.zeros_(net.weight)

    def of_the_weight(model, batch):
        weight = float(model.weight)
        places.append(weight)
        return torch.tensor(math.nan if weight > 0.6 else weight**2)

    data, step = [(torch.ones(1, 1),)], {"weight": torch.ones(1, 1)}
    other = {"weight": torch.full((1, 1), 10.0)}
    line = loss_line(net, data, step, alphas=[-1.0, -0.5, 0.0, 0.5, 1.0], loss=of_the_weight)
    whole = loss_surface(net, data, (step, other), alphas=[-1.0, 0.0, 1.0], loss=of_the_weight)
    assert len(places) == 5 + 9
    places.clear()
    counts = []
    surface = loss_surface(
        net, data, (step, other), alphas=[-1.0, 0.0, 1.0], loss=of_the_weight, line=line,
        progress=lambda *count: counts.append(count),
    )  # fmt: skip
    assert sorted(places) == [-11, -10, -9, 9, 10, 11]
    assert counts[-1] == (6, 6)
    torch.testing.assert_close(surface.loss, whole.loss, equal_nan=True)
    assert surface.gaps == whole.gaps == 4
    only = loss_surface(net, data, (step, other), alphas=[-1.0, 1.0], betas=[0.0], loss=of_the_weight, line=line)
    torch.testing.assert_close(only.loss, line.loss[[0, 4]][:, None], equal_nan=True)
    assert len(places) == 6


def test_an_interruption_leaves_the_points_that_are_done_nearest_first():
    net = convolutional()
    kept = {}

    def note(point, figures):
        kept[point] = figures
        if len(kept) == 5:
            raise KeyboardInterrupt

    directions = (random_direction(net, seed=0), random_direction(net, seed=1))
    grid = [-1.0, -0.5, 0.0, 0.5, 1.0]
    weights = [own.clone() for own in net.parameters()]
    with pytest.raises(KeyboardInterrupt):
        loss_surface(net, [pictures()], directions, alphas=grid, on_point=note)
    assert next(iter(kept)) == (0.0, 0.0)
    assert set(kept) == {(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)}
    assert all(torch.equal(own, before) for own, before in zip(net.parameters(), weights, strict=True))
    whole = loss_surface(net, [pictures()], directions, alphas=grid)
    for (a, b), figures in kept.items():
        assert float(figures[0]) == float(whole.loss[grid.index(a), grid.index(b)])
    line = {}
    loss_line(net, [pictures()], directions[0], alphas=grid, on_point=line.__setitem__)
    assert next(iter(line)) == (0.0,)
    assert set(line) == {(a,) for a in grid}


def test_what_cannot_be_drawn_is_refused():
    net, data = nn.Linear(2, 2), [(torch.ones(2, 2), torch.tensor([0, 1]))]
    step = {"weight": torch.ones(2, 2)}
    refusals = {
        "no batch": lambda: loss_line(net, [], step),
        "without a tensor": lambda: loss_line(net, ["a"], step),
        "alphas must be finite numbers that rise": lambda: loss_line(net, data, step, alphas=[0.0, math.nan]),
        "betas must be finite": lambda: loss_surface(net, data, (step, step), alphas=[0.0], betas=[1.0, 1.0]),
        "is no parameter": lambda: loss_line(net, data, {"other": torch.ones(2)}),
        "has shape": lambda: loss_line(net, data, {"weight": torch.ones(2)}),
        "holds NaN": lambda: loss_line(net, data, {"weight": torch.full((2, 2), math.nan)}),
        "0 everywhere": lambda: loss_line(net, data, {"weight": torch.zeros(2, 2)}),
        "two directions": lambda: loss_surface(net, data, (step,)),
        "one number": lambda: loss_line(net, data, step, loss=lambda model, batch: model(batch[0])),
        "normalize must be one of": lambda: random_direction(net, "rows"),
        "ignore must be one of": lambda: random_direction(net, ignore="bias"),
        "seed must be a whole number": lambda: random_direction(net, seed=-1),
        "no parameter": lambda: random_direction(nn.ReLU()),
        "same weights": lambda: direction_between(net, net),
        "differ in architecture": lambda: direction_between(net, nn.Linear(2, 2, bias=False)),
        "in the other": lambda: direction_between(net, nn.Linear(3, 2)),
        "no angle": lambda: direction_cosine({"weight": torch.zeros(2)}, {"weight": torch.ones(2)}),
        "rise must be": lambda: loss_line(net, data, step, alphas=[0.0, 1.0]).width(0.0),
    }
    for words, call in refusals.items():
        with pytest.raises(errors.UsageError, match=words):
            call()

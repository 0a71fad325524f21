"""p030: traces of channels against whole Hessians, the second-order estimate where it is exact, and implants."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from binderclip.compress import (
    HessianTraceScore,
    NeuralImplant,
    PruneBudget,
    channel_groups,
    implant_channels,
    masked,
    remove,
)
from binderclip.errors import NotSupported, UsageError
from binderclip.landscape import hessian_diagonal, hessian_trace


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 6, 3, 2, padding=1),
        nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip
    nn.init.normal_(net[1].bias)
    nn.init.normal_(net[1].running_mean)
    return net


def data() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(12, 2, 6, 6, generator=g, dtype=torch.float64), torch.arange(12) % 3


def test_a_score_is_the_trace_of_the_whole_hessians_block_times_the_mean_square() -> None:
    """Of a network whose every trace is ten times the estimator's standard deviation."""
    torch.manual_seed(37)
    net = nn.Sequential(
        nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 4, 2, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(16, 3),
    ).double().eval()  # fmt: skip
    nn.init.normal_(net[1].bias)
    nn.init.normal_(net[1].running_mean)
    with torch.no_grad():
        net[6].weight.mul_(3)
    x, y = data()
    x, probes = x[:, :, :5, :5], 400
    scores = HessianTraceScore(loss=lambda: F.cross_entropy(net(x), y), probes=probes)(net, channel_groups(net))
    for name in ("0", "3"):
        weight = net.get_submodule(name).weight.detach()  # type: ignore[union-attr]

        def loss(w: Tensor, key: str = f"{name}.weight") -> Tensor:
            return F.cross_entropy(functional_call(net, {key: w}, (x,)), y)

        n, size = len(weight), weight[0].numel()
        hessian = torch.autograd.functional.hessian(loss, weight).reshape(n, size, n, size)
        for c in range(n):
            block = hessian[c, :, c]
            # the variance of one draw of Hutchinson's estimator, of the whole of the layer's rows of the Hessian
            rows = hessian[c].flatten(1).clone()
            rows[:, c * size : (c + 1) * size] += block.T  # both orders of a pair within the block
            variance = float(rows.square().sum() - 4 * block.diagonal().square().sum())
            expected = float(block.trace() * weight[c].square().sum() / size)
            deviation = math.sqrt(variance / probes) * float(weight[c].square().mean())
            assert abs(expected) > 9 * deviation  # so that no channel's score could be zero, its half or its double
            assert abs(float(scores[name][c]) - expected) < 3 * deviation
    assert all(p.requires_grad for p in net.parameters())


def test_the_diagonal_sums_to_the_trace_of_the_same_draws() -> None:
    net, (x, y) = network(), data()
    params = [net[0].weight, net[7].weight]

    def loss() -> Tensor:
        return F.cross_entropy(net(x), y)

    diagonal = hessian_diagonal(loss, params, probes=7, seed=3)
    trace = hessian_trace(loss, params, probes=7, tolerance=0, seed=3)
    assert float(sum(part.sum() for part in diagonal)) == pytest.approx(trace.value, rel=1e-9)
    assert [part.shape for part in diagonal] == [p.shape for p in params]
    with pytest.raises(UsageError, match="probes"):
        hessian_diagonal(loss, params, probes=0)


def test_linear_regression_has_the_second_moments_of_its_inputs_and_the_rise_is_exact() -> None:
    """Loss 0.5 |W x|^2 with white inputs: H is the identity, so one draw is exact, and so is half of the score."""
    g = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(8, 5, generator=g, dtype=torch.float64))[0] * 8**0.5  # x'x / 8 is the identity
    net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Flatten(), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(4))
    groups = channel_groups(net)

    def loss() -> Tensor:
        return 0.5 * net(x).square().sum(1).mean()

    scores = HessianTraceScore(loss=loss, probes=1)(net, groups)["0"]
    torch.testing.assert_close(scores, net[0].weight.detach().square().sum(1))
    whole = float(loss())
    for c in range(4):
        with masked(groups, {"0": torch.arange(4) != c}):
            assert whole - float(loss()) == pytest.approx(0.5 * float(scores[c]), rel=1e-9)


def test_linear_regression_with_features_of_unequal_size_has_their_second_moments() -> None:
    """Loss 0.5 |A W x|^2: the Hessian is A'A (x) E[x x'], so that a row's trace is |a_r|^2 E|x|^2, exactly with A and
    E[x x'] diagonal."""
    g = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0.1, 0.5, 1.0, 2.0, 5.0], dtype=torch.float64)
    gains = torch.tensor([0.3, 1.0, 2.0, 4.0], dtype=torch.float64)
    x = torch.linalg.qr(torch.randn(8, 5, generator=g, dtype=torch.float64))[0] * 8**0.5 * sizes
    net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Flatten(), nn.Linear(4, 4, bias=False)).double()
    with torch.no_grad():
        net[2].weight.copy_(gains.diag())
    expected = gains.square() * sizes.square().sum() * net[0].weight.detach().square().mean(1)
    for sign in (1, -1):  # of a loss that is concave the traces are negative, and so are the scores
        score = HessianTraceScore(loss=lambda sign=sign: sign * 0.5 * net(x).square().sum(1).mean(), probes=1)
        torch.testing.assert_close(score(net, channel_groups(net))["0"], sign * expected)


SCORES = {"0": torch.tensor([4.0, 1.0, 2.0, 3.0]), "3": torch.tensor([6.0, 5.0, 0.1, 9.0, 8.0, 0.2])}


def test_of_the_channels_that_go_the_most_sensitive_are_implanted_where_they_stood() -> None:
    net, (x, _) = network(), data()
    keep = PruneBudget(amount=0.5, scope="global").select(SCORES)
    assert [mask.tolist() for mask in keep.values()] == [
        [True, False, False, False], [True, True, False, True, True, False]
    ]  # fmt: skip
    tuned, twin = copy.deepcopy(net), copy.deepcopy(net)
    report = implant_channels(tuned, channel_groups(tuned), SCORES, amount=0.5, implants=0.4)
    assert isinstance(tuned[0], NeuralImplant)
    assert type(tuned[3]) is nn.Conv2d
    assert tuned[0].implant.weight.shape == (2, 2, 1, 1)
    assert report.groups_after == 7
    # a kernel that is zero but for its middle is a 1 x 1 kernel
    remove(twin, channel_groups(twin), {"0": torch.tensor([True, False, True, True]), "3": keep["3"]})
    for value in (0.0, 0.3):
        with torch.no_grad():
            tuned[0].implant.weight.fill_(value)
            twin[0].weight[1:] = 0
            twin[0].weight[1:, :, 1, 1] = value
        torch.testing.assert_close(tuned(x), twin(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("norm", [False, True])
def test_an_implant_at_zero_is_the_network_without_its_channels_and_learns(norm: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU() if norm else nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    ).double()  # fmt: skip
    if norm:
        nn.init.constant_(net[1].bias, 0.5)
    scores, (x, y) = {"0": torch.arange(8.0)}, data()
    cut = copy.deepcopy(net)
    remove(cut, channel_groups(cut), PruneBudget(amount=0.5).select(scores))
    implant_channels(net, channel_groups(net), scores, amount=0.5, implants=0.5)
    assert torch.allclose(net.eval()(x), cut.eval()(x), atol=1e-9) is not norm
    optimizer = torch.optim.SGD(net.train().parameters(), lr=0.1)
    for _ in range(3):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert bool((net[0].implant.weight.abs().sum((1, 2, 3)) > 0).all())  # type: ignore[union-attr]


def test_a_linear_implant_has_the_best_rank() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 10)
    mask = torch.arange(10) % 2 == 0
    x = torch.randn(7, 16)
    zero, best = NeuralImplant(layer, mask), NeuralImplant(layer, mask, init="svd")
    assert float(zero(x)[:, mask].detach().abs().max()) == 0
    torch.testing.assert_close(zero(x)[:, ~mask], layer(x)[:, ~mask])
    rows = layer.weight.detach()[mask]
    left, values, right = torch.linalg.svd(rows, full_matrices=False)
    approximation = left[:, :2] @ torch.diag(values[:2]) @ right[:2]  # R = 16 / 8
    torch.testing.assert_close(best(x)[:, mask], x @ approximation.T, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in best.implant.parameters()) == 2 * (16 + 5)


def test_what_does_not_fit_is_refused() -> None:
    conv, mask = nn.Conv2d(3, 4, 3, padding=1), torch.tensor([True, False, True, False])
    for layer in (nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, groups=2)):
        with pytest.raises(NotSupported, match="1 x 1"):
            NeuralImplant(layer, mask)
    with pytest.raises(UsageError, match="svd"):
        NeuralImplant(conv, mask, init="svd")
    for wrong in (mask[:2], torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool), torch.ones(4)):
        with pytest.raises(UsageError, match="implanted must be 4"):
            NeuralImplant(conv, wrong)
    net = network()
    groups = channel_groups(net)
    scores = {one.name: torch.rand(len(one)) for one in groups}
    for settings, word in (({"amount": 1.0}, "amount"), ({"amount": 0.5, "implants": math.nan}, "implants")):
        with pytest.raises(UsageError, match=word):
            implant_channels(net, groups, scores, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="scores must be those"):
        implant_channels(net, groups[:1], scores, amount=0.5)
    with pytest.raises(UsageError, match="probes"):
        HessianTraceScore(loss=lambda: torch.tensor(0.0), probes=0)
    with pytest.raises(UsageError, match="NaN"):
        HessianTraceScore(loss=lambda: net(data()[0]).sum() * math.nan, probes=1)(net, groups)

"""SAM (for p088; arXiv 2010.01412, 2102.11600) against its formula on a quadratic, and plain SGD at radius zero."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.optim import SAM

CURVATURE = torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64)


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))


def loss(w: torch.Tensor) -> torch.Tensor:
    return 0.5 * (CURVATURE * w * w).sum()


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_step_on_a_quadratic_is_the_formula(adaptive: bool) -> None:
    w = start()
    sam = SAM([w], torch.optim.SGD, rho=0.5, adaptive=adaptive, eta=0.1, lr=0.2)
    old = w.detach().clone()
    gradient = CURVATURE * old
    scale = old.abs() + 0.1 if adaptive else torch.ones(3, dtype=torch.float64)
    far = old + 0.5 * scale**2 * gradient / (scale * gradient).norm()
    loss(w).backward()
    sam.first_step(zero_grad=True)
    torch.testing.assert_close(w.detach(), far)
    loss(w).backward()
    sam.second_step(zero_grad=True)
    torch.testing.assert_close(w.detach(), old - 0.2 * CURVATURE * far)
    assert w.grad is None


def test_the_radius_is_over_all_parameters_together() -> None:
    one, other = start(), nn.Parameter(torch.full((4,), 2.0, dtype=torch.float64))
    sam = SAM([{"params": [one]}, {"params": [other]}], rho=0.3, lr=0.1)
    before = [p.detach().clone() for p in (one, other)]
    (loss(one) + other.square().sum()).backward()
    sam.first_step()
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip((one, other), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.3)
    with pytest.raises(UsageError, match="twice"):
        sam.first_step()
    sam.restore()
    assert all(torch.equal(p.detach(), b) for p, b in zip((one, other), before, strict=True))


def test_three_ways_to_take_a_step_agree() -> None:
    found = []
    for way in ("two steps", "closure", "fit"):
        w = start()
        sam = SAM([w], torch.optim.SGD, rho=0.2, lr=0.05, momentum=0.9)
        if way == "fit":
            fit(sam.around(lambda _, w=w: loss(w)), [w], [0], steps=5, optimizer=sam, schedule="constant")
        for _ in range(5 if way != "fit" else 0):
            sam.zero_grad()
            loss(w).backward()
            if way == "closure":

                def closure(w: nn.Parameter = w) -> torch.Tensor:
                    value = loss(w)
                    value.backward()
                    return value

                sam.step(closure)
            else:
                sam.first_step(zero_grad=True)
                loss(w).backward()
                sam.second_step()
        found.append(w.detach().clone())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_only_at_a_radius_of_zero_it_is_plain_sgd_bit_for_bit(rho: float) -> None:
    def trained(sharp: bool) -> torch.Tensor:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
        step = lambda rows: net(rows).square().mean()  # noqa: E731
        options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
        if sharp:
            sam = SAM(net.parameters(), torch.optim.SGD, rho=rho, **options)
            fit(sam.around(step), net, x.split(5), steps=8, optimizer=sam)
        else:
            fit(step, net, x.split(5), steps=8, optimizer=torch.optim.SGD(net.parameters(), **options))
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    assert torch.equal(trained(True), trained(False)) == (rho == 0)


def test_accumulated_batches_have_a_worst_point_each() -> None:
    w = start()
    sam = SAM([w], rho=0.4, lr=0.1)
    fit(sam.around(lambda k: k * loss(w)), [w], [1.0, 3.0], steps=1, optimizer=sam, accumulate=2, schedule="constant")
    old = start().detach()
    far = old + 0.4 * CURVATURE * old / (CURVATURE * old).norm()
    torch.testing.assert_close(w.detach(), old - 0.1 * (1.0 + 3.0) / 2 * CURVATURE * far)


def test_running_statistics_see_the_first_pass_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(16, 3)
    twin = nn.BatchNorm1d(4)
    twin(net[0](x))
    sam = SAM(net.parameters(), rho=0.5, lr=0.1)
    fit(sam.around(lambda rows: net(rows).pow(4).mean(), net), net, [x], steps=1, optimizer=sam)
    torch.testing.assert_close(net[1].running_mean, twin.running_mean)
    torch.testing.assert_close(net[1].running_var, twin.running_var)
    assert int(net[1].num_batches_tracked) == 1
    assert net[1].momentum == 0.1


def test_a_schedule_and_a_state_dict_reach_the_base_optimizer() -> None:
    w = start()
    sam = SAM([w], torch.optim.SGD, rho=0.1, lr=0.5, momentum=0.9)
    sam.param_groups[0]["lr"] = 0.0
    loss(w).backward()
    sam.first_step()
    sam.second_step()
    assert torch.equal(w.detach(), start().detach())
    other = SAM([start()], torch.optim.SGD, rho=0.7, lr=0.1, momentum=0.9)
    other.load_state_dict(sam.state_dict())
    assert other.base.param_groups[0]["lr"] == 0.0
    assert other.base.param_groups[0]["rho"] == 0.1
    kept = next(iter(other.base.state.values()))["momentum_buffer"]
    torch.testing.assert_close(kept, CURVATURE * start().detach())
    with pytest.raises(UsageError, match="rho"):
        SAM([w], rho=-1.0, lr=0.1)


def test_a_made_optimizer_in_the_place_of_its_class_is_refused():
    net = torch.nn.Linear(2, 1)
    made = torch.optim.AdamW(net.parameters())
    for wrong in (lambda: SAM(net.parameters(), made, rho=0.1), lambda: SAM(made, rho=0.1)):
        with pytest.raises(UsageError, match=r"SAM\(model.parameters\(\), AdamW"):
            wrong()

"""`GroupDRO` and `reverse_gradient`, the mitigations while training of p127 (arXiv 2408.02464)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip.adapt import GroupDRO, reverse_gradient
from binderclip.errors import UsageError


def test_weights_follow_exponentiated_gradient_by_hand() -> None:
    robust = GroupDRO(3, step_size=0.5)
    losses = torch.tensor([1.0, 3.0, 0.5], requires_grad=True)
    found = robust(losses, torch.tensor([0, 0, 1]))
    raised = [math.exp(0.5 * 2.0), math.exp(0.5 * 0.5), 1.0]  # group 2 is not there
    q = [value / sum(raised) for value in raised]
    assert robust.q.tolist() == pytest.approx(q, rel=1e-6)
    assert float(found.detach()) == pytest.approx(q[0] * 2.0 + q[1] * 0.5, rel=1e-6)
    found.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([q[0] / 2, q[0] / 2, q[1]], rel=1e-6), "no gradient through q"
    robust(losses, torch.tensor([0, 0, 1]))
    twice = [value**2 for value in raised]
    assert robust.q.tolist() == pytest.approx([value / sum(twice) for value in twice], rel=1e-5)


def test_without_steps_it_is_the_mean_over_groups_and_evaluation_moves_nothing() -> None:
    losses, groups = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 1])
    assert float(GroupDRO(2, step_size=0)(losses, groups)) == pytest.approx((1.5 + 6) / 2)
    robust = GroupDRO(2, step_size=10.0).eval()
    robust(losses, groups)
    assert robust.q.tolist() == [0.5, 0.5]
    robust.train()(torch.tensor([1e6, 0.0]), torch.tensor([0, 1]))
    assert robust.q.tolist() == pytest.approx([1.0, 0.0]), "no overflow"
    assert robust.state_dict()["q"].tolist() == pytest.approx([1.0, 0.0])


def test_it_reaches_the_minimax_point_where_the_mean_loss_does_not() -> None:
    # l_0 = (w - 1)^2 with 90 samples, l_1 = 2 (w + 1)^2 with 10: the worst group is best served where both are equal
    groups = torch.tensor([0] * 90 + [1] * 10)

    def trained(robust: GroupDRO | None) -> float:
        w = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.SGD([w], lr=0.02)
        for _ in range(1500):
            losses = torch.where(groups == 0, (w - 1) ** 2, 2 * (w + 1) ** 2)
            loss = losses.mean() if robust is None else robust(losses, groups)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(w.detach())

    minimax = (1 - math.sqrt(2)) / (1 + math.sqrt(2))
    assert (minimax - 1) ** 2 == pytest.approx(2 * (minimax + 1) ** 2)
    assert trained(GroupDRO(2, step_size=0.05)) == pytest.approx(minimax, abs=0.02)
    assert trained(None) == pytest.approx((0.9 - 0.2) / (0.9 + 0.2), abs=0.01)


def test_the_gradient_is_turned_round_and_the_values_are_not() -> None:
    x = torch.tensor([[1.0, -2.0]], requires_grad=True)
    out = reverse_gradient(x, 0.5)
    assert torch.equal(out, x)
    (out * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[-1.5, -2.0]]


def test_features_behind_a_reversed_head_hide_the_attribute() -> None:
    generator = torch.Generator().manual_seed(0)
    y, a = (torch.randint(0, 2, (400,), generator=generator) for _ in range(2))
    x = torch.stack([2.0 * y - 1, 2.0 * a - 1], dim=1) + 0.3 * torch.randn(400, 2, generator=generator)

    def spread(strength: float) -> float:
        """How much of the feature's variance is between values of the attribute."""
        torch.manual_seed(1)
        encoder, task, other = nn.Linear(2, 1, bias=False), nn.Linear(1, 2), nn.Linear(1, 2)
        optimizer = torch.optim.Adam([*encoder.parameters(), *task.parameters(), *other.parameters()], lr=0.03)
        for _ in range(300):
            seen = encoder(x)
            loss = nn.functional.cross_entropy(task(seen), y)
            loss = loss + nn.functional.cross_entropy(other(reverse_gradient(seen, strength)), a)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        w = encoder.weight[0].detach().abs()
        return float(w[1] / w[0])

    assert spread(1.0) < 0.15
    assert spread(1.0) < spread(0.0) / 2


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        GroupDRO(1)
    with pytest.raises(UsageError, match="step_size is -1"):
        GroupDRO(2, step_size=-1)
    robust = GroupDRO(2)
    with pytest.raises(UsageError, match="B > 0"):
        robust(torch.zeros(3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(UsageError, match="from 0 to 1"):
        robust(torch.zeros(1), torch.tensor([2]))
    with pytest.raises(UsageError, match="strength is -1"):
        reverse_gradient(torch.zeros(1, 1), -1)

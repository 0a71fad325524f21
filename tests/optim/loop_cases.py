"""A small model, its batches and a training loop by hand, with which the loops of other libraries must agree."""

from __future__ import annotations

import torch
from torch import nn


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def batches():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(1)).split(8)


def loss_of(net, batch, step):
    """A hundred times larger at every third step, so that there is something to clip."""
    return (10.0 ** (step % 3)) * net(batch).square().mean()


def by_hand(clip, steps, accumulate=1, kind=torch.optim.AdamW, lr=0.05, seed=0):
    """The network after so many steps, each of which clips the sum over `accumulate` batches."""
    net, data = network(seed), batches()
    optimizer = kind(net.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(step * accumulate, (step + 1) * accumulate):
            (loss_of(net, data[part % 4], part) / accumulate).backward()
        clip(net.named_parameters())
        optimizer.step()
    return net


def assert_same(one, other, tolerance=0.0):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

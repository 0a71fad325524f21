"""p099: random groups share no example with others. p084: eight networks at once are those of a loop over each."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.studies.papers import p084_sharpness as sharpness
from binderclip.studies.papers import p099_opposing_signals as opposing


def test_random_groups_have_the_classes_of_others_and_none_of_their_examples() -> None:
    targets = torch.arange(4).repeat_interleave(6)  # 6 examples of a class
    groups = [torch.tensor([0, 1, 6]), torch.tensor([2, 12, 13])]  # class 0: 3 are taken, 3 are asked for
    for seed in range(20):
        random = opposing.of_the_same_classes(groups, targets, np.random.default_rng(seed))
        for group, drawn in zip(groups, random, strict=True):
            assert targets[drawn].tolist() == targets[group].tolist()
        everything = torch.cat([*groups, *random]).tolist()
        assert len(set(everything)) == len(everything) == 12


def test_networks_trained_at_once_are_those_of_a_loop_over_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharpness, "EPOCHS", 3)
    side, seed, batch = sharpness.SIDE, 5, 16
    images = torch.randn(40, 1, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(40) % 10
    at_once = sharpness.trained(images, labels, seed, batch)
    settings = list(product(sharpness.RATES, sharpness.MIRRORED))
    assert len(at_once) == len(settings)
    for net, (rate, mirrored) in zip(at_once, settings, strict=True):
        torch.manual_seed(seed)
        alone = nn.Sequential(nn.Flatten(), nn.Linear(side * side, sharpness.WIDTH), nn.ReLU())
        alone.append(nn.Linear(sharpness.WIDTH, 10))
        g = torch.Generator().manual_seed(seed)
        velocity = [torch.zeros_like(part) for part in alone.parameters()]
        for epoch in range(3):
            for rows in torch.randperm(40, generator=g).split(batch):
                heads = torch.rand(len(rows), generator=g) < 0.5
                turned = [x.flip(-1) if head and mirrored else x for x, head in zip(images[rows], heads, strict=True)]
                loss = nn.functional.cross_entropy(alone(torch.stack(turned)), labels[rows])
                grads = torch.autograd.grad(loss, list(alone.parameters()))
                for part, speed, grad in zip(alone.parameters(), velocity, grads, strict=True):
                    speed.mul_(0.9).add_(grad)
                    part.data -= rate * (1 - epoch / 3) * speed
        for part, other in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(part, other, rtol=1e-4, atol=1e-5)

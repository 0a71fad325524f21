"""Clipping in plain loops with more than one optimizer, or one gradient from several backward passes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.optim import METHODS, NormClip, ValueClip, as_clip


def pair():
    """A generator of points and its judge."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2))
    judge = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    return generator, judge


def adversarial(generator, judge, optimizers, steps, before=lambda number, net: None):
    """Both are trained in turn; the generator's backward leaves gradients in the judge, which its step clears."""
    chance = torch.Generator().manual_seed(1)
    for _ in range(steps):
        noise, real = torch.randn(16, 3, generator=chance), 5 * torch.randn(16, 2, generator=chance)
        optimizers[1].zero_grad()
        (judge(generator(noise).detach()).mean() - judge(real).mean()).backward()
        before(1, judge)
        optimizers[1].step()
        optimizers[0].zero_grad()
        (-judge(generator(noise)).mean()).backward()
        before(0, generator)
        optimizers[0].step()


@pytest.mark.parametrize("name", METHODS)
def test_two_optimizers_keep_two_memories(name):
    ours, theirs = pair(), pair()
    clips, by_hand = [METHODS[name](), METHODS[name]()], [METHODS[name](), METHODS[name]()]
    one, other = ([torch.optim.SGD(net.parameters(), lr=0.1) for net in nets] for nets in (ours, theirs))
    for clip, optimizer, net in zip(clips, one, ours, strict=True):
        clip.attach(optimizer, net.named_parameters())
    adversarial(*ours, one, 8)
    adversarial(*theirs, other, 8, lambda number, net: by_hand[number](net.named_parameters()))
    for a, b in zip((*ours[0].parameters(), *ours[1].parameters()), (*theirs[0].parameters(), *theirs[1].parameters()),
                    strict=True):  # fmt: skip
        assert torch.equal(a, b)
    assert repr(clips[0].state_dict()) == repr(by_hand[0].state_dict())
    assert repr(clips[0].report.norm) != repr(clips[1].report.norm)


def test_each_optimizer_clips_by_its_own_rule():
    generator, judge = pair()
    optimizers = [torch.optim.SGD(net.parameters(), lr=1.0) for net in (generator, judge)]
    NormClip(1e-3).attach(optimizers[0])
    ValueClip(1e-4).attach(optimizers[1])
    before = [[p.detach().clone() for p in net.parameters()] for net in (generator, judge)]
    adversarial(generator, judge, optimizers, 1)
    moved = [
        torch.cat([(a - b).detach().flatten() for a, b in zip(old, net.parameters(), strict=True)])
        for old, net in zip(before, (generator, judge), strict=True)
    ]
    assert float(moved[0].norm()) == pytest.approx(1e-3, rel=1e-2)
    assert float(moved[1].abs().max()) == pytest.approx(1e-4, rel=1e-2)


def test_accumulated_gradients_are_clipped_as_one():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(4, 2), nn.Linear(4, 2)
    theirs.load_state_dict(ours.state_dict())
    batch = torch.randn(12, 4)
    one, other = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (ours, theirs))
    clip = as_clip([ValueClip(0.5), NormClip(0.3)])
    clip.attach(one)
    for part in batch.split(4):
        (ours(part).square().mean() * 10 / 3).backward()
    one.step()
    (theirs(batch).square().mean() * 10).backward()
    nn.utils.clip_grad_value_(theirs.parameters(), 0.5)
    nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
    other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert all(bool(report.clipped.any()) for report in clip.report)

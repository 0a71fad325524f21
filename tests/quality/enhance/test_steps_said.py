"""Percent and time of a training, by a clock of its own."""

from __future__ import annotations

import time

import pytest
import torch

from binderclip.fit import fit
from binderclip.quality.enhance.steps_said import StepsSaid


def test_each_percent_is_said_once_with_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of half a second: after n of 400 steps (400 - n) / 2 seconds are left."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    weight, said = torch.nn.Parameter(torch.zeros(1)), []

    def step(batch: int) -> torch.Tensor:
        clock[0] += 0.5
        return weight.square().sum()

    fit(step, [weight], [0], steps=400, lr=0.0, callbacks=[StepsSaid(said.append, "the network")])
    assert len(said) == 101
    assert said[0] == "the network, 0 %"
    assert said[1] == "the network, 1 %, about 3 min left"  # 198 s
    assert said[75] == "the network, 75 %, about 50 s left"
    assert said[100] == "the network, 100 %"

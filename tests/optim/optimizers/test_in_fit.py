"""The guarded optimizers in `fit`, by name: the same steps as in a loop written out, and exact resumption."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.fit import Callback, Checkpoint, fit
from binderclip.fit.optimizers import make_optimizer

SETTINGS = {
    "clipped-adagrad": {"name": "clipped-adagrad", "form": "norm", "clip": 0.5},
    "clipped-adam": {"name": "clipped-adam", "clip": 0.5},
    "lamb": {"name": "lamb", "betas": [0.9, 0.95], "trust": [0.1, 2.0]},
    "median-momentum": {"name": "median-momentum", "tau": 0.1},
    "stable-spam": {"name": "stable-spam", "update_proj_gap": 5, "total_T": 12},
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batches():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(4, 8, 6, generator=generator)
    return [(x, x[:, :3].argmax(1)) for x in inputs]


def loss_of(model):
    return lambda batch: nn.functional.cross_entropy(model(batch[0]), batch[1])


class StopAt(Callback):
    def __init__(self, at):
        self.at = at

    def after_step(self, step):
        return step == self.at


@pytest.mark.parametrize("name", SETTINGS)
def test_fit_takes_the_steps_of_a_plain_loop_and_resumes_exactly(name, tmp_path):
    settings = SETTINGS[name]
    whole, twin = net(), net()
    fit(loss_of(whole), whole, batches(), steps=12, lr=0.05, schedule="constant", optimizer=settings)
    optimizer = make_optimizer(settings, twin.parameters(), 0.05)
    for step in range(12):
        optimizer.zero_grad()
        loss_of(twin)(batches()[step % 4]).backward()
        optimizer.step()
    start = net()
    for ours, theirs, first in zip(whole.parameters(), twin.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
        assert not torch.equal(ours, first)
    resumed = net()
    for callbacks in ([StopAt(7)], []):
        fit(
            loss_of(resumed), resumed, batches(), steps=12, lr=0.05, schedule="constant", optimizer=settings,
            checkpoint=Checkpoint(tmp_path, every=3), callbacks=callbacks,
        )  # fmt: skip
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)

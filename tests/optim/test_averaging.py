"""The average of weights against its closed form and timm's."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.utils import ModelEmaV2
from torch import nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.optim import ModelEMA, scaled_ema_decay


def test_constant_weights_are_approached_geometrically() -> None:
    module = nn.Linear(3, 2).double()
    start = module.weight.detach().clone()
    ema = ModelEMA(module, 0.8)
    with torch.no_grad():
        module.weight.fill_(2.0)
    for _ in range(7):
        ema.update_parameters(module)
    torch.testing.assert_close(ema.module.weight, 2.0 - 0.8**7 * (2.0 - start))
    torch.testing.assert_close(ema.module.bias, module.bias)


def test_it_is_timms_average_and_buffers_are_copied() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ours, theirs = ModelEMA(module, 0.9), ModelEmaV2(module, 0.9)
    for _ in range(5):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        module(torch.randn(8, 3))
        ours.update_parameters(module)
        theirs.update(module)
    for mine, other in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    assert torch.equal(ours.module[1].running_mean, module[1].running_mean)


def test_a_rising_decay_starts_fast() -> None:
    module = nn.Linear(1, 1, bias=False).double()
    ema = ModelEMA(module, 0.5, warmup=True)
    assert [ema.decay_at(t) for t in (0, 1, 2, 8, 100)] == [0.1, 2 / 11, 0.25, 0.5, 0.5]
    value = module.weight.item()
    for step in range(4):
        with torch.no_grad():
            module.weight.fill_(step + 1.0)
        ema.update_parameters(module)
        d = min(0.5, (1 + step) / (10 + step))
        value = d * value + (1 - d) * (step + 1)
    assert ema.module.weight.item() == pytest.approx(value)


def test_fit_takes_it_and_returns_it() -> None:
    module = nn.Linear(2, 1)
    path = [copy.deepcopy(module.weight.data)]
    batches = [torch.randn(4, 2, generator=torch.Generator().manual_seed(s)) for s in range(3)]

    class AfterStep:
        def after_step(self, step: int) -> None:
            path.append(module.weight.data.clone())

    def loss(x: torch.Tensor) -> torch.Tensor:
        return module(x).square().mean()

    ema = ModelEMA(module, 0.7)
    result = fit(loss, module, batches, steps=3, lr=0.1, optimizer="sgd", ema=ema, log_every=1, callbacks=[AfterStep()])
    assert len(path) == 4
    expected = path[0]
    for now in path[1:]:
        expected = 0.7 * expected + 0.3 * now
    torch.testing.assert_close(result.ema.module.weight.data, expected)


def test_the_decay_of_a_shorter_run() -> None:
    assert scaled_ema_decay(31_250) == 0.999
    assert scaled_ema_decay(125) == pytest.approx(1 - 0.0002 * 250)
    assert scaled_ema_decay(10) == 0.9
    # half the reference's steps, twice what it forgets at each
    assert scaled_ema_decay(500, decay=0.98, reference=1000) == pytest.approx(0.96)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        scaled_ema_decay(0)
    with pytest.raises(UsageError, match=r"decay must lie in \[0, 1\), such as 0.9998, got 1"):
        ModelEMA(nn.Linear(1, 1), 1.0)

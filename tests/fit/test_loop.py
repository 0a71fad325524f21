"""`fit` against loops written out by hand in plain torch."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from binderclip.errors import UsageError
from binderclip.fit import Callback, Checkpoint, Diverged, StepRecord, fit
from binderclip.models.files.devices import emulated


def small_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def some_batches(count: int, size: int = 8, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, size, 6, generator=generator)
    return [(x, x[:, :3].argmax(1)) for x in inputs]


def loss_of(net: nn.Module):
    return lambda batch: nn.functional.cross_entropy(net(batch[0]), batch[1])


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_equals_a_plain_loop_with_lambda_lr() -> None:
    net, twin = small_net(), small_net()
    batches = some_batches(4)
    found = fit(loss_of(net), net, batches, steps=10, lr=0.01, warmup=3, schedule="cosine")

    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, fused=True)
    rate = lambda i: (i + 1) / 3 if i < 3 else 0.5 * (1 + math.cos(math.pi * (i - 3) / 7))  # noqa: E731
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    for i in range(10):
        loss = loss_of(twin)(batches[i % 4])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        losses.append(loss.item())
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.history["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(found.history["lr"], [0.01 * rate(i) for i in range(10)])
    assert found.steps == 10
    assert found.history["samples"][-1] == 80


def test_the_rate_never_falls_below_its_floor() -> None:
    net = nn.Linear(3, 1)
    settings = {"steps": 10, "lr": 0.01, "schedule": "cosine", "log_every": 1}
    found = fit(lambda x: net(x).mean(), net, [torch.ones(2, 3)], floor=0.4, **settings)
    expected = [0.01 * (0.4 + 0.6 * 0.5 * (1 + math.cos(math.pi * i / 10))) for i in range(10)]
    np.testing.assert_allclose(found.history["lr"], expected)


def test_accumulation_is_one_large_batch() -> None:
    net, twin = small_net(), small_net()
    parts = some_batches(6, size=5)
    joined = [
        (torch.cat([x for x, _ in parts[i : i + 3]]), torch.cat([y for _, y in parts[i : i + 3]])) for i in (0, 3)
    ]
    settings = {"steps": 2, "lr": 0.1, "optimizer": {"name": "sgd", "momentum": 0.9}, "schedule": "constant"}
    accumulated = fit(loss_of(net), net, parts, accumulate=3, **settings)
    large = fit(loss_of(twin), twin, joined, **settings)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(accumulated.history["loss"], large.history["loss"], rtol=1e-5)


def test_average_follows_its_recurrence() -> None:
    net = small_net()
    seen = [[p.detach().clone() for p in net.parameters()]]

    class Watch(Callback):
        def after_step(self, step: int) -> None:
            seen.append([p.detach().clone() for p in net.parameters()])

    found = fit(loss_of(net), net, some_batches(3), steps=6, lr=0.05, ema=0.8, callbacks=[Watch()])
    expected = seen[1]  # the first update copies
    for weights in seen[2:]:
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, weights, strict=True)]
    assert found.ema is not None
    for p, q in zip(found.ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)


def test_groups_keep_their_rates() -> None:
    net = small_net()
    before = copy.deepcopy(net)
    groups = [{"params": net[0].parameters(), "lr_scale": 0.0}, {"params": net[2].parameters(), "lr_scale": 0.5}]
    fit(loss_of(net), groups, some_batches(2), steps=1, lr=0.2, optimizer="sgd", schedule="constant")
    assert torch.equal(net[0].weight, before[0].weight)
    loss_of(before)(some_batches(2)[0]).backward()
    torch.testing.assert_close(net[2].weight, before[2].weight - 0.1 * before[2].weight.grad)


def test_grad_transform_stands_between_backward_and_step() -> None:
    net, twin = small_net(), small_net()
    batch = some_batches(1)

    def flip(parameters: list[torch.Tensor]) -> None:
        for p in parameters:
            p.grad.neg_()

    fit(loss_of(net), net, batch, steps=1, lr=0.1, optimizer="sgd", schedule="constant", grad_transform=flip)
    loss_of(twin)(batch[0]).backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q + 0.1 * q.grad)


def test_bfloat16_runs_the_towers_in_half_and_keeps_the_weights_whole() -> None:
    net, seen = small_net(), []

    def step(batch):
        logits = net(batch[0])
        seen.append(logits.dtype)
        return nn.functional.cross_entropy(logits.float(), batch[1])

    found = fit(step, net, some_batches(2), steps=20, lr=0.02, precision="bfloat16")
    assert set(seen) == {torch.bfloat16}
    assert net[0].weight.dtype == torch.float32
    assert found.history["loss"][-3:].mean() < found.history["loss"][:3].mean()


def test_float16_scales_the_loss_and_leaves_true_gradients() -> None:
    net, twin = small_net(), small_net()
    batch = some_batches(1)
    norms = []
    fit(loss_of(net), net, batch, steps=1, lr=0.1, optimizer="sgd", precision="float16", schedule="constant",
        grad_transform=lambda ps: norms.append(float(nn.utils.get_total_norm([p.grad for p in ps]))))  # fmt: skip
    loss_of(twin)(batch[0]).backward()
    assert norms[0] == pytest.approx(float(nn.utils.get_total_norm([p.grad for p in twin.parameters()])), rel=0.02)


def test_records_come_once_a_step_in_order() -> None:
    net, records = small_net(), []

    class Watch(Callback):
        ended = None

        def on_step(self, record: StepRecord) -> None:
            records.append(record)

        def on_end(self, result) -> None:
            self.ended = result.steps

    watch, plain = Watch(), []

    def step(batch):
        return loss_of(net)(batch), {"size": torch.tensor(float(len(batch[0]))), "two": 2.0}

    fit(step, net, some_batches(3), steps=7, lr=0.01, callbacks=[watch, lambda r: plain.append(r.step)], log_every=3)
    assert [r.step for r in records] == plain == list(range(1, 8))
    assert {r.metrics["size"] for r in records} == {8.0}
    assert {r.metrics["two"] for r in records} == {2.0}
    assert watch.ended == 7


def test_a_callback_can_end_the_run() -> None:
    class Enough(Callback):
        def after_step(self, step: int) -> bool:
            return step == 4

    net = small_net()
    assert fit(loss_of(net), net, some_batches(2), steps=50, lr=0.01, callbacks=[Enough()]).steps == 4


def test_nan_names_the_step_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    net, count = small_net(), [0]

    def step(batch):
        count[0] += 1
        return loss_of(net)(batch) * (math.nan if count[0] == 9 else 1.0)

    with pytest.raises(Diverged, match=r"nan at step 9.*step-00000008 is kept"):
        fit(step, net, some_batches(2), steps=40, lr=0.01, checkpoint=Checkpoint(tmp_path, every=4))
    fresh = small_net(5)
    found = fit(loss_of(fresh), fresh, some_batches(2), steps=12, lr=0.01, checkpoint=Checkpoint(tmp_path, every=4))
    assert found.resumed_from == 8
    assert np.isfinite(found.history["loss"]).all()


def test_on_a_cpu_a_loss_that_is_not_finite_ends_the_run_at_its_step() -> None:
    net, count = small_net(), [0]

    def step(batch):
        count[0] += 1
        return loss_of(net)(batch) * (math.inf if count[0] == 3 else 1.0)

    with pytest.raises(Diverged, match="inf at step 3"):
        fit(step, net, some_batches(2), steps=100, lr=0.01, log_every=50)
    assert count == [3]


@pytest.mark.parametrize("broken", [49, 50])
def test_a_clip_that_skips_every_step_does_not_skip_for_ever(broken: int) -> None:
    net, count = small_net(), [0]

    def step(batch):
        count[0] += 1
        return loss_of(net)(batch) * (math.nan if count[0] <= broken else 1.0)

    def run():
        return fit(step, net, some_batches(2), steps=80, lr=0.01, clip={"name": "norm", "nonfinite": "skip"})

    if broken == 49:
        assert np.isfinite(run().history["loss"]).sum() == 31
        return
    with pytest.raises(Diverged, match="nan at step 50, and the clip skipped 50 steps in a row"):
        run()


class Noisy(nn.Module):
    """Dropout and a buffer: both must come back exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + 0.1 * torch.tensor(np.random.standard_normal(x.shape), dtype=x.dtype))


@pytest.mark.parametrize("native", [True, False])
def test_a_precision_without_instructions_is_told(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: native)
    net = small_net()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for precision in ("bfloat16", "float32"):
            fit(loss_of(net), net, some_batches(2), steps=1, lr=0.1, precision=precision)
    assert ["no instructions for it" in str(warning.message) for warning in said] == [True] * (not native)
    assert not emulated(torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("optimizer", ["adamw", {"name": "sgd", "momentum": 0.9}])
def test_resume_is_bitwise(tmp_path: Path, precision: str, optimizer) -> None:
    class Stop(Callback):
        def __init__(self, at: int | None) -> None:
            self.at = at

        def after_step(self, step: int) -> bool:
            return step == self.at

    def train(folder: Path, stop: int | None) -> tuple[nn.Module, object]:
        torch.manual_seed(3)
        np.random.seed(3)
        net = Noisy()
        found = fit(
            loss_of(net), net, some_batches(5), steps=17, lr=0.01, warmup=0.2, optimizer=optimizer, ema=0.9,
            precision=precision, accumulate=2, checkpoint=Checkpoint(folder, every=4), callbacks=[Stop(stop)],
        )  # fmt: skip
        return net, found

    whole, reference = train(tmp_path / "a", None)
    train(tmp_path / "b", 11)  # two steps past a checkpoint: they are thrown away and done again
    torch.rand(7)
    resumed, found = train(tmp_path / "b", None)
    assert found.resumed_from == 8
    assert same(whole, resumed)
    assert same(reference.ema, found.ema)
    for name, values in reference.history.items():
        np.testing.assert_array_equal(found.history[name], values)


def test_a_ready_average_is_used() -> None:
    net = small_net()
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    assert fit(loss_of(net), net, some_batches(2), steps=3, lr=0.1, ema=average).ema is average
    assert not same(average.module, net)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"optimizer": {"name": "sgd", "momentun": 0.9}}, "did you mean 'momentum'"),
        ({"precision": "float8"}, "float32, bfloat16, float16"),
        ({"schedule": "step"}, "cosine"),
        ({"steps": 0}, "steps"),
        ({"ema": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_are_named(settings: dict, words: str) -> None:
    net = small_net()
    with pytest.raises(UsageError, match=words):
        fit(loss_of(net), net, some_batches(1), **{"steps": 1, "lr": 0.1, **settings})


def test_batches_must_not_run_out() -> None:
    net = small_net()
    with pytest.raises(UsageError, match="ended after 2"):
        fit(loss_of(net), net, iter(some_batches(2)), steps=3, lr=0.1)
    with pytest.raises(UsageError, match="is empty"):
        fit(loss_of(net), net, [], steps=3, lr=0.1)

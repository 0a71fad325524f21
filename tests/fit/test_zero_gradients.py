"""Which parameters the watch names follows from the chain rule; each net here is small enough to do it on paper."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from binderclip.fit import Callback, ZeroGradients, fit


class Product(nn.Module):
    """y = x A B: the gradient of A is a multiple of B, and that of B a multiple of A."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Parameter(a * torch.randn(4, 2)), nn.Parameter(b * torch.randn(2, 4))
        self.bias = nn.Parameter(torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.a @ self.b + self.bias


class Attention(nn.Module):
    """One head over three tokens; scores are products of queries and keys."""

    def __init__(self, q: float, k: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.MultiheadAttention(4, 1, batch_first=True)
        with torch.no_grad():
            self.mix.in_proj_weight[:4] *= q
            self.mix.in_proj_weight[4:8] *= k

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mix(x, x, x)[0]


class Partly(nn.Module):
    """One factor that never enters the loss, one that rests on purpose, one without elements."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.resting = nn.Linear(4, 4).requires_grad_(False)
        self.empty = nn.Parameter(torch.zeros(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resting(self.used(x)) + self.empty.sum()


def watched(net: nn.Module, steps: int = 12, x: Any = None, **settings: Any) -> ZeroGradients:
    x = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1)) if x is None else x
    settings = {"report": lambda text: None, **settings}
    watch = ZeroGradients(net.named_parameters(), **settings)
    fit(lambda batch: (net(batch) - 1).pow(2).mean(), net.parameters(), [x], steps=steps, lr=1e-2, optimizer="sgd",
        callbacks=[watch], module=net)  # fmt: skip
    return watch


@pytest.mark.parametrize(
    ("net", "found"),
    [
        (lambda: Product(0, 0), ["a", "b"]),
        (lambda: Product(1, 0), []),  # LoRA's start: A moves from the second step on
        (lambda: Attention(0, 0), ["mix.in_proj_weight[q]", "mix.in_proj_weight[k]", "mix.in_proj_bias[q]"]),
        (lambda: Attention(1, 0), []),
        (lambda: Partly(), ["unused.weight", "unused.bias"]),
    ],
)
def test_what_the_chain_rule_keeps_at_zero_is_named(net: Callable[[], nn.Module], found: list[str]) -> None:
    assert watched(net()).names == found


def test_a_sparse_gradient_is_what_it_holds() -> None:
    table, other = (nn.Embedding(8, 4, sparse=True) for _ in range(2))
    watch = ZeroGradients([("table", table.weight), ("other", other.weight)], steps=1, report=lambda text: None)
    rows = torch.arange(3)
    (table(rows) + 0 * other(rows)).sum().backward()
    watch.before_step(1)
    assert watch.names == ["other"]


def test_a_zero_scale_lets_its_partner_move_later() -> None:
    """With B = 0 the gradient of A is zero in the first step alone: one step is too short a look, two are enough."""
    assert watched(Product(1, 0), steps=1).names == ["a"]
    assert watched(Product(1, 0), steps=2).names == []


@pytest.mark.parametrize(("first", "found"), [(3, []), (4, ["bias"])])
def test_only_the_first_steps_count(first: int, found: list[str]) -> None:
    """`bias` enters the loss in step number `first` and later."""
    net, count = Product(1, 1), [0]

    def loss(batch: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return ((batch @ net.a @ net.b) + (net.bias if count[0] >= first else 0.0)).pow(2).mean()

    watch = ZeroGradients(net.named_parameters(), steps=3, report=lambda text: None)
    fit(loss, net, [torch.randn(3, 4)], steps=8, lr=1e-2, callbacks=[watch])
    assert watch.names == found


def test_it_is_said_once_and_short() -> None:
    said: list[str] = []
    net = nn.ModuleDict({f"layer{i}": nn.Linear(4, 4, bias=False) for i in range(9)})
    watch = ZeroGradients(net.named_parameters(), steps=2, report=said.append)
    fit(lambda x: net["layer0"](x).pow(2).mean(), net, [torch.randn(3, 4)], steps=5, lr=1e-3, callbacks=[watch])
    assert len(watch.names) == 8
    assert len(said) == 1
    assert "first 2 steps" in said[0]
    assert "layer5.weight and 3 more" in said[0]
    with pytest.warns(UserWarning, match=r"a, b;"):
        watched(Product(0, 0), report=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watched(Product(1, 1), report=None)


class Syncs(TorchDispatchMode):
    """Counts reads of a tensor's value by the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_before_the_last_watched_step() -> None:
    net = Attention(0, 0)
    watch = ZeroGradients(net.named_parameters(), report=lambda text: None)
    net(torch.randn(2, 3, 4)).sum().backward()
    flags = watch._flags
    reads: list[int] = []
    watch._flags = lambda: reads.append(1) or flags()  # type: ignore[method-assign,func-returns-value]
    with Syncs() as mode:
        for step in range(1, 10):
            watch.before_step(step)
    assert (mode.count, reads) == (0, [])
    watch.before_step(10)
    watch.before_step(11)
    assert len(reads) == 1


class _Cut(Exception):
    pass


class Stop(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, step: int) -> None:
        if step == self.at:
            raise _Cut


@pytest.mark.parametrize("at", [3, 7])
def test_a_resumed_run_finds_what_a_whole_one_does(tmp_path: Path, at: int) -> None:
    """`b` has a gradient in the first two steps only: a watch that started afresh on the resume would name it."""
    said: list[str] = []

    def go(stop: int | None) -> ZeroGradients:
        net, count = Product(0, 1), [0 if stop else 2 * (at // 2)]

        def loss(batch: torch.Tensor) -> torch.Tensor:
            count[0] += 1
            return (net.bias + (net.b.sum() if count[0] <= 2 else 0.0)).pow(2).mean()

        watch = ZeroGradients(net.named_parameters(), steps=5, report=said.append)
        calls = [watch] if stop is None else [watch, Stop(stop)]
        fit(loss, net, [torch.randn(3, 4)], steps=9, lr=1e-2, callbacks=calls, checkpoint=_every_two(tmp_path))
        return watch

    with pytest.raises(_Cut):
        go(at)
    assert go(None).names == ["a"]
    assert len(said) == 1


def _every_two(folder: Path) -> Any:
    from binderclip.fit import Checkpoint

    return Checkpoint(folder, every=2)

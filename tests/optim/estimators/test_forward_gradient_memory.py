"""Bytes that a step of forward gradients holds at once, counted storage by storage, and chunks that keep them few."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from binderclip.optim import ForwardGradient

BATCH, WIDTH, CLASSES = 256, 32, 3


class PeakBytes(TorchDispatchMode):
    """The most bytes that are alive after any operation, without those of tensors that were there before."""

    def __init__(self, before: Iterable[Tensor]) -> None:
        super().__init__()
        self.before = {t.untyped_storage()._cdata for t in before}
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and not leaf._is_zerotensor():  # forward mode's zeros have no memory
                storage = leaf.untyped_storage()
                if storage._cdata not in self.before:
                    self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.alive.values()))
        return result


def chain(depth: int, **settings: Any) -> ForwardGradient:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth)] + [nn.Linear(WIDTH, CLASSES)]
    return ForwardGradient(blocks, [nn.Linear(WIDTH, CLASSES) for _ in range(depth)], **settings)


def batch() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, WIDTH, generator=g), torch.randint(CLASSES, (BATCH,), generator=g)


def peak(model: ForwardGradient, run: Callable[[Tensor, Tensor], object]) -> int:
    """Bytes at the peak of a call on the batch, beside the batch, the parameters and their gradients."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    x, target = batch()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    with PeakBytes([x, target, *model.parameters(), *gradients]) as count:
        run(x, target)
    return count.peak


def step_of(model: ForwardGradient) -> int:
    return peak(model, lambda x, target: model.step((x, target), backward=Tensor.backward))


def inference_of(model: ForwardGradient) -> int:
    with torch.no_grad():
        return peak(model, lambda x, _: model(x))


def test_the_count_is_that_of_a_known_network() -> None:
    """Input, output and the values behind ReLU of one block; with a graph the values behind ReLU of all blocks."""
    model, unit = chain(6), BATCH * WIDTH * 4
    assert inference_of(model) == 3 * unit
    assert peak(model, lambda x, _: model(x)) == 7 * unit


MODES = [
    {"space": "activation"},
    {"space": "activation", "guess": "random"},
    {"space": "weight", "per_sample": False},
    {"space": "weight", "per_sample": False, "guess": "random"},
]


@pytest.mark.parametrize("settings", MODES, ids=lambda s: "-".join(map(str, s.values())))
def test_a_step_in_chunks_needs_no_more_than_inference(settings: dict[str, Any]) -> None:
    """At most 1.2 times with a quarter of the batch and 0.8 with an eighth; with all of it 4 times."""
    model = chain(4, **settings)
    inference = inference_of(model)
    for chunk, bound in ((None, 4.0), (BATCH // 4, 1.2), (BATCH // 8, 0.8)):
        model.chunk = chunk
        assert step_of(model) <= bound * inference


@pytest.mark.parametrize("settings", MODES, ids=lambda s: "-".join(map(str, s.values())))
def test_memory_does_not_grow_with_the_depth(settings: dict[str, Any]) -> None:
    for chunk in (None, BATCH // 4):
        shallow, deep = (step_of(chain(depth, chunk=chunk, **settings)) for depth in (4, 7))
        assert deep == shallow

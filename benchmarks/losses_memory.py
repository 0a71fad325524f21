"""Memory-bounded InfoNCE against open_clip's ClipLoss, forward and backward.

Features of width 512 in float32; both sides get unit vectors and a learnable scale. The limit is the time of the three
matrix products that any form needs: the logits, and the gradients of both sides. Ours computes the logits twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.loss import ClipLoss

from benchmarks.harness import Row, compare, in_child, timed
from binderclip.losses import info_nce

WIDTH = 512
GOALS = {4096: (None, None), 16384: (0.8, 0.3)}
REPEATS = {4096: 7, 16384: 3}

MEMORY = """
import json, sys
import torch
from open_clip.loss import ClipLoss
from binderclip.losses import info_nce
batch, width, kind = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
loss = (lambda *a: info_nce(*a, normalize=False)) if kind == "ours" else ClipLoss()
def inputs(rows):
    unit = [torch.nn.functional.normalize(torch.randn(rows, width), dim=1) for _ in range(2)]
    return [x.requires_grad_() for x in (*unit, torch.tensor(30.0))]
loss(*inputs(64)).backward()
whole = inputs(batch)
def peak():
    # not getrusage: its maximum starts from that of the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before = peak()
loss(*whole).backward()
print(json.dumps({"gigabytes": (peak() - before) * 1024 / 1e9}))
"""


def run() -> list[Row]:
    """Time and peak memory at both batches."""
    rows = []
    for batch, (time_goal, memory_goal) in GOALS.items():
        rows += [_time_row(batch, time_goal), _memory_row(batch, memory_goal)]
    return rows


def _features(batch: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    unit = [torch.nn.functional.normalize(torch.randn(batch, WIDTH, generator=generator), dim=1) for _ in range(2)]
    return [x.requires_grad_() for x in (*unit, torch.tensor(30.0))]


def _time_row(batch: int, goal: float | None) -> Row:
    inputs, theirs = _features(batch), ClipLoss()

    def step(loss: Callable[..., torch.Tensor]) -> None:
        for value in inputs:
            value.grad = None
        loss(*inputs).backward()

    return compare(
        f"time, batch {batch:,}",
        lambda: step(lambda *values: info_nce(*values, normalize=False)),
        lambda: step(theirs),
        repeats=REPEATS[batch],
        speedup=False,
        goal="" if goal is None else f"at most {goal} of its time",
        target=goal,
        limit=_three_products(batch) * 1e3,
        note=f"{torch.get_num_threads()} threads; limit: three matrix products",
        peer_name="open_clip ClipLoss",
    )


def _three_products(batch: int) -> float:
    image, text, _ = (value.detach() for value in _features(batch))
    rows = 1024
    block = torch.empty(rows, rows)

    def products() -> None:
        grads = torch.zeros_like(image), torch.zeros_like(text)
        for i in range(0, batch, rows):
            for j in range(0, batch, rows):
                torch.mm(image[i : i + rows], text[j : j + rows].T, out=block)
                grads[0][i : i + rows].addmm_(block, text[j : j + rows])
                grads[1][j : j + rows].addmm_(block.T, image[i : i + rows])

    return min(timed(products) for _ in range(3))


def _memory_row(batch: int, goal: float | None) -> Row:
    ours, peer = (in_child(MEMORY, str(batch), str(WIDTH), kind)["gigabytes"] for kind in ("ours", "peer"))
    ratio = ours / peer
    return Row(
        name=f"extra peak memory, batch {batch:,}",
        ours=ours,
        peer=peer,
        unit="GB",
        ratio=ratio,
        low=ratio,
        high=ratio,
        goal="" if goal is None else f"at most {goal} GB",
        # the gradients of both sides must exist in any case
        limit=2 * batch * WIDTH * 4 / 1e9,
        note="beyond the features themselves, each in a fresh process; limit: the gradients of both sides",
        met=None if goal is None else ours <= goal,
        peer_name="open_clip ClipLoss",
    )


if __name__ == "__main__":
    for item in run():
        print(
            f"{item.name}: {item.ours:.4g} against {item.peer:.4g} {item.unit}, ratio {item.ratio:.2f} "
            f"({item.low:.2f} to {item.high:.2f}), limit {item.limit:.4g} {item.unit} {item.goal}"
        )

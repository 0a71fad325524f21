"""Sharpness: a step of SAM beside a plain one, a Hessian's trace beside PyHessian's, a loss surface beside forwards.

A ViT-tiny at 64 px (patches of 8), batches of 16 pictures. The limit of a step of SAM is two plain ones, that of
LookSAM with k = 5 is 6/5 of one; a surface's points are counted beside as many forward passes of the same batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.harness import Row, compare
from binderclip.landscape import hessian_trace, loss_surface, random_direction
from binderclip.optim import SAM, LookSAM

BATCH, CLASSES, PROBES, SIDE, PERIOD = 16, 10, 10, 9, 5


def build() -> tuple[nn.Module, Tensor, Tensor]:
    """Model and batch."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, num_classes=CLASSES)
    return model.train(), torch.randn(BATCH, 3, 64, 64), torch.randint(0, CLASSES, (BATCH,))


def stepper(make: Callable[[Any], Any], passes: int) -> Callable[[], None]:
    """`PERIOD` training steps of an optimizer, by a closure that it may call again."""
    model, x, y = build()
    optimizer = make(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    def steps() -> None:
        for _ in range(PERIOD):
            closure()
            optimizer.step(*([closure] if passes > 1 else []))

    return steps


def peer_sam(parameters: Any) -> Any:
    """pytorch-optimizer's SAM."""
    import pytorch_optimizer

    return pytorch_optimizer.SAM(parameters, torch.optim.SGD, rho=0.05, lr=0.01, momentum=0.9)


def run() -> list[Row]:
    """Steps, traces and surfaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [*_steps(), _trace(), _surface()]


def _steps() -> list[Row]:
    settings: dict[str, Any] = {"lr": 0.01, "momentum": 0.9}
    plain = stepper(partial(torch.optim.SGD, **settings), 1)
    sam = stepper(partial(SAM, **settings), 2)
    look = stepper(partial(LookSAM, k=PERIOD, **settings), 2)
    note = f"ViT-tiny at 64 px, batch {BATCH}, {PERIOD} steps, {torch.get_num_threads()} threads"
    return [
        compare("SAM", sam, plain, speedup=False, goal="at most 2.05x", target=2.05, note=note, peer_name="SGD"),
        compare("SAM", sam, stepper(peer_sam, 2), goal="as fast", target=1.0, note=note, peer_name="pytorch-optimizer"),
        compare(
            "LookSAM, k = 5", look, plain, speedup=False, goal="at most 1.25x", target=1.25, note=note, peer_name="SGD"
        ),
    ]  # fmt: skip


def _trace() -> Row:
    from pyhessian import hessian

    model, x, y = build()
    model.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]

    def ours() -> None:
        # a tolerance that is never met: as many probes as the peer
        hessian_trace(lambda: F.cross_entropy(model(x), y), parameters, probes=PROBES, tolerance=0.0)

    def peer() -> None:
        # it takes a mean below 0 for one that has converged, whatever positive tolerance is given
        hessian(model, nn.CrossEntropyLoss(), data=(x, y), cuda=False).trace(maxIter=PROBES, tol=float("-inf"))
        model.zero_grad()

    # the peer asks for second derivatives, which torch's fused attention has not
    with sdpa_kernel(SDPBackend.MATH):
        return compare(
            f"trace of the Hessian by {PROBES} probes", ours, peer, repeats=5, goal="at least 1.5x", target=1.5,
            note=f"batch {BATCH}, attention unfused in both: the peer cannot take the fused one", peer_name="PyHessian",
        )  # fmt: skip


def _surface() -> Row:
    model, x, y = build()
    model.eval()
    directions = (random_direction(model, seed=0), random_direction(model, seed=1))
    alphas = [i / SIDE for i in range(-(SIDE // 2), SIDE // 2 + 1)]

    def ours() -> None:
        loss_surface(model, [(x, y)], directions, alphas=alphas)

    @torch.no_grad()
    def peer() -> None:
        for _ in range(SIDE * SIDE):
            F.cross_entropy(model(x), y).item()

    return compare(
        f"loss surface of {SIDE} x {SIDE} points", ours, peer, speedup=False, repeats=5, goal="at most 1.05x",
        target=1.05, note=f"one batch of {BATCH}; a larger grid costs as much a point", peer_name="forward passes",
    )  # fmt: skip

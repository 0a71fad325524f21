"""Steps on fewer image tokens beside full ones and beside open_clip's patch dropout; experts beside dense blocks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import Row, compare
from benchmarks.peers import OpenClipTraining
from benchmarks.train_step import LR, OurTraining, example_batch, flops_of
from binderclip.models import ImageTextModel, build, upcycle
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.tokens.image import RandomPatches
from binderclip.train.tokens.place import reduced_tokens

SHARES = (0.5, 0.25)
"""Of the patches, that are kept."""


def configuration(side: int, dropout: float = 0.0) -> dict[str, Any]:
    """A ViT that spends nearly everything on its patches."""
    vision = {"image_size": side, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8}
    return {
        "embed_dim": 256,
        "custom_text": True,
        "vision_cfg": vision | ({"patch_dropout": dropout} if dropout else {}),
        "text_cfg": {"context_length": 8, "vocab_size": 4096, "width": 128, "heads": 2, "layers": 2},
    }


def run(*, side: int = 128, batch: int = 64, repeats: int = 5) -> list[Row]:
    """A ViT on 256 patches in float32.

    Args:
        side: of the pictures; a patch has 8 pixels.
        batch: pictures of a step.
        repeats: pairs of steps.
    """
    rows: list[Row] = []
    for keep in SHARES:
        rows += _tokens(side, batch, keep, repeats)
    return [*rows, *(_experts(side, batch, top_k, repeats) for top_k in (1, 2))]


def _model(side: int) -> ImageTextModel:
    torch.manual_seed(0)
    return build(configuration(side)).train()


def _flops(training: OurTraining, batch: TrainingBatch, inside: Callable[[], Any] = contextlib.nullcontext) -> int:
    with inside():
        return flops_of(lambda: training.loss(batch))


def _tokens(side: int, size: int, keep: float, repeats: int) -> list[Row]:
    model, full = _model(side), _model(side)
    batch = example_batch(model, size)
    ours, whole = OurTraining(model, "float32"), OurTraining(full, "float32")

    def fewer() -> Any:
        return reduced_tokens(model.backbone, RandomPatches(keep=keep))

    counted = _flops(whole, batch) / _flops(ours, batch, fewer)

    def step() -> None:
        with fewer():
            ours.epoch([batch])

    torch.manual_seed(0)
    peer = OpenClipTraining(build(configuration(side, 1 - keep)).backbone.train(), precision="float32", lr=LR)
    name = f"a step on {keep:.0%} of the patches"
    return [
        compare(
            name, step, lambda: whole.epoch([batch]), repeats=repeats, goal="at least 0.9 of the ratio of FLOPs",
            target=0.9 * counted, peer_name="all patches",
            note=f"{counted:.2f} times fewer FLOPs, counted; the goal is {0.9 * counted:.2f}x",
        ),
        compare(
            name, step, lambda: peer.epoch([(batch.images, batch.tokens.ids)], size), repeats=repeats,
            goal="at least 1.0x", target=1.0, peer_name=f"open_clip_train with --force-patch-dropout {1 - keep:g}",
        ),
    ]  # fmt: skip


def _experts(side: int, size: int, top_k: int, repeats: int) -> Row:
    dense = _model(side)
    sparse = upcycle(dense, experts=8, top_k=top_k, every=2)
    batch = example_batch(dense, size)
    ours, peer = OurTraining(sparse.train(), "float32"), OurTraining(copy.deepcopy(dense), "float32")
    counted = _flops(ours, batch) / _flops(peer, batch)
    return compare(
        f"a step with 8 experts in every second block, {top_k} a token",
        lambda: ours.epoch([batch]),
        lambda: peer.epoch([batch]),
        repeats=repeats,
        speedup=False,
        goal="at most 1.25 of the ratio of FLOPs",
        target=1.25 * counted,
        peer_name="dense",
        note=f"{counted:.2f} times the FLOPs, counted",
    )

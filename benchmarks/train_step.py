"""One training step against open_clip's own loop: same model, data, batch, optimizer settings, precision and format."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Row, compare
from benchmarks.peers import BETAS, EPS, OpenClipTraining
from binderclip.fit import fit
from binderclip.fit.optimizers import PRECISIONS, make_optimizer
from binderclip.losses import ContrastiveLoss, LogitScale
from binderclip.models import ImageTextModel, TokenIds, build, load
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.optim import param_groups
from binderclip.train.feed.batches import TrainingBatch
from binderclip.train.stages.contrastive import ContrastiveStep

LR = 1e-4
VIT: dict[str, Any] = {
    "embed_dim": 256,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "layers": 6, "width": 192, "head_width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 4096, "width": 192, "heads": 3, "layers": 4},
}


def run(*, batches: tuple[int, int] = (256, 64), repeats: int = 5) -> list[Row]:
    """A small ViT from nothing and the bundled `small`, in float32 and bfloat16.

    Args:
        batches: batch size of the ViT and of `small`.
        repeats: pairs of steps.
    """
    models: list[tuple[str, Callable[[], ImageTextModel], int]] = [
        ("ViT 192 x 6, 64 px", lambda: build(VIT), batches[0]),
        ("small, 128 px", lambda: load("small"), batches[1]),
    ]
    precisions = ("float32", "bfloat16")
    return [_step(name, make, size, precision, repeats) for name, make, size in models for precision in precisions]


def _step(name: str, make: Callable[[], ImageTextModel], size: int, precision: str, repeats: int) -> Row:
    torch.manual_seed(0)
    model = make().train()
    theirs = copy.deepcopy(model.backbone)
    batch = example_batch(model, size)
    ours = OurTraining(model, precision)
    peer = OpenClipTraining(theirs, precision=precision, lr=LR)
    pair = [(batch.images, batch.tokens.ids)]
    losses = ours.loss(batch), peer.value(*pair[0])
    if not math.isclose(*losses, rel_tol=1e-4 if precision == "float32" else 2e-2):
        raise RuntimeError(f"the two sides do not compute the same: losses {losses}")
    flops = 3 * flops_of(lambda: ours.loss(batch))  # backward: one product for the inputs and one for the weights
    rate = matmul_rate(PRECISIONS[precision])
    return compare(
        f"{name}, batch {size}, {precision}",
        lambda: ours.epoch([batch]),
        lambda: peer.epoch(pair, size),
        repeats=repeats,
        goal="at least 1.15x",
        target=1.15,
        limit=flops / rate * 1e3,
        peer_name="open_clip_train.train_one_epoch",
        note=f"{products_share(lambda: ours.epoch([batch])):.0%} of our step are matrix products and convolutions, "
        f"which both sides call alike; limit: {flops / 1e9:.0f} GFLOP of them at the {rate / 1e9:.0f} GFLOP/s that "
        "a large square product reaches here; both sides clip at norm 1",
    )


class OurTraining:
    """`fit` with the step, the clip, the groups and the layers that `binderclip train` gives it.

    Args:
        model: to train.
        precision: "float32" or "bfloat16".
    """

    def __init__(self, model: ImageTextModel, precision: str) -> None:
        loss = ContrastiveLoss(scales=LogitScale.of(model.backbone))
        self.module: nn.Module = ContrastiveStep(model, loss)
        self.precision = precision
        self.optimizer = make_optimizer(
            {"name": "adamw", "betas": BETAS, "eps": EPS}, param_groups(model.backbone, 0.1), LR
        )

    def loss(self, batch: TrainingBatch) -> float:
        """The loss before any step."""
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            return float(self.module(batch)[0])

    def epoch(self, batches: list[TrainingBatch]) -> None:
        """One pass."""
        with fast_gradients(self.module):
            fit(
                self.module,
                [],
                batches,
                steps=len(batches),
                optimizer=self.optimizer,
                schedule="constant",
                clip={"name": "norm", "max_norm": 1.0},
                precision=self.precision,
                module=self.module,
            )


def example_batch(model: ImageTextModel, size: int) -> TrainingBatch:
    """Random pictures and captions of full length."""
    generator = torch.Generator().manual_seed(1)
    side, text = model.preprocess.size, model.backbone.text
    images = torch.randn(size, 3, *side, generator=generator).contiguous(memory_format=torch.channels_last)
    ids = torch.randint(5, text.vocab_size - 1, (size, text.context_length), generator=generator)
    ids[:, -1] = text.vocab_size - 1  # CLIP reads the sentence off at the largest id
    tokens = TokenIds(ids, torch.ones_like(ids, dtype=torch.bool), torch.full((size,), ids.shape[1] - 1))
    return TrainingBatch(images, tokens, torch.arange(size), torch.arange(size))


def flops_of(function: Callable[[], object]) -> int:
    """FLOPs of the matrix products and convolutions of a call."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


PRODUCTS = (
    "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot", "aten::mkldnn", "aten::convolution",
    "aten::_convolution", "aten::thnn_conv", "aten::slow_conv",
)  # fmt: skip
"""Operations that are nothing else."""


def products_share(function: Callable[[], object]) -> float:
    """Share of a call's time inside matrix products, attention and convolutions."""
    with torch.profiler.profile() as profile:
        function()
    events = profile.key_averages()
    return sum(e.self_cpu_time_total for e in events if e.key.startswith(PRODUCTS)) / sum(
        e.self_cpu_time_total for e in events
    )


def matmul_rate(dtype: torch.dtype, side: int = 1536) -> float:
    """FLOP/s of a square matrix product, the best of several."""
    a = torch.randn(side, side, dtype=dtype)
    best = math.inf
    for _ in range(8):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best

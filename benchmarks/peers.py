"""open_clip's own training loop, driven as its command line drives it, for the benchmarks to compare with."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import open_clip
import torch
from open_clip_train.precision import get_autocast
from open_clip_train.train import train_one_epoch
from torch import Tensor, nn

AMP = {"float32": "fp32", "bfloat16": "amp_bfloat16"}
BETAS, EPS = (0.9, 0.98), 1e-6  # open_clip's defaults for a ViT; ours is given the same


class OpenClipTraining:
    """open_clip's optimizer, loss and `train_one_epoch` around a model; the state goes on from call to call.

    Args:
        model: an open_clip model; its forward must give a dictionary, as open_clip's training asks for.
        precision: "float32" or "bfloat16".
        lr, weight_decay: of AdamW.
        clip_norm: largest gradient norm.
    """

    def __init__(
        self, model: nn.Module, *, precision: str, lr: float, weight_decay: float = 0.1, clip_norm: float = 1.0
    ) -> None:
        self.model, self.loss = model, open_clip.ClipLoss()
        model.output_dict = True
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        # The rule of open_clip_train.main: no decay of vectors, norms, biases and the scale.
        flat = [p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n for n, p in named]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for (_, p), f in zip(named, flat, strict=True) if f], "weight_decay": 0.0},
                {"params": [p for (_, p), f in zip(named, flat, strict=True) if not f], "weight_decay": weight_decay},
            ],
            lr=lr,
            betas=BETAS,
            eps=EPS,
        )
        self.args = Namespace(
            device="cpu", precision=AMP[precision], distill=False, accum_freq=1, skip_scheduler=True, horovod=False,
            grad_clip_norm=clip_norm, rank=0, local_rank=0, world_size=1, distributed=False, log_local=False,
            log_every_n_steps=100, batch_size=0, wandb=False,
        )  # fmt: skip

    def value(self, images: Tensor, ids: Tensor) -> float:
        """The loss of a batch, without a step."""
        with torch.no_grad(), get_autocast(self.args.precision, device_type="cpu")():
            return float(self.loss(**self.model(images, ids)))

    def epoch(self, batches: Any, samples: int) -> None:
        """One pass over `batches`, anything with a length that gives (images, ids)."""
        self.args.batch_size = samples // len(batches)
        loader = _Loader(batches, samples)
        data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda epoch: None)}
        root, level = logging.getLogger(), logging.getLogger().level
        root.setLevel(logging.WARNING)  # its progress lines are no part of the comparison
        try:
            train_one_epoch(self.model, data, self.loss, 0, self.optimizer, None, None, None, self.args)
        finally:
            root.setLevel(level)


class _Loader:
    """What `train_one_epoch` asks of a data loader."""

    def __init__(self, batches: Any, samples: int) -> None:
        self.batches, self.num_batches, self.num_samples = batches, len(batches), samples

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)

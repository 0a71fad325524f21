"""What private training refuses, and why."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from binderclip.errors import NotSupported

__all__ = ["COUPLED", "refuse_loss", "refuse_modules"]

COUPLED = (
    "A contrastive loss over the batch (InfoNCE) is no sum of per-sample losses: removing one pair changes every row's "
    "denominator, so clipping rows bounds nothing. Sound ways: train a head on frozen features with a loss of its own "
    "for each sample; compare each pair with a PUBLIC bank of negatives; or clip per micro-batch of m pairs and state "
    "that as the unit of privacy"
)


def refuse_loss(loss: Any) -> None:
    """Raise for a loss that is known to couple the samples of a batch.

    Raises:
        NotSupported: one of `binderclip.losses`' contrastive losses, or open_clip's.
    """
    from binderclip import losses

    functions = (losses.info_nce, losses.sigmoid_loss)
    # open_clip is slow to import; a loss of its cannot be at hand before it was
    theirs = sys.modules.get("open_clip.loss")
    kinds = (losses.ContrastiveLoss, *((theirs.ClipLoss, theirs.SigLipLoss) if theirs is not None else ()))
    for part in list(loss.modules()) if isinstance(loss, nn.Module) else [loss]:
        if isinstance(part, kinds) or getattr(part, "func", part) in functions:
            name = getattr(part, "__name__", type(part).__name__)
            raise NotSupported(f"{name} cannot be trained privately. {COUPLED}")


def refuse_modules(model: nn.Module) -> None:
    """Raise for layers that mix samples, and for code that cannot be watched.

    Raises:
        NotSupported: batch normalisation in training mode, scripted or compiled modules.
    """
    for name, module in model.named_modules():
        where = f"layer {name!r}" if name else "the model"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise NotSupported(
                f"{where} is a {type(module).__name__}: it normalises by the whole batch, so one sample changes the "
                "gradients of all others and no per-sample clip bounds its influence. Use GroupNorm or LayerNorm, or "
                "put the layer into eval mode (statistics of public data)"
            )
        if isinstance(module, torch.jit.ScriptModule):
            raise NotSupported(f"{where} is scripted: its operations cannot be watched; use the plain module")
        if type(module).__name__ == "OptimizedModule":
            raise NotSupported(f"{where} is compiled: pass the module that torch.compile was given")

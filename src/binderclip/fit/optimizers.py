"""Optimizers by name, and the precision a step runs in."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from binderclip.errors import UsageError
from binderclip.optim import LAMB, ClippedAdaGrad, ClippedAdam, MedianMomentum, SplitSGD, StableSPAM
from binderclip.settings import check_choice

__all__ = ["OPTIMIZERS", "PRECISIONS", "OptimizerLike", "autocast", "make_optimizer", "make_scaler"]

OptimizerLike = str | Mapping[str, Any] | Callable[..., Optimizer] | Optimizer

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adafactor": torch.optim.Adafactor,
    "clipped-adagrad": ClippedAdaGrad,
    "clipped-adam": ClippedAdam,
    "lamb": LAMB,
    "median-momentum": MedianMomentum,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
    "split-sgd": SplitSGD,
    "stable-spam": StableSPAM,
}
PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def make_optimizer(
    optimizer: OptimizerLike, groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float | None
) -> Optimizer:
    """Build the optimizer of a run.

    Args:
        optimizer: a name of `OPTIMIZERS`; a mapping `{"name": "sgd", "momentum": 0.9}`; a callable that takes the
            groups (and `lr`, where one is given); or a ready optimizer, returned as it is.
        groups: parameters or parameter groups; a group without its own `lr` gets `lr`, times its `lr_scale` where it
            has one.
        lr: base learning rate; None leaves the optimizer's own default.

    Raises:
        UsageError: unknown name or setting.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    groups = _unmixed({**g, "params": list(g["params"])} if isinstance(g, dict) else g for g in groups)
    if lr is not None:
        groups = [
            {"lr": lr * group.get("lr_scale", 1.0), **group} if isinstance(group, dict) else group for group in groups
        ]
    settings: dict[str, Any] = {} if lr is None else {"lr": lr}
    if isinstance(optimizer, Mapping):
        settings |= {key: value for key, value in optimizer.items() if key != "name"}
        optimizer = str(optimizer.get("name", "adamw"))
    if not isinstance(optimizer, str):
        return optimizer(groups, **settings)
    if optimizer not in OPTIMIZERS:
        near = get_close_matches(optimizer, OPTIMIZERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(sorted(OPTIMIZERS))}"
        raise UsageError(f"optimizer {optimizer!r} is unknown: {hint}")
    build = OPTIMIZERS[optimizer]
    known = inspect.signature(build).parameters
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(k for k in known if k != 'params')}"
            raise UsageError(f"optimizer {optimizer!r} has no setting {key!r}: {hint}")
    if "fused" in known and "fused" not in settings:
        # One pass over the weights instead of several; on a CPU as well.
        settings["fused"] = _can_fuse(groups)
    return build(groups, **settings)


def _can_fuse(groups: list[Any]) -> bool:
    tensors = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() and not _sharded(p) for p in tensors)


def _sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "device_mesh")


def _unmixed(groups: Iterable[Any]) -> list[Any]:
    """Groups in which all tensors are sharded or none is: torch's batched kernels refuse a mixture."""
    groups = list(groups)
    if not any(_sharded(p) for g in groups for p in (g["params"] if isinstance(g, dict) else [g])):
        return groups
    result = []
    for group in [g if isinstance(g, dict) else {"params": [g]} for g in groups]:
        for kind in (True, False):
            chosen = [i for i, p in enumerate(group["params"]) if _sharded(p) is kind]
            lists = {k: [group[k][i] for i in chosen] for k in ("params", "names") if k in group}
            if chosen:
                result.append({**group, **lists})
    return result


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The autocast context of a precision; nothing for float32.

    Raises:
        UsageError: unknown precision.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Loss scaling for float16, whose small gradients would vanish; a disabled one otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")

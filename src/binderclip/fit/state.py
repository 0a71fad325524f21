"""Everything that decides how a run goes on, as plain tensors and values, whatever the parallelism."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from binderclip.errors import CheckpointError

__all__ = ["load_module", "load_optimizer", "misfit", "module_state", "not_finite", "optimizer_state", "plain_module",
           "random_state", "set_random_state", "sync_only"]  # fmt: skip

# One global generator a process; numpy's and Python's are kept because data sets of users draw from them.
_MERSENNE = "MT19937"


def plain_module(module: nn.Module) -> nn.Module:
    """The module inside a DistributedDataParallel wrapper, or the module itself."""
    if isinstance(module, nn.parallel.DistributedDataParallel):
        return module.module
    return module


@contextlib.contextmanager
def sync_only(module: Any, last: bool) -> Iterator[None]:
    """Let gradients cross processes only in the last micro-batch of a step (DDP and FSDP2)."""
    if last or module is None:
        if hasattr(module, "set_requires_gradient_sync"):
            module.set_requires_gradient_sync(True)
        yield
    elif hasattr(module, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(False)
        yield
    elif hasattr(module, "no_sync"):
        with module.no_sync():
            yield
    else:
        yield


def module_state(module: nn.Module) -> dict[str, Any]:
    """The module's `state_dict` with sharded tensors made whole, on the CPU."""
    return _whole(plain_module(module).state_dict())


def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Put `module_state` back, cutting it into shards where the module has them.

    Raises:
        CheckpointError: names or shapes differ.
    """
    inner = plain_module(module)
    there = inner.state_dict()
    cut = {name: _shard_like(there[name], value) if name in there else value for name, value in state.items()}
    try:
        inner.load_state_dict(cut)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit the model: {error}") from error


def optimizer_state(optimizer: Optimizer) -> dict[str, Any]:
    """The optimizer's `state_dict` (the state of attached clips included) with sharded tensors made whole."""
    return _whole(optimizer.state_dict())


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Put `optimizer_state` back.

    Raises:
        CheckpointError: the parameter groups differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {
            name: _shard_like(parameters[index], value)
            if isinstance(value, Tensor) and index < len(parameters) and value.shape == parameters[index].shape
            else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    try:
        optimizer.load_state_dict({**state, "state": moments})
    except ValueError as error:
        raise CheckpointError(f"the checkpoint does not fit the optimizer: {error}") from error


def not_finite(saved: Any, module: nn.Module | None, parameters: Sequence[Tensor]) -> str:
    """The name of the first trained parameter that holds NaN or infinity; "" where none does.

    Buffers and resting parameters are not looked at: masks hold infinities on purpose.

    Args:
        saved: what `module_state` gave, or tensors in the order of `parameters`.
        module: whose state it is; None for plain tensors.
        parameters: what is trained.
    """
    if module is None:
        named = {f"number {index}": value for index, value in enumerate(saved)}
    else:
        trained = {id(p) for p in parameters}
        names = [name for name, p in plain_module(module).named_parameters() if id(p) in trained]
        named = {name: saved[name] for name in names if name in saved}
    return next((name for name, value in named.items() if not bool(value.isfinite().all())), "")


def misfit(
    state: Mapping[str, Any], module: nn.Module | None, parameters: Sequence[Tensor], optimizer: Optimizer
) -> str:
    """Why a run cannot go on from a saved state: other tensors, another optimizer, weights that are not finite.

    Args:
        state: as a checkpoint holds it.
        module: the run's, or None.
        parameters: what the run trains.
        optimizer: the run's.

    Returns:
        The reason, "" where everything fits.
    """
    try:
        if missing := {"samples", "module", "optimizer", "scaler", "ema", "random", "history", "callbacks"} - set(
            state
        ):
            return f"it lacks {', '.join(sorted(missing))}"
        saved = state["module"]
        if module is None:
            here: dict[Any, Any] = dict(enumerate(parameters))
            there: dict[Any, Any] = dict(enumerate(saved))
        else:
            here, there = dict(plain_module(module).state_dict()), dict(saved)
        for name in sorted({*here, *there}, key=str):
            if _shape(here, name) != _shape(there, name):
                return f"{name} is {_shape(there, name)} in it and {_shape(here, name)} in the model"
        groups = [
            [len(g["params"]) for g in part] for part in (state["optimizer"]["param_groups"], optimizer.param_groups)
        ]
        if groups[0] != groups[1]:
            return f"its optimizer has groups of {groups[0]} parameters, the run has {groups[1]}"
        broken = not_finite(saved, module, parameters)
        return f"parameter {broken} is not finite in it" if broken else ""
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"it is not laid out like the state of a run ({type(error).__name__}: {error})"


def _shape(tensors: Mapping[Any, Any], name: Any) -> str:
    if name not in tensors:
        return "missing"
    value = tensors[name]
    return str(tuple(value.shape)) if isinstance(value, Tensor) else "no tensor"


def random_state() -> list[dict[str, Any]]:
    """States of the global generators of every process (torch, the accelerator, numpy, Python)."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, words, spare = random.getstate()
    mine: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), spare],
    }
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def set_random_state(states: list[dict[str, Any]]) -> None:
    """Put `random_state` back; a process that had no counterpart keeps its own."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    if rank >= len(states):
        return
    mine = states[rank]
    torch.set_rng_state(mine["torch"])
    keys, position, has_gauss, gauss = mine["numpy"]
    np.random.set_state((_MERSENNE, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, words, spare = mine["python"]
    random.setstate((version, tuple(words), spare))
    if "cuda" in mine and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])


def _whole(tree: Any) -> Any:
    """Copy of a nested state with every tensor whole and on the CPU."""
    if isinstance(tree, Mapping):
        return {key: _whole(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_whole(value) for value in tree)
    if isinstance(tree, Tensor):
        whole = tree.full_tensor() if hasattr(tree, "full_tensor") else tree
        return whole.detach().cpu()
    return tree


def _shard_like(target: Any, value: Any) -> Any:
    """`value` cut as `target` is, where `target` is a DTensor."""
    if isinstance(value, Tensor) and hasattr(target, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(target.dtype), target.device_mesh, target.placements)
    return value

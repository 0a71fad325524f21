"""Tensors that a model folder takes from another one, instead of storing them twice.

`small-sam` and `small-dino` stand on the convolutions of `small`. Their configuration names the lender, the tensors and
the hash of what was there, so another version of the lender is refused and never read by mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from binderclip.errors import CheckpointError
from binderclip.models.files.registry import BUNDLED
from binderclip.models.files.registry import WEIGHTS as PAIR_WEIGHTS

__all__ = ["borrowed_state", "without_borrowed"]


def without_borrowed(
    state: Mapping[str, Tensor], lender: str, *, near: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What of a state has to be stored, and the table that says where the rest is.

    A tensor is borrowed where the lender holds exactly the same numbers; constant ones, which may agree by chance, are
    not.

    Args:
        state: float tensors.
        lender: name of the other folder.
        near: the folder to be written; the lender is its neighbour, or a bundled model.

    Raises:
        CheckpointError: no such lender, or it has nothing in common with `state`.
    """
    with _open(lender, near) as file:
        theirs: dict[bytes, str] = {}
        for name in file.keys():  # noqa: SIM118 - no mapping
            value = file.get_tensor(name)
            if _distinct(value):
                theirs.setdefault(_digest(value.float()), name)
        borrowed = {name: theirs.get(_digest(value.float())) for name, value in state.items() if _distinct(value)}
        tensors = {name: other for name, other in sorted(borrowed.items()) if other is not None}
        if not tensors:
            raise CheckpointError(f"{lender} holds none of these tensors, so there is nothing to borrow from it")
        table = {"from": lender, "tensors": tensors, "sha256": _hash({n: file.get_tensor(n) for n in tensors.values()})}
    return {name: value for name, value in state.items() if name not in tensors}, table


def borrowed_state(table: Mapping[str, Any], *, near: Path) -> dict[str, Tensor]:
    """The float32 tensors that a folder's `borrowed` table names.

    Args:
        table: `from`, `tensors` (own name -> the lender's) and `sha256`.
        near: the folder that borrows.

    Raises:
        CheckpointError: no such lender, a tensor that is not there, or other numbers than those that were borrowed.
    """
    lender, tensors = str(table["from"]), dict(table["tensors"])
    with _open(lender, near) as file:
        there = set(file.keys())
        missing = [name for name in tensors.values() if name not in there]
        if missing:
            raise CheckpointError(f"{near} borrows {missing[0]} from {lender}, which has no such tensor")
        lent = {name: file.get_tensor(name) for name in tensors.values()}
    if _hash(lent) != table["sha256"]:
        raise CheckpointError(f"{near} was made with another version of {lender}: the tensors it borrows have changed")
    return {name: lent[other].float() for name, other in tensors.items()}


def _open(lender: str, near: Path) -> Any:
    """The lender's weight file: beside the folder, or in the package."""
    folders = [near.parent / lender, BUNDLED / lender]
    for folder in folders:
        for name in (PAIR_WEIGHTS, "model.safetensors"):
            if (folder / name).is_file():
                return safe_open(folder / name, framework="pt")
    raise CheckpointError(f"{near} borrows tensors from {lender!r}, which is neither in {near.parent} nor bundled")


def _distinct(value: Tensor) -> bool:
    return value.is_floating_point() and value.numel() > 1 and bool(value.min() < value.max())


def _digest(value: Tensor) -> bytes:
    """Of one tensor: its shape and bytes, where -0 counts as 0 (an average of equal numbers may lose its sign)."""
    exact = value.detach().cpu().contiguous() + 0.0
    return hashlib.sha256(f"{exact.dtype}{tuple(exact.shape)}".encode() + exact.numpy().tobytes()).digest()


def _hash(tensors: Mapping[str, Tensor]) -> str:
    """Of named tensors in float32; how the lender stores them does not matter."""
    whole = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        whole.update(name.encode() + _digest(value.float()))
    return whole.hexdigest()

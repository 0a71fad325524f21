"""Weight files under the names of those who released them: read as tensors alone, renamed by a table, and checked.

A converter is a `NameTable`, patterns of their names and ours, plus the module that the tensors belong to. What is
missing, what the table does not know and what has another shape is listed before anything is copied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from binderclip.errors import CheckpointError
from binderclip.models.files.checkpoint import check_weights_file, check_weights_finite, guarded

__all__ = ["NameTable", "Rename", "copy_renamed", "load_renamed", "read_released", "read_tensor"]

PARTS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
"""Entries under which training programs keep the weights, the first that is there."""
SHOWN = 4
"""Names of each kind that an error lists."""


@dataclass(frozen=True)
class Rename:
    """One row of a table.

    Args:
        pattern: regular expression that a whole name in the file must match.
        name: our name, with the groups of the pattern as in `re.Match.expand` (`\\1`), or made from the match; None
            where the tensor is known and not used.
        change: what becomes of the tensor, such as a reshape.
    """

    pattern: str
    name: str | Callable[[re.Match[str]], str] | None
    change: Callable[[Tensor], Tensor] | None = None

    def apply(self, match: re.Match[str], value: Tensor) -> tuple[str | None, Tensor]:
        """Our name, and the tensor as we keep it."""
        name = match.expand(self.name) if isinstance(self.name, str) else self.name and self.name(match)
        return name, value if self.change is None or name is None else self.change(value)


@dataclass(frozen=True)
class NameTable:
    """Names in a released file and ours.

    Args:
        network: what the file is for, as errors say it.
        rows: the first row whose pattern matches a name decides.
    """

    network: str
    rows: Sequence[Rename]

    def renamed(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The tensors under our names, and the names that no row knows."""
        tensors: dict[str, Tensor] = {}
        unknown = []
        for theirs, value in state.items():
            for row in self.rows:
                match = re.fullmatch(row.pattern, theirs)
                if match is not None:
                    name, tensor = row.apply(match, value)
                    if name is not None:
                        tensors[name] = tensor
                    break
            else:
                unknown.append(theirs)
        return tensors, unknown


def read_released(path: str | Path, part: str | None = None) -> dict[str, Tensor]:
    """The named tensors of a file that was not written here; nothing in it is run.

    Args:
        path: safetensors, or what `torch.save` wrote, read with `weights_only=True`.
        part: entry of the file that holds the tensors; None: the first of `PARTS` that is there, else the whole file.

    Returns:
        Names without a leading `module.` -> tensors on the CPU.

    Raises:
        CheckpointError: no such file, a damaged one, one that would have to be unpickled, one without named tensors or
            without `part`, or numbers that are not finite.
    """
    content = _content(path)
    if isinstance(content, Mapping):
        wrapped = [part] if part is not None else [one for one in PARTS if isinstance(content.get(one), Mapping)]
        if part is not None and not isinstance(content.get(part), Mapping):
            raise CheckpointError(f"{path} has no entry {part!r}: it holds {_listed(content)}")
        content = content[wrapped[0]] if wrapped else content
    tensors = isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not content:
        held = _listed(content) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise CheckpointError(f"{path} holds no named tensors: it holds {held}")
    check_weights_finite(content, str(path))
    shared = all(name.startswith("module.") for name in content)
    return {name.removeprefix("module.") if shared else name: value for name, value in content.items()}


def read_tensor(path: str | Path) -> Tensor:
    """The one tensor that `torch.save` wrote by itself.

    Raises:
        CheckpointError: as `read_released`, or the file holds anything else.
    """
    content = _content(path)
    if not isinstance(content, Tensor):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a single tensor")
    check_weights_finite({"tensor": content}, str(path))
    return content


def _content(path: str | Path) -> Any:
    where = check_weights_file(path)

    def read() -> Any:
        if where.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(where)
        return torch.load(where, map_location="cpu", weights_only=True)

    return guarded(read, where, "a weight file")


@torch.no_grad()
def copy_renamed(own: Mapping[str, Tensor], state: Mapping[str, Tensor], table: NameTable, source: str | Path) -> None:
    """Copy released tensors into ours, in place and in our precision, once all of them fit.

    Args:
        own: our tensors by name, all of which the file must have.
        state: of `read_released`.
        table: their names and ours.
        source: the file, for errors.

    Raises:
        CheckpointError: tensors that are missing, that the table does not know, or of another shape; each kind listed.
    """
    tensors, unknown = table.renamed(state)
    unknown += [name for name in tensors if name not in own]
    missing = [name for name in own if name not in tensors]
    other = [
        f"{name} {tuple(value.shape)} for {tuple(own[name].shape)}"
        for name, value in tensors.items()
        if name in own and value.shape != own[name].shape
    ]
    wrong = [
        f"{len(names)} {what} ({_listed(names)})"
        for what, names in (("missing", missing), ("unexpected", unknown), ("of another shape", other))
        if names
    ]
    if wrong:
        raise CheckpointError(f"{source} does not fit {table.network}: {'; '.join(wrong)}")
    for name, value in own.items():
        value.copy_(tensors[name])


def load_renamed(module: nn.Module, path: str | Path, table: NameTable, *, part: str | None = None) -> nn.Module:
    """Fill a module with the weights of a released file.

    Args:
        module: whose parameters and buffers are overwritten.
        path, part: as in `read_released`.
        table: their names and ours.

    Raises:
        CheckpointError: as `read_released` and `copy_renamed`.
    """
    copy_renamed(module.state_dict(), read_released(path, part), table, path)
    return module


def _listed(names: Iterable[Any]) -> str:
    every = [str(name) for name in names]
    return ", ".join(every[:SHOWN]) + (", ..." if len(every) > SHOWN else "")

"""Files of what a metric has learned: safetensors with its kind, its settings and the model it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError
from binderclip.files import write_whole


@dataclass(frozen=True)
class MetricWeights:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: what was learned, by name.
        settings: plain values from the header.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]


def write_weights(
    path: str | Path, tensors: Mapping[str, Tensor], kind: str, *, model: str | None = None, **settings: Any
) -> Path:
    """Write such a file.

    Args:
        path: of the file.
        tensors: what was learned.
        kind: the metric, such as `CLIP-IQA+`.
        model: name of the model it belongs to, where it belongs to one.
        settings: plain values that `read_weights` gives back.

    Raises:
        OutputError: it cannot be written.
    """
    from safetensors.torch import save_file

    held = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = {"kind": kind, "settings": json.dumps(settings)} | ({} if model is None else {"model": model})
    return write_whole(path, lambda draft: save_file(held, draft, header))


def written_here(path: str | Path) -> bool:
    """Whether a file is one of `write_weights`, by its header; False for a file that is not there or is damaged."""
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        return False
    try:
        with safe_open(str(path), "pt") as file:
            return "kind" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def kind_of_weights(path: str | Path) -> str:
    """The metric whose weights a file holds.

    Raises:
        CheckpointError: it cannot be read.
    """
    return tensors_of(path, "weights of a metric")[1].get("kind", "")


def read_weights(path: str | Path, kind: str, model: str | None = None, *, need: Sequence[str] = ()) -> MetricWeights:
    """Read such a file.

    Args:
        path: of the file.
        kind: the metric it must belong to.
        model: name of the model it must belong to.
        need: settings that it must hold.

    Raises:
        CheckpointError: it cannot be read, holds numbers that are not finite, lacks a setting, or belongs to another
            metric or model.
    """
    tensors, header = tensors_of(path, f"weights of {kind}")
    if header.get("kind") != kind:
        raise CheckpointError(f"{path} holds weights of {header.get('kind')!r}, not of {kind}")
    if header.get("model") != model:
        raise CheckpointError(f"{path} was fitted to the model {header.get('model')!r}, not to {model!r}")
    try:
        settings = parse_json(header["settings"])
        missing = [name for name in need if name not in settings]
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as weights of {kind}: {error}") from error
    if missing:
        raise CheckpointError(f"{path} cannot be read as weights of {kind}: it does not say its {missing[0]}")
    return MetricWeights(Path(path), tensors, settings)


@torch.no_grad()
def take_over(own: Mapping[str, Tensor], weights: MetricWeights) -> None:
    """Copy the tensors of a file into a metric's own, in place.

    Raises:
        CheckpointError: names or shapes differ.
    """
    if {name: value.shape for name, value in weights.tensors.items()} != {n: value.shape for n, value in own.items()}:
        raise CheckpointError(f"{weights.path} holds other names or shapes than this model has")
    for name, value in own.items():
        value.copy_(weights.tensors[name])


def tensors_of(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the header of a safetensors file; nothing in it is run.

    Args:
        path: of the file.
        what: it should be, for errors: `a detector`.

    Raises:
        CheckpointError: there is no such file, it cannot be read, or a number in it is not finite.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():  # a named pipe would be waited for
        raise CheckpointError(f"{path} cannot be read as {what}: there is no such file")
    try:
        with safe_open(str(path), "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as {what}: {error}") from error
    if broken := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise CheckpointError(f"{path}: {broken[0]} holds numbers that are not finite")
    return tensors, header

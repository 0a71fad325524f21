"""Transforms by name, and a fitted one as a safetensors file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from binderclip.documents import parse_json
from binderclip.errors import CheckpointError, UsageError
from binderclip.files import write_whole
from binderclip.similarity.transforms import EmbeddingTransform, GapRemoval, MeanShift, Whitening

__all__ = ["TRANSFORMS", "load_transform", "save_transform", "transform_named"]


def _whitening() -> Whitening:
    return Whitening(mode="zca")


TRANSFORMS: dict[str, Callable[[], EmbeddingTransform]] = {
    "gap-removal": GapRemoval,
    "mean-shift": MeanShift,
    "whitening": _whitening,
}
"""What may stand in front of a similarity, as `--transform` names it."""

_KINDS: dict[str, Callable[..., EmbeddingTransform]] = {
    kind.__name__: kind for kind in (GapRemoval, MeanShift, Whitening)
}


def transform_named(name: str) -> EmbeddingTransform:
    """A transform to be fitted, by its name in `TRANSFORMS`.

    Raises:
        UsageError: an unknown name.
    """
    if name not in TRANSFORMS:
        raise UsageError(f"transform {name!r} is unknown: one of {', '.join(TRANSFORMS)}")
    return TRANSFORMS[name]()


def save_transform(transform: EmbeddingTransform, path: str | Path) -> Path:
    """Write what a transform learned, with its settings and how many vectors it was fitted on.

    Raises:
        UsageError: it is not fitted, or of a kind of the user's own.
        OutputError: it cannot be written.
    """
    name = type(transform).__name__
    if name not in _KINDS or not transform.counts:
        raise UsageError(f"a fitted {', '.join(_KINDS)} can be kept, not {name} fitted on {transform.counts}")
    about = {
        "kind": name,
        "settings": transform.settings(),
        "counts": {"/".join(key): count for key, count in transform.counts.items()},
    }
    state = {key: value.cpu().contiguous().clone() for key, value in transform.state_dict().items()}
    header = {"binderclip": json.dumps(about, sort_keys=True)}
    return write_whole(path, lambda draft: save_file(state, draft, header))


def load_transform(path: str | Path) -> EmbeddingTransform:
    """Read what `save_transform` wrote.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = parse_json((file.metadata() or {})["binderclip"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        transform = _KINDS[about["kind"]](**about["settings"])
        counts = {(m, r): int(n) for key, n in about["counts"].items() for m, _, r in [key.partition("/")]}
        transform.load_state_dict(state, counts)
        if set(transform.counts) != set(counts) or not counts:
            raise ValueError(f"it holds {sorted(transform.counts)}, not {sorted(counts)}")
        for modality, role in counts:
            transform.fitted(modality, role)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} holds no transform of embeddings: {error}") from error
    return transform

"""A run directory on a disk that may be full: what a run needs, and the error where there is not as much."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from binderclip.errors import CheckpointError, OutputError
from binderclip.files import disk_is_full, megabytes
from binderclip.train.recipe.recipe import Recipe

__all__ = ["explain_full_disk", "lack_of_space", "least_space", "usual_space"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# A checkpoint of AdamW: weights and two moments; two are kept while a third is written.
_STATES, _CHECKPOINTS = 3, 3


def least_space(recipe: Recipe, model: Any) -> int:
    """Bytes that a finished run holds at the very least: the weights before, after each stage, and as saved.

    Args:
        recipe: what is carried out.
        model: before the first stage.
    """
    count = sum(p.numel() for p in model.parameters())
    copies = len(recipe.stage) + isinstance(recipe.model, dict)
    return count * (4 * copies + _BYTES[recipe.save_dtype])


def usual_space(recipe: Recipe, model: Any) -> int:
    """Bytes that a run takes while it goes on, checkpoints included, by an optimizer with two moments.

    Args:
        recipe: what is carried out.
        model: before the first stage.
    """
    count = sum(p.numel() for p in model.parameters())
    averaged = any(stage.ema is not None for stage in recipe.stage)
    return least_space(recipe, model) + 4 * count * _CHECKPOINTS * (_STATES + averaged)


def lack_of_space(out: Path, recipe: Recipe, model: Any) -> str:
    """Why a fresh run in `out` must end with a full disk; "" where it need not.

    Args:
        out: the run directory, which need not exist.
        recipe: what is carried out.
        model: before the first stage.
    """
    place = next((path for path in (out, *out.absolute().parents) if path.is_dir()), Path())
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return ""
    needed = least_space(recipe, model)
    # Some network disks report nothing at all.
    if not usage.total or usage.free >= needed:
        return ""
    return (
        f"{out} has {megabytes(usage.free)} free, and this run leaves {megabytes(needed)} at least, "
        f"{megabytes(usual_space(recipe, model))} while it goes on: free some space, or name another folder"
    )


@contextlib.contextmanager
def explain_full_disk(out: Path, needed: int) -> Iterator[None]:
    """Say what a full disk means for a run; whatever else goes wrong is left as it is.

    Args:
        out: the run directory.
        needed: bytes that the run takes.

    Raises:
        CheckpointError: the disk is full.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if not disk_is_full(error):
            raise
        unwritten = getattr(error, "filename", None) or out
        message = str(error) if isinstance(error, OutputError) else f"cannot write {unwritten}"
        raise CheckpointError(
            f"the disk is full: {message}; this run takes about {megabytes(needed)}. Free some space; the same command "
            "with --resume goes on from what is there"
        ) from error

"""Trained heads by their folders: what `save` of each wrote, opened by what the folder says it holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from binderclip.errors import CheckpointError, UsageError
from binderclip.files import why_no_folder
from binderclip.models.files.folders import folder_kind
from binderclip.segment.trained.cascade import CascadeCLIP
from binderclip.segment.trained.merged import MergedEncoder
from binderclip.segment.trained.mta_clip import MTACLIP
from binderclip.segment.trained.segclip import SegCLIP

__all__ = ["HEADS", "TrainedHead", "open_head"]

TrainedHead: TypeAlias = "CascadeCLIP | MergedEncoder | MTACLIP | SegCLIP"

#: what a folder says it holds -> what opens it
HEADS: dict[str, Callable[..., TrainedHead]] = {
    each.kind: each.open for each in (CascadeCLIP, MergedEncoder, MTACLIP, SegCLIP)
}


def open_head(folder: str | Path, model: Any = None) -> TrainedHead:
    """A trained head from the folder that its `save` wrote.

    Args:
        folder: of a `CascadeCLIP`, a `MergedEncoder`, an `MTACLIP` or a `SegCLIP`.
        model: the image-text model it was trained on; default the one whose name the folder holds.

    Raises:
        UsageError: no such folder.
        CheckpointError: it holds something else, or damaged weights.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(why_no_folder(folder))
    kind = folder_kind(folder)
    if kind not in HEADS:
        what = "no model of this format" if kind is None else f"a {kind!r} model"
        raise CheckpointError(f"{folder} holds {what}; a trained head is one of {', '.join(HEADS)}")
    return HEADS[kind](folder, model)

"""A session of clicks in a file: what was done as JSON, and the same session again from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from binderclip.data.formats.run_lengths import from_run_lengths, run_lengths
from binderclip.documents import json_text, parse_json, read_problem
from binderclip.errors import DataError, UsageError
from binderclip.files import write_whole
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.interactive import Action, Click, InteractiveSession
from binderclip.segment.promptable.prompts import PromptableSegmenter

__all__ = ["load_session", "save_session"]

FORMAT = "binderclip session 1"


def save_session(session: InteractiveSession, path: str | Path, *, model: str | None = None) -> Path:
    """Write what was done, what was undone and the mask now as JSON; pixels and weights are not in it.

    A file that is there stays whole until the new one is.

    Args:
        session: of clicks.
        path: of the file.
        model: name of the segmenter, so that a reader knows whose masks they were.

    Raises:
        OutputError: the file cannot be written.
    """
    mask = session.mask
    document = {
        "format": FORMAT,
        "image": str(session.image) if isinstance(session.image, (str, Path)) else None,
        "size": list(session.size),
        "model": model,
        "feedback": session.feedback,
        "actions": [_written(action) for action in session.actions],
        "undone": [_written(action) for action in session.undone],
        "mask": {"size": list(session.size), "counts": run_lengths(mask.cpu().numpy())},
        "predicted_iou": session.predicted_iou,
    }
    return write_whole(path, json_text(document) + "\n")


def load_session(
    path: str | Path, segmenter: PromptableSegmenter, image: ImageLike | None = None
) -> InteractiveSession:
    """A session from its file: the picture is encoded once and every action taken again, undone ones included.

    Args:
        path: of `save_session`.
        segmenter: any promptable one; another than before gives other masks from the same clicks.
        image: the picture; default the path in the file, from this folder or from the file's.

    Raises:
        DataError: no such file, or not a session.
        UsageError: a picture of another size than the one that was clicked, or none named.
    """
    path = Path(path)
    document = _read(path)
    image = _image_of(document, path) if image is None else image
    session = InteractiveSession(segmenter, image, feedback=bool(document.get("feedback", True)))
    if list(session.size) != document["size"]:
        now, then = (f"{w} x {h}" for h, w in (session.size, document["size"]))
        raise UsageError(f"{path} was clicked on a picture of {then} pixels, this one has {now}")
    undone = document["undone"]
    try:
        actions = [_action(entry) for entry in [*document["actions"], *undone]]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{path} holds an action that is none: {error}") from error
    for action in actions:
        session.do(action)
    for _ in undone:
        session.undo()
    return session


def _read(path: Path) -> dict[str, Any]:
    try:
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read the session {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a session: {read_problem(error)}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"{path} is not a session: its format is not {FORMAT!r}")
    size = document.get("size")
    lists = all(isinstance(document.get(key), list) for key in ("actions", "undone"))
    if not lists or not (isinstance(size, list) and len(size) == 2 and all(isinstance(v, int) for v in size)):
        raise DataError(f"{path} is not a whole session: size, actions and undone are asked for")
    return document


def _image_of(document: dict[str, Any], path: Path) -> Path:
    named = document.get("image")
    if not isinstance(named, str):
        raise UsageError(f"{path} names no picture: give the image")
    here = Path(named)
    beside = path.parent / named
    return here if here.exists() or not beside.exists() else beside


def _written(action: Action) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": action.kind}
    if action.clicks:
        entry["clicks"] = [[click.x, click.y, click.positive] for click in action.clicks]
    if action.box is not None:
        entry["box"] = list(action.box)
    if action.mask is not None:
        entry["mask"] = {"size": list(action.mask.shape), "counts": run_lengths(action.mask.cpu().numpy())}
    return entry


def _action(entry: dict[str, Any]) -> Action:
    kind = entry["kind"]
    if kind in ("click", "scribble"):
        clicks = tuple(Click(float(x), float(y), bool(positive)) for x, y, positive in entry["clicks"])
        if not clicks:
            raise ValueError(f"a {kind} without a place")
        return Action(kind, clicks)
    if kind == "box":
        x0, y0, x1, y1 = (float(v) for v in entry["box"])
        return Action(kind, box=(x0, y0, x1, y1))
    if kind == "mask":
        return Action(kind, mask=_mask(entry["mask"]))
    raise ValueError(f"kind {kind!r}")


def _mask(entry: dict[str, Any]) -> Bool[Tensor, "H W"]:
    height, width = entry["size"]
    return torch.from_numpy(np.ascontiguousarray(from_run_lengths(entry["counts"], (height, width))))

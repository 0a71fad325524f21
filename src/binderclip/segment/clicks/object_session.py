"""What was clicked on many pictures, in one file: steps and names as JSON, from COCO instances as well."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binderclip.data.formats.coco_instances import coco_instance_pictures, is_coco_instances
from binderclip.documents import json_text, parse_json, read_problem
from binderclip.errors import DataError, UsageError
from binderclip.files import write_whole
from binderclip.segment.clicks.object_steps import ObjectStep, PictureObjects

__all__ = ["FORMAT", "ObjectSession", "read_object_session", "write_object_session"]

FORMAT = "binderclip objects 1"
KINDS = ("point", "box", "mask", "name", "delete")


@dataclass
class ObjectSession:
    """Objects by picture.

    Attributes:
        pictures: by the name of the file below the folder, with `/`.
        model: whose masks they were; empty where nobody knows.
        left_out: what a COCO file had that is no object here, such as regions of a crowd.
    """

    pictures: dict[str, PictureObjects] = field(default_factory=dict)
    model: str = ""
    left_out: int = 0

    @property
    def count(self) -> int:
        """Objects on all pictures."""
        return sum(len(picture.objects) for picture in self.pictures.values())

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON; pictures on which nothing was done are not in it."""
        begun = {name: one for name, one in self.pictures.items() if one.steps or one.undone or one.done}
        return {
            "format": FORMAT,
            "model": self.model,
            "pictures": [
                {
                    "image": name,
                    "size": list(one.size),
                    "done": one.done,
                    "hidden": sorted(one.hidden),
                    "steps": [_written(step) for step in one.steps],
                    "undone": [_written(step) for step in one.undone],
                }
                for name, one in begun.items()
            ],
        }


def write_object_session(session: ObjectSession, path: str | Path) -> Path:
    """Write a session as JSON; a file that is there stays whole until the new one is.

    Raises:
        OutputError: it cannot be written.
    """
    return write_whole(path, json_text(session.document()) + "\n")


def read_object_session(path: str | Path) -> ObjectSession:
    """A session from its file, or from COCO instances, whose masks its objects begin with.

    Args:
        path: of `write_object_session`, or of any COCO file with polygons or run lengths.

    Raises:
        DataError: it cannot be read, or is neither; the message says where it is wrong.
    """
    try:
        document = parse_json(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is neither a session of clicks nor COCO: {read_problem(error)}") from error
    if is_coco_instances(document):
        return _of_coco(document, path)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise DataError(f"{path} is neither a session of clicks (its format would be {FORMAT!r}) nor COCO instances")
    entries = document.get("pictures")
    if not isinstance(entries, list):
        raise DataError(f"{path}: pictures must be a list")
    session = ObjectSession(model=str(document.get("model") or ""))
    for place, entry in enumerate(entries):
        try:
            name, picture = _picture(entry)
        except (KeyError, TypeError, ValueError, UsageError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise DataError(f"{path}: picture {place + 1}: {why}") from error
        if name in session.pictures:
            raise DataError(f"{path}: picture {place + 1}: {name} comes twice")
        session.pictures[name] = picture
    return session


def _of_coco(document: dict[str, Any], path: str | Path) -> ObjectSession:
    session = ObjectSession()
    for read in coco_instance_pictures(document, title=str(path)):
        picture = PictureObjects(read.size)
        for name, counts in read.instances:
            number = picture.next_number
            picture.do(ObjectStep("mask", number, mask=tuple(counts)))
            if name:
                picture.do(ObjectStep("name", number, name=name))
        session.pictures[read.name] = picture
        session.left_out += read.left_out
    return session


def _picture(entry: Any) -> tuple[str, PictureObjects]:
    """A picture's entry: every step is taken anew, so that none is in the file that a page would refuse.

    Raises:
        KeyError, TypeError, ValueError, UsageError: it is wrong.
    """
    if not isinstance(entry, dict) or not isinstance(entry["image"], str) or not entry["image"]:
        raise ValueError("an entry with the name of its image is asked for")
    height, width = entry["size"]
    if not (_is_whole(height) and _is_whole(width) and height > 0 and width > 0):
        raise ValueError(f"size {entry['size']} is not [height, width]")
    picture = PictureObjects((height, width))
    undone = [_step(each) for each in entry.get("undone", [])]
    for step in [*map(_step, entry["steps"]), *reversed(undone)]:
        picture.do(step)
    for _ in undone:
        picture.undo()
    picture.hidden = {number for number in entry.get("hidden", []) if _is_whole(number)}
    picture.done = entry.get("done") is True
    return entry["image"], picture


def _written(step: ObjectStep) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": step.kind, "object": step.number}
    if step.kind == "point" and step.point is not None:
        entry |= {"at": list(step.point), "inside": step.positive}
    elif step.kind == "box" and step.box is not None:
        entry["box"] = list(step.box)
    elif step.kind == "mask" and step.mask is not None:
        entry["counts"] = list(step.mask)
    elif step.kind == "name":
        entry["name"] = step.name
    return entry


def _step(entry: Any) -> ObjectStep:
    kind, number = entry["kind"], entry["object"]
    if kind not in KINDS or not _is_whole(number) or number < 1:
        raise ValueError(f"a step has a kind ({', '.join(KINDS)}) and the number of its object")
    if kind == "point":
        x, y = map(_number, entry["at"])
        return ObjectStep("point", number, point=(x, y), positive=entry["inside"] is True)
    if kind == "box":
        x0, y0, x1, y1 = map(_number, entry["box"])
        return ObjectStep("box", number, box=(x0, y0, x1, y1))
    if kind == "mask":
        counts = tuple(entry["counts"])
        if not all(map(_is_whole, counts)):
            raise ValueError("counts must be whole numbers")
        return ObjectStep("mask", number, mask=counts)
    if kind == "name":
        if not isinstance(entry["name"], str):
            raise ValueError("name must be a text")
        return ObjectStep("name", number, name=entry["name"])
    return ObjectStep("delete", number)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

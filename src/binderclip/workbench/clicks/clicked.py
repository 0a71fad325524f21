"""The objects that a page clicks on the pictures of a folder: their masks, and the file in which they are kept."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.errors import DataError, OutputError, UsageError
from binderclip.workbench.look import check_size, picture_size

if TYPE_CHECKING:
    import numpy as np

    from binderclip.segment.clicks import ObjectSession, PictureObjects, PointedObject
    from binderclip.workbench.pictures import ChosenPictures

KEPT_IN = ".binderclip-clicks.json"
"""File of a folder in which its clicks are kept."""
MOST_HELD = 24_000_000
"""Pixels of pictures that are held encoded beside the one that is seen and the next one; a pixel takes 12 bytes."""
MASKS = 400
"""Masks that are held, as run lengths: of pictures that one goes back to."""


@dataclass
class ClickedPictures:
    """Pictures with the objects that are clicked on them; one for all pages that have the same folder open.

    Args:
        chosen: the pictures.
        model: name of the segmenter.
        segmenter: promptable.
        session: what was clicked.
        file: in which it is kept; None for pictures that were uploaded, which go with their page.
        written: the file as it was read or written last; None where there was none.
    """

    chosen: ChosenPictures
    model: str
    segmenter: Any
    session: ObjectSession
    file: Path | None = None
    written: bytes | None = None
    _states: OrderedDict[int, Future[Any]] = field(default_factory=OrderedDict, init=False, repr=False)
    _masks: OrderedDict[Any, tuple[list[int], float | None]] = field(
        default_factory=OrderedDict, init=False, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _encoder: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "click-encoder"), init=False)

    @cached_property
    def names(self) -> list[str]:
        """Of the pictures in the session; uploads that share a name get a number, as `look.gathered` does."""
        if self.chosen.folder is not None:
            return [path.relative_to(self.chosen.folder).as_posix() for path in self.chosen.paths]
        names: dict[str, str] = {}
        for path in self.chosen.paths:
            name, number = path.name, 1
            while name.casefold() in names:
                number += 1
                name = f"{path.stem}-{number}{path.suffix}"
            names[name.casefold()] = name
        return list(names.values())

    def path(self, index: int) -> Path:
        """The picture of this place.

        Raises:
            UsageError: there is none.
        """
        if not 0 <= index < len(self.chosen.paths):
            raise UsageError(f"there is no picture {index + 1}: there are {len(self.chosen.paths)}")
        return self.chosen.paths[index]

    def objects(self, index: int) -> PictureObjects:
        """What was clicked on a picture.

        Raises:
            UsageError: there is no such picture, or it had another size when it was clicked.
            DataError: it is too large, or no picture.
        """
        from binderclip.segment.clicks import PictureObjects

        path, name = self.path(index), self.names[index]
        check_size(path)
        width, height = picture_size(path)
        if name not in self.session.pictures:
            self.session.pictures[name] = PictureObjects((height, width))
        picture = self.session.pictures[name]
        if picture.size != (height, width):
            then, now = (f"{w} x {h}" for h, w in (picture.size, (height, width)))
            raise UsageError(f"{name} was clicked on {then} pixels and has {now} now: its clicks are kept, not shown")
        return picture

    # -- masks ----------------------------------------------------------------------------------------------------

    def encoded(self, index: int) -> Any:
        """A picture as the segmenter encodes it, once; waits for it where it is being done.

        Raises:
            DataError: it cannot be read.
        """
        return self.prepare(index).result()

    def prepare(self, index: int) -> Future[Any]:
        """Encode a picture in the background, such as the one that comes next."""
        with self._lock:
            known = self._states.get(index)
            if known is None or (known.done() and known.exception() is not None):
                known = self._states[index] = self._encoder.submit(self._encode, index)
            self._states.move_to_end(index)
            held = sum(self._pixels(each) for each in self._states)
            for other in list(self._states)[:-2]:
                if held <= MOST_HELD:
                    break
                held -= self._pixels(other)
                self._states.pop(other).cancel()
            return known

    def _encode(self, index: int) -> Any:
        from binderclip.data import open_image

        path = self.path(index)
        check_size(path)
        return self.segmenter.encode(open_image(path).convert("RGB"))

    def _pixels(self, index: int) -> int:
        one = self.session.pictures.get(self.names[index])
        return one.size[0] * one.size[1] if one is not None else 1_000_000

    def mask(self, index: int, one: PointedObject, *, rough: bool) -> tuple[np.ndarray, float | None, bool]:
        """(mask (H, W) of bool, predicted IoU, whether it is the final one).

        Args:
            index: of the picture. one: of its objects.
            rough: whether a mask will do that is not cut out along the edges yet, which takes the longest.
        """
        from binderclip.data.formats.run_lengths import from_run_lengths, run_lengths
        from binderclip.segment.clicks import object_mask

        key = (index, one.prompts)
        if key in self._masks:
            self._masks.move_to_end(key)
            counts, certainty = self._masks[key]
            return from_run_lengths(counts, self.objects(index).size), certainty, True
        state = self.encoded(index)
        inner = getattr(self.segmenter, "segmenter", None)
        if rough and inner is not None:
            mask, certainty = object_mask(inner, state, one)
            return mask, certainty, False
        mask, certainty = object_mask(self.segmenter, state, one)
        self._masks[key] = run_lengths(mask), certainty
        while len(self._masks) > MASKS:
            self._masks.popitem(last=False)
        return mask, certainty, True

    # -- the file -------------------------------------------------------------------------------------------------

    def keep(self) -> None:
        """Write what was clicked into the file of the folder.

        Raises:
            UsageError: another program has changed the file since; it stays as it is.
            OutputError: it cannot be written.
        """
        from binderclip.segment.clicks import write_object_session

        if self.file is None:
            return
        now = self.file.read_bytes() if self.file.is_file() else None
        if now != self.written:
            raise UsageError(
                f"{self.file} was changed by another program since it was read here, and stays as it is: choose the "
                "folder again to go on from it"
            )
        write_object_session(self.session, self.file)
        self.written = self.file.read_bytes()

    def opened(self, path: Path) -> str:
        """Take the objects of a session or of COCO instances for those of the pictures; what it does not name stays.

        Args:
            path: of the file.

        Returns:
            What came of it, a sentence.

        Raises:
            DataError: it cannot be read.
            UsageError: it is of none of these pictures, or would take the place of what was clicked.
        """
        from binderclip.segment.clicks import read_object_session

        read, names = read_object_session(path), dict.fromkeys(self.names)
        by_last = {name.rsplit("/", 1)[-1]: name for name in names}
        fits = {}
        for name, picture in read.pictures.items():
            own = name if name in names else by_last.get(name.replace("\\", "/").rsplit("/", 1)[-1])
            if own is not None and picture.steps:
                fits[own] = picture
        if not fits:
            raise UsageError(f"{path.name} has objects on none of these pictures: it is of {_some(read.pictures)}")
        taken = [name for name in fits if name in self.session.pictures and self.session.pictures[name].steps]
        if taken:
            raise UsageError(f"there are objects already on {_some(taken)}: delete them first, or take other pictures")
        self.session.pictures.update(fits)
        count = sum(len(picture.objects) for picture in fits.values())
        crowds = f"; {read.left_out} of crowds left out" if read.left_out else ""
        others = len(read.pictures) - len(fits)
        missing = f"; {number_of(others, 'picture')} of it not here" if others else ""
        return f"{number_of(count, 'object')} on {number_of(len(fits), 'picture')} opened{missing}{crowds}."

    def close(self) -> None:
        """Let go of what is being encoded."""
        self._encoder.shutdown(wait=False, cancel_futures=True)


def open_pictures(chosen: ChosenPictures, model: str, segmenter: Any) -> tuple[ClickedPictures, str]:
    """Pictures with what was clicked on them before, and what to say of it.

    A file of clicks that cannot be read is named and stays as it is: nothing is kept then.

    Args:
        chosen: the pictures. model: name of the segmenter.
    """
    from binderclip.segment.clicks import ObjectSession, read_object_session

    if chosen.folder is None:
        return ClickedPictures(chosen, model, segmenter, ObjectSession(model=model)), ""
    file = chosen.folder / KEPT_IN
    if not file.exists():
        return ClickedPictures(chosen, model, segmenter, ObjectSession(model=model), file), ""
    try:
        if not file.is_file():  # a pipe would be waited for without end
            raise DataError(f"{file} is no regular file")
        written = file.read_bytes()
        session = read_object_session(file)
    except (DataError, OSError) as error:
        message = f"{error}. The file stays as it is, and what you click now is not kept in the folder: download it."
        return ClickedPictures(chosen, model, segmenter, ObjectSession(model=model)), message
    message = f"Going on from {file.name}: {number_of(session.count, 'object')}."
    if session.model and session.model != model:
        message += f" They were clicked with {session.model}: {model} may give other masks."
    session.model = model
    return ClickedPictures(chosen, model, segmenter, session, file, written), message


def kept_sentence(clicked: ClickedPictures) -> str:
    """Write the file; what to say where that did not work, else nothing."""
    try:
        clicked.keep()
    except (UsageError, OutputError, OSError) as error:
        return f"not kept: {error}"
    return ""


def mask_png(mask: np.ndarray) -> tuple[tuple[int, int, int, int] | None, str]:
    """(box (x0, y0, x1, y1), PNG of one bit a pixel as base64) of a mask; what is outside of it is transparent."""
    import numpy as np
    from PIL import Image

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None, ""
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    picture = Image.fromarray(mask[top:bottom, left:right].astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    out = io.BytesIO()
    picture.save(out, "PNG", bits=1, transparency=0)
    return (left, top, right, bottom), base64.b64encode(out.getvalue()).decode()


def _some(names: Any) -> str:
    first = list(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if first else "no picture"

"""A session of clicks in a file, gone on with by `click --session`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.documents import parse_json
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.segment import InteractiveSession

__all__ = ["SessionRequest", "session_after"]

Pair = tuple[float, float]


@dataclass(frozen=True)
class SessionRequest:
    """What is done in one call, in this order: steps taken back or done again, the box, points, scribbles.

    Attributes:
        path: of the file; made where it is missing.
        undo, redo: number of steps.
        box: xyxy in pixels, or None.
        inside, away: points of the object and of what is none of it.
        scribbles: lines over the object.
    """

    path: Path
    undo: int = 0
    redo: int = 0
    box: tuple[float, float, float, float] | None = None
    inside: tuple[Pair, ...] = ()
    away: tuple[Pair, ...] = ()
    scribbles: tuple[tuple[Pair, ...], ...] = ()

    @property
    def prompts(self) -> int:
        """Number of new ones."""
        return len(self.inside) + len(self.away) + len(self.scribbles) + (self.box is not None)


def session_after(request: SessionRequest, picture: Any, image: Path, segmenter: Any, model: str) -> InteractiveSession:
    """The session as it is after a call; it is written only when all of it went well.

    Args:
        request: what is done.
        picture: opened. image: its path, which the file names.
        segmenter: and the name of its `model`.

    Raises:
        UsageError: nothing to go on with, another picture than the one that was clicked, more steps back than there
            are, or a prompt outside the picture.
        DataError: the file is no session, or cannot be written.
    """
    from binderclip.segment import InteractiveSession
    from binderclip.segment.promptable import load_session, save_session

    path = request.path
    if path.is_file():
        session = load_session(path, segmenter, picture)
        _check_picture(path, image)
    elif not request.prompts:
        raise UsageError(f"there is no session {path} yet: begin it with --point, --box or --scribble")
    else:
        session = InteractiveSession(segmenter, picture)
    for name, count, there, step in (
        ("--undo", request.undo, len(session.actions), session.undo),
        ("--redo", request.redo, len(session.undone) + request.undo, session.redo),
    ):
        if count > there:
            raise UsageError(f"{name} {count}: the session {path} has {there} such steps")
        for _ in range(count):
            step()
    if request.box is not None:
        session.box(*request.box)
    for positive, points in ((True, request.inside), (False, request.away)):
        for x, y in points:
            session.click(x, y, positive=positive)
    for line in request.scribbles:
        session.scribble(line)
    session.image = str(image)
    save_session(session, path, model=model)
    return session


def _check_picture(path: Path, image: Path) -> None:
    """Refuse clicks that were made on another picture; one that was moved or renamed is the same."""
    named = parse_json(path.read_bytes()).get("image")
    before = Path(named) if isinstance(named, str) else image
    if before.is_file() and before.read_bytes() != image.read_bytes():
        raise UsageError(f"the clicks of {path} are on {before}, not on {image}: name another session for it")

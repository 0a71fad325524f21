"""A session of clicks in a file, gone on with by `click --session`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.tasks.verbs.click.request import ClickRequest

if TYPE_CHECKING:
    from binderclip.segment import InteractiveSession

__all__ = ["session_after"]


def session_after(request: ClickRequest, picture: Any, image: Path, segmenter: Any) -> InteractiveSession:
    """The session as it is after a call; it is written only when all of it went well.

    Steps are taken back, then done again; the box, the points and the scribbles follow in this order.

    Args:
        request: what is done, with its session.
        picture: opened. image: its path, which the file names.
        segmenter: of the request's model.

    Raises:
        UsageError: nothing to go on with, another picture than the one that was clicked, more steps back than there
            are, or a prompt outside the picture.
        DataError: the file is no session, or cannot be written.
    """
    from binderclip.segment import InteractiveSession
    from binderclip.segment.promptable import load_session, save_session

    path = Path(request.session or "")
    if path.is_file():
        session = load_session(path, segmenter, picture)
        _check_picture(path, image)
    elif not (request.point or request.outside or request.scribble or request.box):
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
    for positive, points in ((True, request.point), (False, request.outside)):
        for x, y in points:
            session.click(x, y, positive=positive)
    for line in request.scribble:
        session.scribble(line)
    session.image = str(image)
    save_session(session, path, model=request.model)
    return session


def _check_picture(path: Path, image: Path) -> None:
    """Refuse clicks that were made on another picture; one that was moved or renamed is the same."""
    named = parse_json(path.read_bytes()).get("image")
    before = Path(named) if isinstance(named, str) else image
    if before.is_file() and before.read_bytes() != image.read_bytes():
        raise UsageError(f"the clicks of {path} are on {before}, not on {image}: name another session for it")

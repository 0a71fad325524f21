"""What a page may upload: pictures, checked before they are kept, limited in number and size."""

from __future__ import annotations

import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.data.images import MAX_PIXELS, open_header
from binderclip.errors import DataError
from binderclip.workbench.sessions import plain_name

if TYPE_CHECKING:
    from binderclip.workbench.sessions import Sessions

MOST_FILES = 2000
"""Pictures in one upload."""
MOST_BYTES = 256 * 2**20
"""Bytes of one picture."""
MOST_AT_ONCE = 2 * 2**30
"""Bytes of one upload."""
REFUSED = ".refused"
"""Beside the empty file that stands for one that was refused: why. No upload can have this name."""


class UploadTooLarge(DataError):
    """An upload that is over a limit."""


async def receive_upload(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], sessions: Sessions, session: str
) -> list[str]:  # fmt: skip
    """Read a multipart upload, check every file, keep them in the session's folder; their paths.

    The page expects a path for every file that it sent. For one that is no picture, or is too large, it is that of an
    empty file of its name, of which `refusal` says why: it costs itself and none of the others.

    Raises:
        UploadTooLarge: over a limit. DataError: there is no picture among the files, a damaged request, or no room on
            the disk.
    """
    from starlette.concurrency import run_in_threadpool
    from starlette.datastructures import UploadFile
    from starlette.exceptions import HTTPException
    from starlette.formparsers import MultiPartException
    from starlette.requests import Request

    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MOST_AT_ONCE:
            raise UploadTooLarge(f"more than {MOST_AT_ONCE >> 30} GB at once: upload fewer pictures")
        return message

    request = Request(scope, counted)  # type: ignore[arg-type]
    try:
        form = await request.form(max_files=MOST_FILES, max_fields=16)
    except (MultiPartException, HTTPException) as error:
        reason = str(getattr(error, "message", "") or getattr(error, "detail", ""))
        if "Too many files" in reason:
            raise UploadTooLarge(
                f"more than {MOST_FILES} pictures at once: upload fewer, or open their folder"
            ) from error
        raise DataError(f"a damaged upload: {reason}") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if not files:
            raise DataError("an upload without a file")
        upload = request.query_params.get("upload_id", "")
        return await run_in_threadpool(_keep, files, sessions, session, upload)
    finally:
        await form.close()


def _keep(files: list[Any], sessions: Sessions, session: str, upload: str) -> list[str]:
    kept: list[Path] = []
    counted, refused = 0, list[DataError]()
    names = _different([plain_name(file.filename or "picture") for file in files])
    try:
        for file, name in zip(files, names, strict=True):
            size = file.size or 0
            reason = _refused(file, name, size)
            if reason is None:
                sessions.store(session, size)
                counted += size
            place = sessions.new_upload(session, name)
            kept.append(place)
            if reason is not None:
                refused.append(reason)
                place.touch()
                (place.parent / REFUSED).write_text(str(reason), encoding="utf-8")
                continue
            file.file.seek(0)
            with place.open("wb") as out:
                shutil.copyfileobj(file.file, out)
        # The page sends more than a thousand files in parts, and gives all of them up for one that fails.
        if len(refused) == len(files) and not sessions.continues(session, upload):
            raise refused[0]
    except BaseException as error:
        # Nothing of it is kept, or counted.
        for path in kept:
            shutil.rmtree(path.parent, ignore_errors=True)
        sessions.forget(session, counted)
        if isinstance(error, OSError):
            raise DataError(f"the pictures cannot be kept: {error.strerror or error}") from error
        raise
    sessions.begin_upload(session, upload)
    return [str(path) for path in kept]


def _different(names: list[str]) -> list[str]:
    """The names, with a number where one comes again, as in a folder whose sub-folders count alike."""
    different, taken = [], set[str]()
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        number, tried = 1, name
        while tried.casefold() in taken:
            number += 1
            tried = f"{stem}-{number}{dot}{suffix}" if stem else f"{name}-{number}"
        taken.add(tried.casefold())
        different.append(tried)
    return different


def _refused(file: Any, name: str, size: int) -> DataError | None:
    """Why a file of an upload is not kept."""
    if size > MOST_BYTES:
        return UploadTooLarge(f"{name} has {size >> 20} MB: a picture may have {MOST_BYTES >> 20}")
    try:
        check_picture(file.file, name)
    except DataError as error:
        return error
    return None


def refusal(path: Path) -> str | None:
    """Why an upload was not kept; None where it was.

    Args:
        path: one that `receive_upload` gave.
    """
    try:
        return (path.parent / REFUSED).read_text(encoding="utf-8")
    except OSError:
        return None


def check_picture(file: Any, name: str) -> None:
    """Whether a file begins as a picture does that Pillow knows, of a size that is opened. Pixels are not decoded.

    Raises:
        DataError: it does not.
    """
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Our own limit stands below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_header(file) as picture:
                width, height = picture.size
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(name, str(error)) from error
    except Exception as error:
        # Pillow raises errors of many kinds on files made to break it.
        raise DataError(f"{name} is not a picture (PNG, JPEG, WebP, GIF, BMP or TIFF)") from error
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(name, f"{width * height} pixels")


def _too_many_pixels(name: str, reason: str) -> UploadTooLarge:
    match = re.search(r"([0-9]+) pixels", reason)
    count = f"{int(match[1]) // 10**6} million" if match else "too many"
    return UploadTooLarge(f"{name} has {count} pixels: at most {MAX_PIXELS // 10**6} million are opened")

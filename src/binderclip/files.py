"""Files that are written whole or not at all, and what to say where they cannot be."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from binderclip.errors import OutputError, errors_behind, was_interrupted

__all__ = [
    "disk_is_full", "make_folder", "megabytes", "replace_folder", "sync_folder", "why_no_folder", "write_problem",
    "write_whole",
]  # fmt: skip

Content: TypeAlias = str | bytes | Path | Callable[[Path], object]

_DRAFT_NAME = 40
"""Characters of a file's name that its draft repeats: with four bytes each they stay below a file system's 255."""


def write_whole(path: str | os.PathLike[str], content: Content, *, sync: bool = True) -> Path:
    """Write a file that is either the old one or the new one, never half of one.

    The content goes into a draft beside the file, `.NAME.PID-XXXXXXXX.tmp`, which is flushed to the disk and renamed. A
    new file gets the permissions that the umask leaves, whatever the writing library gives its own; one that was there
    keeps its permissions. A link is followed. A named pipe or a terminal is never replaced: the content is written into
    it.

    Args:
        path: of the file; its folder must exist.
        content: text (UTF-8; half a surrogate pair as `\\udc80`), bytes, or a function that writes the file whose path
            it is given, such as `lambda draft: save_file(tensors, draft)`. That path ends in `.tmp`: a library that
            reads a format out of a name must be told it. A `Path` is a finished file of the same disk, which is moved.
        sync: flush the file and its folder to the disk. False where a file may be lost in a power cut and its reader
            knows a damaged one.

    Returns:
        The path, as it was given.

    Raises:
        OutputError: it cannot be written; what was there before still is, and no draft is left.
    """
    path = Path(path)
    try:
        kept = _permissions(path)
        if kept is None:
            _write_into(path, content)
        else:
            _replace(path, content, kept, sync)
    except Exception as error:
        if not _is_about_writing(error):
            raise
        raise OutputError(f"cannot write {path}: {write_problem(error)}") from error
    return path


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it where they are missing.

    Raises:
        OutputError: it cannot be made, or is a file.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {write_problem(error)}") from error
    return folder


def replace_folder(draft: Path, target: Path) -> None:
    """Put a finished folder where another may stand, which goes only when the new one is in its place.

    The folders are flushed to the disk; the files in them were by whoever wrote them. A process that dies in between
    leaves the former folder whole, as `.replaced-NAME` beside it.

    Args:
        draft: the finished folder, beside `target`.
        target: its place.

    Raises:
        OSError: it cannot be moved; the former folder is in its place again.
    """
    former = target.with_name(f".replaced-{target.name}")
    with contextlib.suppress(OSError):  # as in `write_whole`
        sync_folder(draft)
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        os.rename(target, former)
    try:
        os.rename(draft, target)
    except OSError:
        if former.exists():
            os.rename(former, target)
        raise
    with contextlib.suppress(OSError):
        sync_folder(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def write_problem(error: BaseException) -> str:
    """Why something could not be written, in a few words: `No space left on device`, `Permission denied`.

    Args:
        error: of the system, or of a library that wrote.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    full = disk_is_full(error)
    return os.strerror(errno.ENOSPC) if full else (str(error).splitlines() or [type(error).__name__])[0]


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    if os.name == "nt":  # there a folder cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, says that nothing more can be written.

    Args:
        error: of any library: safetensors and torch's archives hide the system's number.
    """
    for each in errors_behind(error):
        if getattr(each, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        # torch reports a short write of its archive as a RuntimeError without a number.
        if any(words in str(each) for words in ("No space left on device", "unexpected pos", "Disk quota exceeded")):
            return True
    return False


def why_no_folder(path: str | os.PathLike[str]) -> str:
    """What to say of a path that is no folder: that it is a file, or that nothing is there."""
    place = os.fspath(path)
    return f"{place} is a file: give a folder" if os.path.exists(place) else f"there is no folder {place}"


def megabytes(count: float) -> str:
    """A number of bytes for people: `0.3 MB`, `120 MB`, `4.1 GB`.

    Args:
        count: bytes.
    """
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 1e7 else f"{max(count / 1e6, 0.1):.1f} MB"


def _permissions(path: Path) -> int | None:
    """Permissions of a file that is there, 0 where there is none; None for what can only be written into.

    Raises:
        OSError: a folder, a socket, a disk, a link to itself, or a place that cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return 0
    if stat.S_ISREG(mode):
        return stat.S_IMODE(mode)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return None
    raise OSError(errno.EINVAL, "it is a socket, not a file" if stat.S_ISSOCK(mode) else "it is a device, not a file")


def _replace(path: Path, content: Content, kept: int, sync: bool) -> None:
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name[:_DRAFT_NAME]}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    try:
        # Made here first: only so the system says what the umask leaves without anybody changing it.
        with open(draft, "xb") as file:
            permissions = kept or stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        _fill(draft, content)
        os.chmod(draft, permissions)  # safetensors puts a file of its own, for the owner alone, in the draft's place
        if sync:
            with open(draft, "r+b") as file:
                os.fsync(file.fileno())
        os.replace(draft, target)
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    if sync:
        # The file is in its place; that some file systems cannot flush a folder takes nothing from it.
        with contextlib.suppress(OSError):
            sync_folder(target.parent)


def _write_into(path: Path, content: Content) -> None:
    if callable(content):
        with tempfile.TemporaryDirectory() as scratch:
            content(Path(scratch, "content.tmp"))
            content = Path(scratch, "content.tmp").read_bytes()
    elif isinstance(content, Path):
        content = content.read_bytes()
    # A pipe that nobody reads would be waited for, so it is opened without: the system then says ENXIO.
    handle = os.open(path, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    os.set_blocking(handle, True)
    with open(handle, "wb") as file:
        file.write(_bytes_of(content))


def _fill(draft: Path, content: Content) -> None:
    if callable(content):
        try:
            content(draft)
        except Exception as error:
            # torch ends an archive that Ctrl-C has cut short with an error that reads like a full disk.
            if was_interrupted(error):
                raise KeyboardInterrupt from error
            raise
    elif isinstance(content, Path):
        os.replace(content, draft)
    else:
        draft.write_bytes(_bytes_of(content))


def _bytes_of(content: str | bytes) -> bytes:
    return content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content


def _is_about_writing(error: Exception) -> bool:
    """Whether an error of a writer is about the file and not about what was to be written."""
    if isinstance(error, OSError):
        return True
    # Not imported for its error: whoever raised it has it.
    tensors = sys.modules.get("safetensors")
    return disk_is_full(error) or (tensors is not None and isinstance(error, tensors.SafetensorError))

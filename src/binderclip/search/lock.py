"""One writer at a time: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = "binderclip-index.lock"


@contextmanager
def one_writer(folder: Path) -> Iterator[bool]:
    """Hold the folder's lock, after waiting (with a warning) for whoever holds it; gives whether that was needed.

    Args:
        folder: must exist; gets the file `LOCK`, which stays.
    """
    with (folder / LOCK).open("a+b") as file:
        waited = not _take(file, wait=False)
        if waited:
            warnings.warn(f"another process is writing to the index at {folder}; waiting for it", stacklevel=4)
            _take(file, wait=True)
        try:
            yield waited
        finally:
            _release(file)


try:
    import fcntl

    def _take(file: IO[bytes], wait: bool) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def _release(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

except ImportError:  # Windows
    import msvcrt
    import time

    def _take(file: IO[bytes], wait: bool) -> bool:
        while True:
            file.seek(0)
            try:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
                return True
            except OSError:
                if not wait:
                    return False
                time.sleep(0.2)

    def _release(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)  # type: ignore[attr-defined]

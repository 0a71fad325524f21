"""A folder for each browser that uses the workbench: its uploads and results, deleted when its last page is closed."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from pathlib import Path

from binderclip.errors import UsageError

IDLE = 3600.0
"""Seconds after which the folder of a session that never opened a page is deleted."""
UPLOADS, RESULTS = "uploads", "results"
MOST_STEM, MOST_SUFFIX = 160, 20
"""Bytes of a file's name before its last dot and behind it; what is made of it (`-overlay.png`) has room in 255."""
MOST_STORED = 4 * 2**30
"""Bytes that the uploads of one session may take."""


class _Session:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages: set[str] = set()
        self.left: set[str] = set()
        self.used = time.monotonic()
        self.stored = 0
        self.upload = ""


class Sessions:
    """The sessions of one server. A session's name is secret: it is the value of the browser's cookie.

    Args:
        root: folder that holds a folder for each session; readable by its owner alone.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, _Session] = {}
        self._lock = threading.Lock()

    def new(self) -> str:
        """Begin a session; its name."""
        self._sweep()
        name = secrets.token_urlsafe(24)
        folder = self.root / secrets.token_hex(16)
        with self._lock:
            self._known[name] = _Session(folder)
        self.folder(name)
        return name

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def folder(self, name: str) -> Path:
        """The folder of a session.

        Raises:
            UsageError: there is no such session (any more).
        """
        session = self._known.get(name)
        if session is None:
            raise UsageError("this page is no longer open: load it again")
        session.used = time.monotonic()
        # What closing the last page deleted is made again for one that came back.
        for place in (session.folder, session.folder / UPLOADS, session.folder / RESULTS):
            place.mkdir(mode=0o700, exist_ok=True)
        return session.folder

    def owns(self, name: str, path: str | Path) -> bool:
        """Whether a path is a file of this session, links resolved."""
        session = self._known.get(name)
        if session is None or "\0" in str(path):
            return False
        real = Path(os.path.realpath(path))
        return session.folder in real.parents and real.is_file()

    def new_upload(self, name: str, file_name: str) -> Path:
        """Where an uploaded file goes; its folder is new, its name what people called it."""
        place = self.folder(name) / UPLOADS / secrets.token_hex(6)
        place.mkdir(mode=0o700)
        return place / plain_name(file_name)

    def store(self, name: str, size: int) -> None:
        """Count bytes of an upload.

        Raises:
            UsageError: the session has too many.
        """
        with self._lock:
            session = self._known.get(name)
            if session is None:
                raise UsageError("this page is no longer open: load it again")
            if session.stored + size > MOST_STORED:
                raise UsageError(f"more than {MOST_STORED >> 30} GB of pictures: load the page again to start anew")
            session.stored += size

    def forget(self, name: str, size: int) -> None:
        """Count bytes no longer: of an upload that was not kept."""
        with self._lock:
            session = self._known.get(name)
            if session is not None:
                session.stored = max(0, session.stored - size)

    def begin_upload(self, name: str, upload: str) -> None:
        """Something of an upload, by the page's own name of it, was kept."""
        with self._lock:
            if name in self._known:
                self._known[name].upload = upload

    def continues(self, name: str, upload: str) -> bool:
        """Whether something of this upload was kept before."""
        session = self._known.get(name)
        return session is not None and upload != "" and session.upload == upload

    def new_results(self, name: str, page: str, what: str) -> Path:
        """An empty folder for the results of one run.

        Raises:
            UsageError: the page is closed, or the session is over.
        """
        with self._lock:
            self.check_open(name, page)
            place = self.results(name, page) / f"{what}-{secrets.token_hex(3)}"
            place.mkdir(mode=0o700, parents=True)
            return place

    def results(self, name: str, page: str) -> Path:
        """Where the results of a page lie, each run's in a folder of its own.

        Raises:
            UsageError: there is no such session (any more).
        """
        return self.folder(name) / RESULTS / plain_name(page)

    def opened(self, name: str, page: str) -> None:
        """A page of this session is open."""
        with self._lock:
            self._known[name].pages.add(page)
            self._known[name].left.discard(page)

    def check_open(self, name: str, page: str) -> None:
        """Whether something may be done for a page: not once it is closed.

        Raises:
            UsageError: it is closed, or the session is over.
        """
        session = self._known.get(name)
        if session is None or page in session.left:
            raise UsageError("this page is no longer open: load it again")

    def closed(self, name: str, page: str) -> Path | None:
        """A page is closed: its results go; with the last page the uploads as well.

        Returns:
            What went, under a name that nobody knows, for `remove`; a page that comes back meanwhile loses nothing.
        """
        with self._lock:
            session = self._known.get(name)
            if session is None:
                return None
            session.pages.discard(page)
            session.left.add(page)
            place = session.folder / RESULTS / plain_name(page)
            if not session.pages:
                session.stored, place = 0, session.folder
            return _set_aside(place, self.root)

    def _sweep(self) -> None:
        old = time.monotonic() - IDLE
        with self._lock:
            idle = [name for name, session in self._known.items() if not session.pages and session.used < old]
            gone = [self._known.pop(name) for name in idle]
        for session in gone:
            shutil.rmtree(session.folder, ignore_errors=True)


def _set_aside(place: Path, root: Path) -> Path | None:
    aside = root / f"gone-{secrets.token_hex(8)}"
    try:
        place.rename(aside)
    except OSError:
        return None
    return aside


def remove(place: Path | None) -> None:
    """Delete what `closed` set aside."""
    if place is not None:
        shutil.rmtree(place, ignore_errors=True)


def plain_name(name: str) -> str:
    """The last part of a file's name without what could lead elsewhere or start an option; never empty."""
    last = re.split(r"[/\\]", name)[-1]
    kept = "".join(c if c.isprintable() and c not in '<>:"|?*' else "_" for c in last)
    kept = re.sub(r"^[.\-\s]+", "", kept).rstrip()
    stem, dot, suffix = kept.rpartition(".")
    kept = f"{_cut(stem, MOST_STEM)}{dot}{_cut(suffix, MOST_SUFFIX)}" if stem else _cut(kept, MOST_STEM)
    # Cutting has left white space behind, or nothing.
    return kept.rstrip() or "picture"


def _cut(text: str, most: int) -> str:
    """The beginning of a text that has at most so many bytes in UTF-8."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")

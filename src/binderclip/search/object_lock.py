"""One writer at a time on object storage: of each claim the store lets only one be made.

Arrow's client writes an object whatever is there, so a lock of its own would be none. LanceDB commits the first version
of a table by a conditional put (If-None-Match), which one of several that try at once wins. So whoever writes makes the
table `claim-N`, one higher than the last, and has it if its first version is his. The highest claim holds the index
until its owner says `done`, or is silent for longer than the lease, by the server's clock. A dead owner's claim is not
removed but passed by the next one, which again only one can have; no claim is removed while it is the highest.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from binderclip.data.storage import change_times, list_objects, read_object, remove_object, write_object
from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import BinderclipError, DataError

__all__ = ["CLAIMS", "LEASE", "one_object_writer"]

CLAIMS = "binderclip-claims"
"""The folder of an index that holds its claims."""
LEASE = 600.0
"""Seconds that an owner may be silent before another may write; it says that it is alive four times in this time."""
_NAME = re.compile(r"/claim-(\d{8})[./]")


@contextmanager
def one_object_writer(place: str, connect: Any, *, lease: float = LEASE) -> Iterator[None]:
    """Be the only one that writes to an index on object storage.

    Args:
        place: `s3://bucket/folder`.
        connect: gives LanceDB's connection to an address.
        lease: seconds of silence after which an owner counts as dead.

    Raises:
        DataError: another process is writing (says who, and from when its claim counts as left behind); the server
            cannot be reached; or, at the end, this one was silent for so long that another has begun to write.
    """
    claim = _Claim(f"{place}/{CLAIMS}", place, connect, lease)
    claim.make()
    with claim.kept():
        yield


@dataclass
class _Claim:
    """A process's claim to an index."""

    folder: str
    place: str
    connect: Any
    lease: float
    number: int = 0
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)
    lost: bool = False

    def make(self) -> None:
        """Make the next claim, if the last one's owner is done or dead."""
        held = self._held()
        last = max(held, default=0)
        if last and not self._is_done(last):
            self._refuse_living(last)
        self.number = last + 1
        if not self._won() or max(self._held()) > self.number:
            raise DataError(f"{self.place}: another process has begun to write to this index; wait until it is done")
        self._tell()
        for number in held:
            self._remove(number)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Say now and then that the owner is alive, and at the end that it is done."""
        over = threading.Event()
        teller = threading.Thread(target=self._tell_until, args=(over,), daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()
            write_object(f"{self._name(self.number)}.done", b"")
        if self.lost or max(self._held()) > self.number:
            raise DataError(
                f"{self.place}: this process was silent for more than {self.lease:.0f} s, and another has begun to "
                "write to the index meanwhile; run it again"
            )

    def _tell_until(self, over: threading.Event) -> None:
        while not over.wait(self.lease / 4):
            try:
                self.lost = self.lost or max(self._held(), default=0) > self.number
                self._tell()
            except BinderclipError:  # a server that does not answer now may answer at the next time
                continue

    def _tell(self) -> None:
        about = {"owner": self.owner, "host": socket.gethostname(), "process": os.getpid()}
        write_object(f"{self._name(self.number)}.alive", json.dumps(about).encode())

    def _held(self) -> list[int]:
        """The numbers of all claims there are."""
        matches = (_NAME.search(url) for url in list_objects(self.folder, ("",)))
        return sorted({int(match[1]) for match in matches if match})

    def _is_done(self, number: int) -> bool:
        return read_object(f"{self._name(number)}.done") is not None

    def _refuse_living(self, number: int) -> None:
        """Stop where the owner of a claim may be alive."""
        times = change_times(self.folder)
        own = [time for url, time in times.items() if _number(url) == number]
        silent = (self._now() - max(own)).total_seconds() if own else 0.0
        who = self._owner(number)
        if silent < self.lease:
            raise DataError(
                f"{self.place}: {who} is writing to this index; wait until it is done. If it is dead, its claim counts "
                f"as left behind in {number_of(max(1, round(self.lease - silent)), 'second')}"
            )
        warnings.warn(
            f"{who} began to write to the index at {self.place} and has been silent for {silent:.0f} s; going on "
            "without it",
            stacklevel=6,
        )

    def _owner(self, number: int) -> str:
        content = read_object(f"{self._name(number)}.alive")
        try:
            document = parse_json(content or b"")
            return f"process {int(document['process'])} of {str(document['host'])[:80]}"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def _now(self) -> datetime:
        """The server's time, by an object that is written now."""
        url = f"{self.folder}/now-{self.owner}"
        write_object(url, b"")
        try:
            return change_times(self.folder)[url]
        finally:
            remove_object(url)

    def _won(self) -> bool:
        """Make the claim of this number; whether that was this process: who wrote the table's first version.

        Of those that find no table at the same moment one writes its version 1. The others are refused, or write
        version 2, of which LanceDB says nothing.
        """
        import pyarrow as pa

        name, connection = f"claim-{self.number:08d}", self.connect(self.folder)
        refused: Exception | None = None
        try:
            connection.create_table(name, pa.table({"owner": [self.owner]}), mode="create")
        except (OSError, RuntimeError, ValueError) as error:
            refused = error
        try:
            table = connection.open_table(name)
            table.checkout(1)
            return bool(table.to_arrow()["owner"].to_pylist() == [self.owner])
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(f"{self.place}: {str(refused or error).splitlines()[0]}") from error

    def _remove(self, number: int) -> None:
        for url in change_times(self.folder):
            if _number(url) == number:
                remove_object(url)

    def _name(self, number: int) -> str:
        return f"{self.folder}/claim-{number:08d}"


def _number(url: str) -> int:
    match = _NAME.search(url)
    return int(match[1]) if match else 0

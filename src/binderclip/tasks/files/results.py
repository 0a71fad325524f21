"""Results of long work: room for them is asked before it begins, and they are kept where it ends on a full disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from binderclip.display import number_of
from binderclip.errors import OutputError
from binderclip.files import megabytes, write_problem
from binderclip.tasks.events import warn
from binderclip.tasks.files.writing import short_path

if TYPE_CHECKING:
    from torch import nn

REPORT = 4_000_000
"""Bytes of a page with its pictures."""
_BLOCK = 1 << 20


def ask_for_room(place: Path, size: float) -> None:
    """Write as many bytes as a result will have where it goes, and remove them again.

    What the system says of a disk leaves out quotas, limits and permissions; writing does not.

    Args:
        place: of the result, a file or a folder, which need not be there yet.
        size: of the result in bytes, about.

    Raises:
        OutputError: there is not as much room, or nothing can be written there.
    """
    folder = next(above for above in place.absolute().parents if above.is_dir())
    folder = place if place.is_dir() else folder
    block = os.urandom(_BLOCK)  # a disk that compresses would take zeros for nothing
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".room-") as file:
            for start in range(0, int(size), _BLOCK):
                file.write(block[: int(size) - start])
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(
            f"{place} will take about {megabytes(size)}, which cannot be written there ({write_problem(error)}): free "
            "some space, or give another place; nothing was begun"
        ) from error


def save_or_keep(save: Callable[[Path], object], place: Path) -> None:
    """Save a result; where that fails, save it in the temporary directory and say so.

    Args:
        save: writes to the path that it is given, a file or a folder.
        place: where the result goes.

    Raises:
        OutputError: it could not be saved in its place; the message says where it is kept, if anywhere.
    """
    try:
        save(place)
    except OutputError as error:
        try:
            kept = Path(tempfile.mkdtemp(prefix="binderclip-"), place.name)
            save(kept)
        except OSError as second:
            raise OutputError(f"{error}; nor can the temporary directory: {write_problem(second)}") from error
        except OutputError as second:
            raise OutputError(f"{error}; nor can the temporary directory: {second}") from error
        raise OutputError(f"{error}; the result is kept as {kept}") from error


@contextmanager
def saying_what_is_kept(
    rows: Sized, unit: str, folder: str | Path, finish: Callable[[], object] | None = None
) -> Iterator[None]:
    """In here an interruption says how many results it leaves, and is raised again.

    Args:
        rows: of the results that are written so far.
        unit: of them, such as "picture".
        folder: where they are.
        finish: writes their table where there is one row at least; default nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        if rows and finish is not None:
            finish()
        done = f"{number_of(len(rows), unit)} done, in {short_path(folder)}" if rows else f"no {unit} was done yet"
        warn(f"interrupted: {done}")
        raise


def size_of(module: nn.Module) -> int:
    """Bytes of a module's numbers as they are saved, with some room for what stands beside them."""
    return sum(value.numel() * value.element_size() for value in module.state_dict().values()) + 100_000

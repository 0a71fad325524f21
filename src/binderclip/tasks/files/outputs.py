"""The one rule for every file that a verb writes, checked before any work is done.

Never a file that is read, never what is not a regular file, and what binderclip did not write (`maker.py`) only with
`--overwrite`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binderclip.errors import UsageError
from binderclip.files import make_folder
from binderclip.tasks.files.maker import is_ours


class Output:
    """The annotation of every option that names a file or folder which the verb writes.

    `Annotated[Path | None, typer.Option(...), OUTPUT]`: an option without it is taken for one that is read.
    """


OUTPUT = Output()


@dataclass(frozen=True)
class VerbCall:
    """What the rule has to know of the call that is under way.

    Attributes:
        inputs: files and folders that its words name, other than outputs.
        outputs: places of the results that it names, links followed.
        overwrite: whether `--overwrite` was given.
    """

    inputs: tuple[Path, ...] = ()
    outputs: frozenset[Path] = frozenset()
    overwrite: bool = False


_NO_VERB = VerbCall()
"""Of what is called by other programs."""
_current: ContextVar[VerbCall] = ContextVar("current", default=_NO_VERB)


@contextmanager
def calling(call: VerbCall) -> Iterator[None]:
    """In here outputs are checked against `call`."""
    before = _current.set(call)
    try:
        yield
    finally:
        _current.reset(before)


def named_paths(values: Iterable[Any]) -> tuple[Path, ...]:
    """Every file or folder that words of a call name: alone, behind `@` or `=`, or among commas."""
    places: dict[Path, None] = {}
    for value in values:
        if isinstance(value, (list, tuple)):
            places.update(dict.fromkeys(named_paths(value)))
        elif isinstance(value, (str, Path)) and str(value):
            text = str(value)
            for part in dict.fromkeys([text, text.removeprefix("@"), text.partition("=")[2], *text.split(",")]):
                # A name that is too long for a file is none.
                if part and len(os.fsencode(part)) < 4096 and _exists(part):
                    places[Path(part)] = None
    return tuple(places)


def _exists(name: str) -> bool:
    try:
        return os.path.exists(name)
    except ValueError:  # a NUL, or half of a pair
        return False


def real_path(path: str | Path) -> Path:
    """The path with its links followed; `Path.resolve` raises where one leads to itself."""
    return Path(os.path.realpath(path))


def is_written(path: Path) -> bool:
    """Whether a picture found in a folder is the result of an earlier call like this one, which will be replaced."""
    outputs = _current.get().outputs
    return any(path.name == output.name for output in outputs) and real_path(path) in outputs and is_ours(path)


def writable_path(
    given: str | Path, *, columns: Sequence[str] = (), beside: Path | None = None,
    ours: Callable[[Path], bool] | None = None,
) -> Path:  # fmt: skip
    """The path of a file to be written, checked by the rule before any work is done.

    Args:
        given: as the user gave it, or a name that the verb chose.
        columns: of a table: those that its header begins with.
        beside: for what cannot say who made it, a file that can and is written along with it.
        ours: tells a file of ours by what is in it, where that is another way than those of `is_ours`.

    Raises:
        UsageError: a folder, a device or socket, a link to nothing, a place that cannot be written, a file that this
            call reads, or one that binderclip did not write where there is no `--overwrite`.
    """
    from binderclip.data.images import IMAGE_SUFFIXES

    path = Path(given)
    _check_place(path)
    if not path.exists() or path.is_fifo():
        return path
    call = _current.get()
    if (named := next((one for one in call.inputs if one.is_file() and one.samefile(path)), None)) is not None:
        raise UsageError(f"{path} is read here, as {named}, and would be replaced: give the result another name")
    # An empty file, such as mktemp's, holds nothing that could be lost.
    if path.stat().st_size == 0 or (ours(path) if ours else is_ours(beside or path, columns)):
        return path
    place = real_path(path)
    above = next((one for one in call.inputs if one.is_dir() and real_path(one) in place.parents), None)
    if above is not None and place.suffix.lower() in IMAGE_SUFFIXES:
        raise UsageError(f"{path} is one of the pictures of {above} and would be replaced: write into another folder")
    if not call.overwrite:
        why = "binderclip did not write it" if beside or not columns else "is another table than this one"
        raise UsageError(f"{path} is there already and {why}: give another place, or --overwrite")
    return path


def writable_paths(
    paths: Iterable[Path], *, sources: Collection[Path] = (), beside: Path | None = None, columns: Sequence[str] = ()
) -> list[Path]:  # fmt: skip
    """As `writable_path`, of the files that go into a folder, which may not be there yet.

    Args:
        paths: of the files.
        sources: pictures that are read; none of them is replaced.
        beside, columns: as of `writable_path`.

    Raises:
        UsageError: as of `writable_path`; names the first of them.
    """
    read = {real_path(path) for path in sources}
    places = list(paths)
    for path in places:
        if real_path(path) in read:
            raise UsageError(f"{path} is one of the pictures and would be replaced: write into another folder")
        if os.path.lexists(path):
            writable_path(path, beside=beside, columns=columns)
    return places


def _check_place(path: Path) -> None:
    """Refuse what no file can be written to."""
    from binderclip.data.files import irregular

    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if os.path.lexists(path) and not path.exists():
        raise UsageError(f"cannot write {path}: it is a link to what is not there")
    kind = irregular(path)
    if kind is not None and not path.is_fifo():
        raise UsageError(f"cannot write {path}: it is {kind}, not a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied")
    if path.is_fifo() and not _is_read(path):
        raise UsageError(f"cannot write {path}: it is a named pipe that nobody reads")


_held: list[int] = []


def _is_read(pipe: Path) -> bool:
    """Whether somebody reads a named pipe; writing to another one would wait for ever."""
    try:
        # Not closed before the process ends: the reader would take that for the end of the file.
        _held.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def output_path(given: str | None, source: Path, suffix: str) -> Path:
    """Where a picture goes: as given, else `NAME-suffix.png` in the current folder.

    Raises:
        UsageError: as `picture_path`.
    """
    return picture_path(given or f"{source.stem}-{suffix}.png")


def new_paths(source: Path, *named: tuple[str | None, str]) -> list[Path]:
    """Where the results of one picture go: as given, else under new names in the current folder; nothing is replaced.

    Args:
        source: the picture.
        wanted: (as given or None, ending) of each, such as (None, "mask.png"): `NAME-mask.png`, or `NAME-mask-2.png`
            and so on, with one number for all, where any of those that were not given is there already.

    Raises:
        UsageError: as `picture_path`, and `writable_path` for what is no picture.
    """
    for number in itertools.count(1):
        tail = "" if number == 1 else f"-{number}"
        endings = [Path(ending) for _, ending in named]
        names = [f"{source.stem}-{ending.stem}{tail}{ending.suffix}" for ending in endings]
        if not any(given is None and os.path.lexists(name) for (given, _), name in zip(named, names, strict=True)):
            break
    return [
        (picture_path if ending.suffix.lower() in PICTURES else writable_path)(given or name)
        for (given, _), ending, name in zip(named, endings, names, strict=True)
    ]


def picture_path(given: str | Path) -> Path:
    """The path of a picture to be written, checked before any work is done.

    Raises:
        UsageError: a name that is not a picture's, or a place that cannot be written.
    """
    path = Path(given)
    if path.suffix.lower() not in PICTURES and not path.is_dir():
        raise UsageError(f"cannot write {path}: a picture's name ends in {', '.join(PICTURES)}")
    return writable_path(path)


def output_folder(given: str | Path, *, make: bool = True) -> Path:
    """The folder of --out, made where it is missing.

    Args:
        given: as the user gave it.
        make: False only checks, for what is said before the work; nothing is made.

    Raises:
        UsageError: it is a file.
        OutputError: it cannot be made.
    """
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give a folder")
    above = next((place for place in folder.parents if os.path.lexists(place)), folder)
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"--out {folder} is a link to what is not there")
    if not above.is_dir():
        raise UsageError(f"--out {folder} lies in {above}, which is no folder")
    if not make:
        return folder
    if (made := _made.get()) is not None:
        place = folder.absolute()
        made.folders += [each for each in reversed((place, *place.parents)) if not each.exists()]
    return make_folder(folder)


@dataclass
class _MadeFolders:
    """Folders that a run made, the outer ones first, and files in them that are no results."""

    folders: list[Path] = field(default_factory=list)
    records: set[Path] = field(default_factory=set)

    def remove_empty(self) -> None:
        """Remove those without a result; what other programs put there, or refuse to let go, stays."""
        for folder in reversed(self.folders):
            with contextlib.suppress(OSError):
                if set(folder.iterdir()) <= self.records:
                    for record in folder.iterdir():
                        record.unlink()
                    folder.rmdir()


_made: ContextVar[_MadeFolders | None] = ContextVar("made", default=None)


@contextmanager
def leaving_no_empty_folder() -> Iterator[None]:
    """In here, whatever ends by an error or an interruption leaves no folder of `output_folder` without a result."""
    before, made = _made.get(), _MadeFolders()
    _made.set(made)
    try:
        yield
    except BaseException:
        made.remove_empty()
        raise
    finally:
        _made.set(before)


def note_record(path: Path) -> None:
    """Say that a file is no result: alone, it is no reason to keep a folder (`leaving_no_empty_folder`)."""
    if (made := _made.get()) is not None:
        made.records.add(path.absolute())


def outside_pool(out: str, pool: str) -> None:
    """Refuse to write into a pool: the next run would read what this one wrote.

    Args:
        out: of --out; a folder or `s3://bucket/folder`.
        pool: a data set as the user named it.

    Raises:
        UsageError: `out` lies in the pool's folder.
    """
    from binderclip.data.storage import is_object

    if is_object(out):
        inside = f"{out.rstrip('/')}/".startswith(f"{pool.rstrip('/')}/")
    else:
        inside = Path(pool).is_dir() and real_path(out).is_relative_to(real_path(pool))
    if inside:
        raise UsageError(f"--out {out} lies inside the pool {pool}: give a folder outside of it")

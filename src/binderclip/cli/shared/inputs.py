"""Image arguments: files and folders, checked before a model is loaded."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.output import note, warn_skipped
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError

Images = Annotated[
    list[str], typer.Argument(help="Image files, or folders (searched for images, with what is below them).")
]


@dataclass(frozen=True)
class ImageArguments:
    """What the user named: every picture in order, and which of them were named one by one."""

    paths: list[Path]
    named: frozenset[Path]

    def exit_code(self, skipped: Sequence[tuple[object, str]]) -> int:
        """1 where a picture that was named one by one could not be used, else 0."""
        return int(any(Path(str(key)) in self.named for key, _ in skipped))


def find_images(arguments: Sequence[str], *, without: str | None = None) -> ImageArguments:
    """Every image file of the arguments.

    Args:
        arguments: files and folders.
        without: the output folder; what an earlier run left there is none of the images of a folder above it.

    Raises:
        UsageError: an argument that is neither a file nor a folder, or whose name is not UTF-8.
        DataError: a folder that holds no image.
    """
    from binderclip.data import list_images
    from binderclip.data.files import not_unicode, printable

    paths: dict[Path, None] = {}
    named = []
    skipped: list[tuple[str, str]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found = list_images(path, without=without, skipped=skipped)
            note_left_out(path, without)
            if not found:
                warn_skipped(skipped)
                raise DataError(f"no images in {path}: looked for PNG, JPEG, WebP, GIF, BMP and TIFF files, also below")
            paths.update(dict.fromkeys(found))
        elif not_unicode(argument):
            raise UsageError(f"{printable(argument)}: its name is not UTF-8: rename the file")
        elif path.is_file():
            paths[path] = None
            named.append(path)
        else:
            raise UsageError(f"there is no file or folder {path}")
    warn_skipped(skipped)
    return ImageArguments(list(paths), frozenset(named))


def note_left_out(folder: str | Path, without: str | Path | None) -> None:
    """Say how many images of a folder are left out since they lie in the output folder below it."""
    from binderclip.data import list_images

    if without is None or not Path(without).is_dir() or Path(folder).resolve() not in Path(without).resolve().parents:
        return
    if out := len(list_images(without)):
        note(f"left out: {number_of(out, 'image')} below {without}, the output folder")


def one_image(argument: str) -> Path:
    """The path of one image file, checked to exist.

    Raises:
        UsageError: not a file.
    """
    path = Path(argument)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; this verb takes one image file")
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return path


def output_names(paths: Sequence[Path], root: Path | None = None) -> list[str]:
    """The start of every picture's file names, in one folder; no two are alike, also where case does not count.

    With a root it is the path below it, joined by `-`. Without one it is the picture's own name, of those that share it
    the whole path. What is still alike gets its suffix, and then a number.
    """

    def whole(path: Path) -> str:
        parts = (path if root is None else path.relative_to(root)).with_suffix("").parts
        return "-".join(part for part in parts if part not in ("..", path.anchor))

    names = [path.stem if root is None else whole(path) for path in paths]
    for longer in (whole, lambda path: "-".join([whole(path), path.suffix[1:]])):
        seen = Counter(name.casefold() for name in names)
        names = [n if seen[n.casefold()] == 1 else longer(path) for n, path in zip(names, paths, strict=True)]
    taken = {name.casefold() for name in names}
    first: set[str] = set()
    for row, name in enumerate(names):
        number = 2
        if name.casefold() in first:
            while f"{name}-{number}".casefold() in taken:
                number += 1
            names[row] = f"{name}-{number}"
            taken.add(names[row].casefold())
        first.add(name.casefold())
    return names


def output_folder(given: str | Path, *, make: bool = True) -> Path:
    """The folder of --out, made where it is missing.

    Args:
        given: as the user gave it.
        make: False only checks, for what is said before the work; nothing is made.

    Raises:
        UsageError: it is a file.
        DataError: it cannot be made.
    """
    folder = Path(given)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file: give a folder")
    above = next((place for place in folder.parents if os.path.lexists(place)), folder)
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"--out {folder} is a link to what is not there")
    if not above.is_dir():
        raise UsageError(f"--out {folder} lies in {above}, which is no folder")
    if make:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make {folder}: {error.strerror or error}") from error
    return folder


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
        inside = Path(pool).is_dir() and Path(out).resolve().is_relative_to(Path(pool).resolve())
    if inside:
        raise UsageError(f"--out {out} lies inside the pool {pool}: give a folder outside of it")


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


def new_paths(source: Path, *wanted: tuple[str | None, str]) -> list[Path]:
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
        endings = [Path(ending) for _, ending in wanted]
        names = [f"{source.stem}-{ending.stem}{tail}{ending.suffix}" for ending in endings]
        if not any(given is None and Path(name).exists() for (given, _), name in zip(wanted, names, strict=True)):
            break
    return [
        (picture_path if ending.suffix.lower() in PICTURES else writable_path)(given or name)
        for (given, _), ending, name in zip(wanted, endings, names, strict=True)
    ]


def picture_path(given: str) -> Path:
    """The path of a picture to be written, checked before any work is done.

    Raises:
        UsageError: a name that is not a picture's, or a place that cannot be written.
    """
    path = writable_path(given)
    if path.suffix.lower() not in PICTURES:
        raise UsageError(f"cannot write {path}: a picture's name ends in {', '.join(PICTURES)}")
    return path


def writable_path(given: str | Path) -> Path:
    """The path of a file to be written, checked before any work is done.

    Raises:
        UsageError: a folder, a file in a folder that does not exist, or a place that cannot be written.
    """
    path = Path(given)
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: permission denied")
    if path.is_fifo() and not _is_read(path):
        raise UsageError(f"cannot write {path}: it is a named pipe that nobody reads")
    return path

"""Image arguments: files and folders, checked before a model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import skip, warn
from binderclip.tasks.files.outputs import is_written
from binderclip.tasks.files.writing import short_reason


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

    paths: dict[Path, None] = {}
    named = []
    skipped: list[tuple[str, str]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            images = list_images(path, without=without, skipped=skipped)
            if results := [image for image in images if is_written(image)]:
                warn(f"left out: {', '.join(map(str, results))}, which an earlier run made and this one makes anew")
                images = [image for image in images if image not in results]
            note_left_out(path, without)
            if not images:
                skip(skipped)
                raise DataError(f"no images in {path}: looked for PNG, JPEG, WebP, GIF, BMP and TIFF files, also below")
            paths.update(dict.fromkeys(images))
            continue
        _refuse_bytes(argument)
        if not path.is_file():
            raise UsageError(f"there is no file or folder {path}")
        paths[path] = None
        named.append(path)
    skip(skipped)
    return ImageArguments(list(paths), frozenset(named))


def _refuse_bytes(argument: str) -> None:
    """Refuse a name that no table or JSON document of a result could hold."""
    from binderclip.data.files import not_unicode, printable

    if not_unicode(argument):
        raise UsageError(f"{printable(argument)}: its name is not UTF-8: rename the file")


def skip_pictures(skipped: Sequence[tuple[object, str]], *, left: Sized, unit: str = "picture") -> None:
    """Say which pictures were left out, and why each; refuse to go on where nothing came of the others.

    Every verb that leaves pictures out says so by this, before it writes what all of them have in common.

    Args:
        skipped: (path, reason) of what could not be used.
        left: what came of the pictures that could.
        unit: what each of them is.

    Raises:
        DataError: pictures were left out, and nothing is left.
    """
    if skipped and not left:
        first = short_reason(*skipped[0])
        if len(skipped) == 1:
            raise DataError(f"{first}; give another {unit}")
        skip(skipped)
        raise DataError(f"none of {number_of(len(skipped), unit)} can be used: {first}; give at least one that can")
    skip(skipped)


def note_left_out(folder: str | Path, without: str | Path | None) -> None:
    """Say how many images of a folder are left out since they lie in the output folder below it."""
    from binderclip.data import list_images

    if without is None or not Path(without).is_dir() or Path(folder).resolve() not in Path(without).resolve().parents:
        return
    if out := len(list_images(without)):
        warn(f"left out: {number_of(out, 'image')} below {without}, the output folder")


def one_image(argument: str) -> Path:
    """The path of one image file, checked to exist.

    Raises:
        UsageError: not a file, or its name is not UTF-8.
    """
    _refuse_bytes(argument)
    path = Path(argument)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; this verb takes one image file")
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    return path


def output_names(
    paths: Sequence[Path], root: Path | None = None, *, endings: Sequence[str] = ("",), taken: Sequence[str] = ()
) -> list[str]:
    """The start of every picture's file names, in one folder; no two are alike, also where case does not count.

    With a root it is the path below it, joined by `-`. Without one it is the picture's own name, of those that share it
    the whole path. What is still alike gets its suffix, and then a number.

    Args:
        paths: of the pictures.
        root: a folder above all of them.
        endings: what is appended to a name for each of a picture's files; with its ending, too, no name is another's.
        taken: names, with their endings, of further files in the folder.
    """

    def whole(path: Path) -> str:
        parts = (path if root is None else path.relative_to(root)).with_suffix("").parts
        return "-".join(part for part in parts if part not in ("..", path.anchor))

    names = [path.stem if root is None else whole(path) for path in paths]
    for longer in (whole, lambda path: "-".join([whole(path), path.suffix[1:]])):
        seen = Counter(name.casefold() for name in names)
        names = [n if seen[n.casefold()] == 1 else longer(path) for n, path in zip(names, paths, strict=True)]
    wished = {name.casefold() for name in names}
    files = {name.casefold() for name in taken}
    for row, name in enumerate(names):
        number, tried = 1, name
        while any(f"{tried}{ending}".casefold() in files for ending in endings) or (
            number > 1 and tried.casefold() in wished
        ):
            number += 1
            tried = f"{name}-{number}"
        names[row] = tried
        files |= {f"{tried}{ending}".casefold() for ending in endings}
    return names


def file_stamp(path: Path) -> list[int]:
    """Size and time of a file: another picture of the same name is done again."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]

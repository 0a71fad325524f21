"""The files that a data set is read from: those of a folder, or those of a zip archive, which is never unpacked."""

from __future__ import annotations

import os
import posixpath
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from binderclip.data.files import list_files, read_file
from binderclip.data.images import IMAGE_SUFFIXES
from binderclip.errors import DataError
from binderclip.files import why_no_folder

MAX_MEMBER = 1 << 30
"""Bytes of one file of an archive; what says it is larger is taken for a bomb."""


class Tree(ABC):
    """Files by their relative names with `/`, hidden ones left out.

    Attributes:
        title: for messages: the path of the folder or archive.
        source: its last part.
        files: every file, sorted.
        skipped: (name, reason) of what was left out.
    """

    title: str
    source: str
    files: list[str]
    skipped: list[tuple[str, str]]

    @cached_property
    def images(self) -> list[str]:
        """The files that are images by their suffix."""
        return [name for name in self.files if posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES]

    @cached_property
    def folders(self) -> list[str]:
        """Folders directly below the root that hold any file."""
        return list(dict.fromkeys(name.partition("/")[0] for name in self.files if "/" in name))

    @cached_property
    def top(self) -> list[str]:
        """Files directly in the root."""
        return [name for name in self.files if "/" not in name]

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset(self.files)

    @cached_property
    def _by_base(self) -> dict[str, list[str]]:
        paths: dict[str, list[str]] = {}
        for name in self.images:
            paths.setdefault(posixpath.basename(name), []).append(name)
        return paths

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str, base: str = "") -> str:
        """The file that a table means: beside the table, or, by a bare name, the only one of that name anywhere.

        Args:
            name: as the table writes it.
            base: folder of the table, relative to the root.
        """
        beside = posixpath.normpath(posixpath.join(base, name))
        if beside not in self and "/" not in name and len(paths := self._by_base.get(name, [])) == 1:
            return paths[0]
        return beside

    @abstractmethod
    def sub(self, folder: str) -> Tree:
        """The files below one folder."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            DataError: there is none, or it cannot be read.
        """

    @abstractmethod
    def unusable(self, name: str) -> str | None:
        """Why a picture cannot be used, as far as the listing tells; its content is judged when it is opened."""

    @abstractmethod
    def pictures(self, names: Sequence[str]) -> Sequence[Any]:
        """The pictures of these names as `open_image` takes them, read when they are indexed."""

    def _below(self, folder: str) -> tuple[list[str], list[tuple[str, str]]]:
        start = f"{folder}/"
        names = [name[len(start) :] for name in self.files if name.startswith(start)]
        return names, [(name[len(start) :], why) for name, why in self.skipped if name.startswith(start)]


class FolderTree(Tree):
    """The files below a folder.

    Args:
        root: the folder.

    Raises:
        DataError: it does not exist or is a file.
    """

    def __init__(self, root: Path, listed: tuple[list[str], list[tuple[str, str]]] | None = None) -> None:
        if not root.exists():
            raise DataError(why_no_folder(root))
        if not root.is_dir():
            raise DataError(f"{root}: is a file, not a folder of images")
        self.root, self.title, self.source = root, str(root), root.resolve().name
        self.files, self.skipped = list_files(root) if listed is None else listed

    def sub(self, folder: str) -> FolderTree:
        return FolderTree(self.root / folder, self._below(folder))

    def relative(self, path: Path) -> str:
        """A path as a name of this tree; one outside begins with `..`."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def find(self, name: str, base: str = "") -> str:
        return self.relative(Path(name)) if os.path.isabs(name) else super().find(name, base)

    def read(self, name: str) -> bytes:
        return read_file(self.root / name)

    def unusable(self, name: str) -> str | None:
        try:
            return None if os.stat(self.root / name).st_size else "empty file"
        except FileNotFoundError:
            return "no such file"
        except (OSError, ValueError) as error:
            return f"cannot be read ({getattr(error, 'strerror', None) or error})"

    def pictures(self, names: Sequence[str]) -> list[Path]:
        return [self.root / name for name in names]


class ZipTree(Tree):
    """The files of a zip archive, read where they lie.

    A folder that holds everything, as when a folder was packed, is left off the names where what is in it says itself
    what the pictures show.

    Args:
        path: the archive.

    Raises:
        DataError: no such file, or no readable zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.prefix, self._archive = path, "", _Archive(path)
        self.title, self.source = str(path), path.stem
        self.files, self.skipped = self._list()

    def _list(self) -> tuple[list[str], list[tuple[str, str]]]:
        files, skipped = [], []
        for name, info in self._archive.members().items():
            parts = name.split("/")
            if any(part.startswith(".") or part == "__MACOSX" for part in parts if part != ".."):
                continue
            if parts[0] in ("", ".."):
                skipped.append((name, "its name leads out of the archive"))
            elif info.flag_bits & 1:
                skipped.append((name, "is encrypted"))
            else:
                files.append(name)
        return sorted(files), sorted(skipped)

    def unpacked(self) -> ZipTree:
        """Without the one folder that holds everything, where that folder describes itself."""
        if self.top or len(self.folders) != 1:
            return self
        inner = self.sub(self.folders[0])
        return inner if inner.folders or len(inner.images) < len(inner.files) else self

    def sub(self, folder: str) -> ZipTree:
        inner = ZipTree.__new__(ZipTree)
        inner.path, inner.prefix, inner._archive = self.path, f"{self.prefix}{folder}/", self._archive
        inner.title, inner.source = f"{self.path}/{inner.prefix}".rstrip("/"), posixpath.basename(folder)
        inner.files, inner.skipped = self._below(folder)
        return inner

    def read(self, name: str) -> bytes:
        return self._archive.read(self.prefix + name)

    def unusable(self, name: str) -> str | None:
        if name not in self:
            return "no such file"
        size = self._archive.members()[self.prefix + name].file_size
        return None if 0 < size <= MAX_MEMBER else ("empty file" if not size else f"says it is {size:,} bytes")

    def pictures(self, names: Sequence[str]) -> Sequence[bytes]:
        return _Members(self._archive, [self.prefix + name for name in names])


class _Archive:
    """A zip archive that is opened anew in each process, since a forked one would share the place in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._open: tuple[int, zipfile.ZipFile, dict[str, zipfile.ZipInfo]] | None = None

    def _opened(self) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
        with self._lock:
            if self._open is None or self._open[0] != os.getpid():
                try:
                    archive = zipfile.ZipFile(self.path)
                except FileNotFoundError as error:
                    raise DataError(f"{self.path}: no such file") from error
                except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                    raise DataError(f"{self.path}: not a readable zip archive ({error})") from error
                infos = [info for info in archive.infolist() if not info.is_dir()]
                names = {posixpath.normpath(info.filename.replace("\\", "/")): info for info in infos}
                self._open = os.getpid(), archive, names
            return self._open[1:]

    def members(self) -> dict[str, zipfile.ZipInfo]:
        return self._opened()[1]

    def read(self, name: str) -> bytes:
        archive, members = self._opened()
        info = members.get(name)
        if info is None:
            raise DataError(f"{name}: no such file in {self.path.name}")
        if info.file_size > MAX_MEMBER:
            raise DataError(f"{name}: says it is {info.file_size:,} bytes: refused as a decompression bomb")
        try:
            return archive.read(info)
        except Exception as error:  # damage makes the decompressors raise almost anything
            raise DataError(f"{name}: cannot be read from {self.path.name} ({error})") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


class _Members(Sequence[bytes]):
    """Files of an archive, read when they are indexed."""

    def __init__(self, archive: _Archive, names: list[str]) -> None:
        self._archive, self._names = archive, names

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Members(self._archive, self._names[index])
        return self._archive.read(self._names[index])

"""Read NumPy's files, which users bring and which may be damaged, without ever unpickling."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from binderclip.errors import DataError

T = TypeVar("T")
_DAMAGED = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def read_npy(path: str | os.PathLike[str], *, mapped: bool = False) -> np.ndarray:
    """The array of an `.npy` file.

    Args:
        path: of the file.
        mapped: leave it on disk, to be read where it is looked at.

    Raises:
        DataError: no such file, or not one array of numbers.
    """
    array = _read(path, lambda: np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: several arrays, where an .npy file has one")
    return array


def npz_names(path: str | os.PathLike[str]) -> list[str]:
    """Names of the arrays of an `.npz` file.

    Raises:
        DataError: no such file, or damaged.
    """
    return _read(path, lambda: _members(path, lambda file: list(file.files)))


def read_npz(path: str | os.PathLike[str], name: str) -> np.ndarray:
    """One array of an `.npz` file.

    Raises:
        DataError: no such file, or damaged.
    """
    return _read(path, lambda: _members(path, lambda file: file[name]))


def _members(path: str | os.PathLike[str], take: Callable[[Any], T]) -> T:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise ValueError("one array, where an .npz file has several by name")
    with archive as file:
        return take(file)


def _read(path: str | os.PathLike[str], load: Callable[[], T]) -> T:
    try:
        return load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: not a readable NumPy file ({error})") from error

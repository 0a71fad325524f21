"""Objects on S3 and what speaks like it (`s3://bucket/key`): read as a stream, listed, written whole or not at all.

Arrow's own client does it, so no further package is needed. Keys, region and server are taken from where every tool
takes them: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `AWS_ENDPOINT_URL`, or a profile.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from binderclip.errors import DataError, OutputError
from binderclip.files import disk_is_full, make_folder, write_problem, write_whole

PREFIX = "s3://"
BUFFER = 4 << 20
"""Bytes of one request while an object is read from its beginning to its end."""
_CONNECT, _REQUEST, _ATTEMPTS = 10, 60, 3
_REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket",
    "ACCESS_DENIED": "no permission: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile",
    "INVALID_ACCESS_KEY_ID": "the access key is not known there: check AWS_ACCESS_KEY_ID",
    "INVALID_CLIENT_TOKEN_ID": "the access key is not known there: check AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "the secret key does not fit: check AWS_SECRET_ACCESS_KEY",
    "NETWORK_CONNECTION": "the server cannot be reached",
    "HTTP STATUS 301": "the bucket is in another region: set AWS_REGION",
}


def is_object(place: str | os.PathLike[str]) -> bool:
    """Whether a place is an object or a folder of objects, and no path."""
    return isinstance(place, str) and place.startswith(PREFIX)


def join_place(folder: str | os.PathLike[str], name: str) -> str | Path:
    """The place of that name in a folder: a path, or the address of an object."""
    return f"{str(folder).rstrip('/')}/{name}" if is_object(folder) else Path(folder) / name


def open_object(url: str) -> Any:
    """An object as a stream: Arrow's own, which reads as every binary file does and is none of Python's kinds.

    Raises:
        FileNotFoundError: the bucket or the object is not there.
        DataError: the server cannot be reached, or refuses; says why.
    """
    try:
        return _server().open_input_stream(_key(url), buffer_size=BUFFER)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refused(url, error) from error


def read_object(url: str) -> bytes | None:
    """The bytes of an object; None where there is none.

    Raises:
        DataError: as of `open_object`.
    """
    try:
        with open_object(url) as stream:
            content: bytes = stream.read()
            return content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(url, error) from error


def open_place(place: str | os.PathLike[str], *, at_once: bool = True) -> Any:
    """A file or an object for what jumps about in it, such as a reader of Parquet.

    Args:
        place: path or address.
        at_once: fetch all of an object; False fetches what is read of it, such as the footer of a table.

    Raises:
        FileNotFoundError: there is none.
        DataError: as of `open_object`.
    """
    if not is_object(place):
        return open(place, "rb")
    if not at_once:
        try:
            return _server().open_input_file(_key(str(place)))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise refused(str(place), error) from error
    content = read_object(str(place))
    if content is None:
        raise FileNotFoundError(f"{place}: no such object")
    return io.BytesIO(content)


def write_object(url: str, content: bytes) -> None:
    """Write an object; it is there when it is whole.

    Raises:
        DataError: the server cannot be reached, or refuses; says why.
    """
    try:
        with _server().open_output_stream(_key(url)) as stream:
            stream.write(content)
    except OSError as error:
        raise refused(url, error) from error


def write_place(
    place: str | os.PathLike[str],
    content: bytes,
    *,
    setting: str = "point BINDERCLIP_CACHE to",
    sync: bool = True,
) -> None:
    """Write a file, whole or not at all, in a folder that is made where it is missing; or an object.

    Args:
        place: a path, or `s3://bucket/key`.
        content: all of it.
        setting: what an error tells to do about the place, before "another disk".
        sync: as `binderclip.files.write_whole` takes it.

    Raises:
        OutputError: it cannot be written; what was there before still is.
        DataError: as of `write_object`.
    """
    if is_object(place):
        write_object(str(place), content)
        return
    path = Path(place)
    for last in (False, False, True):  # a clear of the cache may take the folder away between the two calls
        try:
            make_folder(path.parent)
            write_whole(path, content, sync=sync)
            return
        except OutputError as error:
            cause = error.__cause__ or error
            if isinstance(cause, FileNotFoundError) and not last:
                continue
            full = f"free some space, or {setting} another disk"
            hint = full if disk_is_full(cause) else f"{setting} a folder that can be written"
            raise OutputError(f"{path.parent}: {write_problem(cause)}; {hint}") from error


def remove_object(url: str) -> None:
    """Remove an object, if it is there.

    Raises:
        DataError: the server cannot be reached, or refuses; says why.
    """
    try:
        _server().delete_file(_key(url))
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused(url, error) from error


def upload(path: Path, url: str) -> str:
    """Copy a file to an object, and give its address.

    Raises:
        DataError: as of `write_object`.
    """
    try:
        with path.open("rb") as source, _server().open_output_stream(_key(url)) as stream:
            shutil.copyfileobj(source, stream, BUFFER)
    except OSError as error:
        raise refused(url, error) from error
    return url


def object_state(url: str) -> str:
    """Hash and size of an object as the server keeps them, for stamps; "" where there is none.

    Times are whole seconds there, so that an object that is replaced at once by one of its size would seem unchanged.

    Raises:
        DataError: as of `open_object`.
    """
    try:
        with _server().open_input_file(_key(url)) as stream:
            about = stream.metadata()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise refused(url, error) from error
    return " ".join(about.get(name, b"").decode() for name in ("ETag", "Content-Length"))


def list_objects(folder: str, suffixes: Collection[str]) -> list[str]:
    """The addresses of all objects below a folder whose names have one of the suffixes, sorted.

    Raises:
        DataError: there is no such bucket, or as of `open_object`.
    """
    from pyarrow import fs

    try:
        entries = _information(folder, fs.FileSelector(_key(folder).rstrip("/"), recursive=True))
    except FileNotFoundError:
        return []
    return sorted(
        f"{PREFIX}{entry.path}" for entry in entries if entry.is_file and entry.path.endswith(tuple(suffixes))
    )


def change_times(folder: str) -> dict[str, datetime]:
    """The addresses of all objects below a folder, and when the server was given each, in whole seconds.

    Raises:
        DataError: as of `list_objects`.
    """
    from pyarrow import fs

    try:
        entries = _information(folder, fs.FileSelector(_key(folder).rstrip("/"), recursive=True))
    except FileNotFoundError:
        return {}
    return {f"{PREFIX}{entry.path}": entry.mtime for entry in entries if entry.is_file}


def refused(url: str, error: OSError) -> DataError:
    """What an error of the server says about an object, in a line."""
    text = str(error)
    reason = next((message for sign, message in _REASONS.items() if sign in text), "")
    if sign := re.search(r"AWS Error ([A-Z_]+)", text):
        reason = reason or f"the server says {sign[1].lower().replace('_', ' ')}"
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return DataError(f"{url}: {reason or text.splitlines()[0]}" + (f" (server {server})" if server else ""))


def _information(url: str, asked: Any) -> Any:
    try:
        return _server().get_file_info(asked)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise refused(url, error) from error


def _key(url: str) -> str:
    key = url.removeprefix(PREFIX)
    if not key or key.startswith("/"):
        raise DataError(f"{url}: names no bucket; write s3://BUCKET/KEY")
    return key


def _server() -> Any:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID")
    return _connected(os.getpid(), *(os.environ.get(name) or None for name in names))


@lru_cache(maxsize=4)
def _connected(
    process: int, own: str | None, any_service: str | None, region: str | None, default: str | None, user: str | None
) -> Any:
    """The client of a process: one that was forked needs its own, and so does another server or user."""
    from pyarrow import fs

    return fs.S3FileSystem(
        endpoint_override=own or any_service,
        region=region or default,
        connect_timeout=_CONNECT,
        request_timeout=_REQUEST,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )

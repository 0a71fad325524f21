"""Files in a folder of pictures that keep what a person said of them: JSON objects of picture -> entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.tasks.files.maker import KEY, MAKER


def kept_entries(path: Path, part: str, what: str, is_entry: Callable[[str, Any], bool]) -> dict[str, dict[str, Any]]:
    """The entries of a file that binderclip wrote; none where there is no file.

    Args:
        path: of the file.
        part: name of the object in the document that has the entries.
        what: that the file keeps, for the messages.
        is_entry: whether a key and its value are one.

    Raises:
        UsageError: the file is there and is none of ours, or damaged; it names the file, which stays as it is.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise UsageError(f"{path} is no regular file and is left as it is: move it away")
    try:
        document = parse_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read and is left as it is: {error}") from error
    entries = document.get(part) if isinstance(document, dict) and document.get(KEY) == MAKER else None
    if not isinstance(entries, dict) or not all(is_entry(key, entry) for key, entry in entries.items()):
        raise UsageError(f"{path} holds no {what} of the workbench and is left as it is: move it away")
    return entries

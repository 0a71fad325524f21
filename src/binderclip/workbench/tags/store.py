"""Tags of pictures: words that a user gives them, kept in a file and known to every tab."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from binderclip.documents import parse_json
from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks.files.kept_entries import kept_entries
from binderclip.tasks.files.writing import write_json

LONGEST, MOST_TAGS = 60, 20
"""Characters of a tag, and tags of one picture."""
NAME = ".binderclip-tags.json"
"""Of the file in a folder that the workbench was opened on; the folder `.binderclip` is the search index's alone."""


class TagStore:
    """Tags of pictures, each known by its `content_hash`, in a JSON file.

    It is read again before each change: two workbenches may share a folder.

    Args:
        path: of the file, which need not be there; its folder is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def tags(self) -> dict[str, list[str]]:
        """Key of a picture -> its tags, in their order.

        Raises:
            UsageError: the file is there and is none of ours, or damaged; it names the file.
        """
        return {key: list(entry["tags"]) for key, entry in self._entries().items()}

    def change(self, pictures: Mapping[str, str], *, add: str = "", remove: str = "") -> dict[str, list[str]]:
        """Give a tag to pictures, or take one away; all tags after that.

        Args:
            pictures: key -> name, which stands in the file for people who read it.
            add, remove: a tag; empty for none.

        Raises:
            UsageError: a key that is none, a tag that is too long, too many of one picture, or as of `tags`.
            OutputError: the file cannot be written.
        """
        wrong = next((key for key in pictures if not _is_key(key)), None)
        if wrong is not None:
            raise UsageError(f"{wrong[:40]!r} is the key of no picture")
        added, removed = _checked(add), _checked(remove)
        with self._lock:
            entries = self._entries()
            for key, name in pictures.items():
                tags = [tag for tag in entries.get(key, {}).get("tags", ()) if tag not in (added, removed)]
                tags += [added] if added else []
                if len(tags) > MOST_TAGS:
                    raise UsageError(f"{name} has {MOST_TAGS} tags: take one away first")
                if tags:
                    entries[key] = {"name": name, "tags": tags}
                else:
                    entries.pop(key, None)
            write_json({"pictures": entries}, self.path)
        return {key: list(entry["tags"]) for key, entry in entries.items()}

    def _entries(self) -> dict[str, dict[str, Any]]:
        return kept_entries(self.path, "pictures", "tags", _is_entry)


def answer_tags(store: TagStore, body: bytes | None) -> dict[str, Any]:
    """What the page is told of the tags, and, with a body, what it asks to change.

    Args:
        store: with the tags.
        body: JSON of `pictures` (key -> name) and `add` or `remove`; None only reads.

    Returns:
        `tags` (key -> tags) and `problem`, a sentence where the file is damaged or the change cannot be made.
    """
    tags: dict[str, list[str]] = {}
    try:
        tags = store.tags()
        if body is not None:
            tags = store.change(**_asked(body))
    except BinderclipError as error:
        return {"tags": tags, "problem": str(error)}
    return {"tags": tags, "problem": ""}


def _asked(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError as error:
        raise UsageError("the request is no JSON") from error
    asked = document if isinstance(document, dict) else {}
    pictures, words = asked.get("pictures"), [asked.get("add", ""), asked.get("remove", "")]
    if not isinstance(pictures, dict) or not _are_texts([*pictures.values(), *words]):
        raise UsageError("a change of tags names pictures, and a tag to add or remove")
    return {"pictures": pictures, "add": words[0], "remove": words[1]}


def _checked(tag: str) -> str:
    tag = " ".join(tag.split())
    if len(tag) > LONGEST or not tag.isprintable():
        raise UsageError(f"a tag has at most {LONGEST} characters that can be seen")
    return tag


def _is_key(key: str) -> bool:
    return len(key) == 32 and all(digit in "0123456789abcdef" for digit in key)


def _are_texts(values: Iterable[Any]) -> bool:
    return all(isinstance(each, str) for each in values)


def _is_entry(key: str, entry: Any) -> bool:
    return (
        _is_key(key)
        and isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and isinstance(entry.get("tags"), list)
        and _are_texts(entry["tags"])
    )

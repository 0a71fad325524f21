"""JSON and TOML: written so that any program can read it, and read so that no file can do harm."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["TOO_DEEP", "TOO_LONG", "compact_json", "json_text", "parse_json", "parse_toml", "plain", "read_problem"]

MOST_LEVELS = 100
"""Lists and tables inside one another that are read: every later walk through the document recurses as deep."""
MOST_DIGITS = 300
"""Of a whole number that is read: a float holds no more, and every reader would have to think of it."""
_MANY_DIGITS = re.compile(rf"\d(?:_?\d){{{MOST_DIGITS}}}")


def plain(value: Any) -> Any:
    """The same document out of JSON's own kinds: paths as texts, arrays as lists, NaN as null, infinities as "inf"."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def json_text(document: Any) -> str:
    """The document as indented, strict JSON, without a line end."""
    return json.dumps(plain(document), indent=2, ensure_ascii=False, allow_nan=False)


def compact_json(document: Any) -> str:
    """The document as strict JSON on one line without spaces, for the metadata of a file of weights."""
    return json.dumps(plain(document), separators=(",", ":"), allow_nan=False)


def parse_json(text: str | bytes, *, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The document of a JSON text; every file that a user may name is read through here.

    Args:
        text: the text; bytes are UTF-8, UTF-16 or UTF-32.
        object_pairs_hook: as `json.loads` takes it.

    Raises:
        json.JSONDecodeError: not JSON, nested more than 100 deep, or with a whole number of more than 300 digits, which
            no float holds.
        UnicodeDecodeError: bytes that are no text.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    try:
        # Only where there is a long run of digits: a hook for every number takes longer than all the rest.
        parse_int = _whole_number if _MANY_DIGITS.search(text) else None
        document = json.loads(text, object_pairs_hook=object_pairs_hook, parse_int=parse_int)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except RecursionError:
        raise json.JSONDecodeError(TOO_DEEP, "", 0) from None
    except ValueError as error:
        # Python reads no whole number of more than some thousand digits.
        raise json.JSONDecodeError(str(error).partition(";")[0], "", 0) from error
    if _too_deep(document):
        raise json.JSONDecodeError(TOO_DEEP, "", 0)
    return document


def parse_toml(text: str) -> dict[str, Any]:
    """The document of a TOML text; every file or option that a user may write is read through here.

    Raises:
        tomllib.TOMLDecodeError: not TOML, nested more than 100 deep, with a value that is none, or with a number of
            more than 300 digits.
    """
    # Tables by dotted keys, which take a time that grows with the square of their number.
    if re.search(rf"""^[ \t\[]*(?:[\w'"-]+[ \t]*\.[ \t]*){{{MOST_LEVELS}}}""", text, re.MULTILINE):
        raise tomllib.TOMLDecodeError(TOO_DEEP)
    if _MANY_DIGITS.search(text):
        raise tomllib.TOMLDecodeError(TOO_LONG)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError(TOO_DEEP) from None
    except ValueError as error:
        raise tomllib.TOMLDecodeError(str(error).partition(";")[0]) from error
    if _too_deep(document):
        raise tomllib.TOMLDecodeError(TOO_DEEP)
    return document


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_problem(error: Exception) -> str:
    """Why a text could not be read, in a few words: `not text in UTF-8 (byte 3)`, `damaged JSON (line 2: ...)`.

    Args:
        error: of decoding, or of `parse_json`; of another one its own words.
    """
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8 (byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        return f"damaged JSON (line {error.lineno}: {error.msg})"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"without {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0]


TOO_LONG = f"a number of more than {MOST_DIGITS} digits"
TOO_DEEP = f"nested more than {MOST_LEVELS} deep"


def _too_deep(document: Any) -> bool:
    """Whether lists and tables stand more than `MOST_LEVELS` deep in one another; does not recurse itself."""
    level = [document]
    for _ in range(MOST_LEVELS):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(item for item in value.values() if isinstance(item, (dict, list)))
            elif isinstance(value, list):
                inner.extend(item for item in value if isinstance(item, (dict, list)))
        if not inner:
            return False
        level = inner
    return True

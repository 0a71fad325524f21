"""JSON that any program can read, and files that no program should have to."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import binderclip
from binderclip.documents import compact_json, json_text, parse_json, parse_toml, plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_everything_becomes_strict_json() -> None:
    document = {1: Path("a/b"), "x": [math.inf, -math.inf, math.nan, 0.5], "t": torch.tensor([1.0, math.nan])}
    expected = {"1": "a/b", "x": ["inf", "-inf", None, 0.5], "t": [1.0, None]}

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(json_text(document), parse_constant=refuse) == expected
    assert plain((np.float64(2.0), np.arange(2))) == [2.0, [0, 1]]


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


def test_compact_json_is_one_strict_line() -> None:
    document = {"a": (1, 2), "b": {"ä": None, "c": math.nan}}
    assert compact_json(document) == r'{"a":[1,2],"b":{"\u00e4":null,"c":null}}'
    assert parse_json(compact_json(document)) == parse_json(json_text(document))


def test_a_hundred_levels_are_read() -> None:
    assert parse_json(nested(100)) == json.loads(nested(100))
    assert parse_json(b'{"a": [1, {"b": NaN}]}')["a"][0] == 1
    assert parse_json('{"a": 1, "a": 2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]
    # The document is a table itself.
    assert parse_toml(f"a = {nested(99)}") == {"a": json.loads(nested(99))}


@pytest.mark.parametrize("levels", [101, 900, 3_000, 200_000])
def test_a_file_cannot_exhaust_the_stack(levels: int) -> None:
    for text in (nested(levels), '{"a":' * levels + "1" + "}" * levels, "[" * levels):
        with pytest.raises(json.JSONDecodeError):
            parse_json(text)
    keys = ".".join("a" * levels)
    for text in (f"a = {nested(levels)}", f"{keys} = 1", f"[{keys}]", "a = " + "{b = " * levels + "1" + "}" * levels):
        with pytest.raises(tomllib.TOMLDecodeError):
            parse_toml(text)


def test_numbers_of_thousands_of_digits_are_refused_like_damage() -> None:
    with pytest.raises(json.JSONDecodeError, match="digits"):
        parse_json("9" * 5000)
    with pytest.raises(tomllib.TOMLDecodeError, match="digits"):
        parse_toml("a = " + "9" * 5000)


def test_every_reader_goes_through_here() -> None:
    """Files of the user's are read with the guard; what is left reads the package's own text, or its own output."""
    root = Path(binderclip.__file__).parent
    found = {
        (str(path.relative_to(root)), line.strip())
        for path in root.rglob("*.py")
        if path.name != "documents.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\b(json|tomllib)\.loads?\(", line) and not re.search(r"loads\((json\.dumps|\w+\.to_str)\(", line)
    }
    own = {
        "papers.py",
        "adapt/zero_shot/descriptions.py",
        "adapt/zero_shot/contexts.py",
        "models/files/registry.py",
        "train/stages/private.py",
    }
    assert {path for path, _ in found} == own
    assert len(found) == 6, found


@pytest.mark.parametrize("digits", [301, 400, 5000])
def test_a_number_that_no_float_holds_is_refused(digits: int) -> None:
    for text in (f"[{'9' * digits}]", f'{{"a": -{"9" * digits}}}'):
        with pytest.raises(json.JSONDecodeError):
            parse_json(text)
        with pytest.raises(json.JSONDecodeError):
            parse_json(text.encode("utf-16"))
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml(f"a = {'9' * digits}")
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml(f"a = {'9_' * digits}9")


def test_long_texts_and_fractions_are_no_such_numbers() -> None:
    text = json.dumps({"hash": "1" * 500, "count": 10**299, "share": 0.5})
    assert parse_json(text) == json.loads(text)
    assert math.isfinite(float(parse_json(f"[{'9' * 300}]")[0]))
    assert parse_json("[0." + "3" * 400 + "]") == [1 / 3]

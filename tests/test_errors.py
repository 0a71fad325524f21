"""Messages stay short, whatever a user wrote."""

from __future__ import annotations

import pickle

import pytest

from binderclip import errors
from binderclip.errors import (
    BinderclipError,
    MissingDependency,
    UsageError,
    errors_behind,
    short_values,
    was_interrupted,
)  # fmt: skip
from binderclip.files import disk_is_full

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BinderclipError)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    ["x" * 5000, repr("a b " * 1250), "'" + "many words " * 400 + "end'", "/".join(["folder"] * 700)],
    ids=["word", "quoted", "quoted words", "path"],
)
def test_long_values_are_shortened_in_every_error(kind: type[BinderclipError], value: str) -> None:
    said = str(kind(f"--labels {value}: give fewer of them"))
    assert said.startswith(f"--labels {value[:90]}")
    assert said.endswith(": give fewer of them")
    assert " ... " in said
    assert len(said) < 250


def test_what_people_can_read_is_left_alone() -> None:
    listed = "the preset's parts are " + ", ".join(f"'part{n}'" for n in range(60)) + "; the model's are others"
    for said in (listed, "", "it's " + "quite " * 60 + "the model's own", "'" + "x" * 150 + "'", "two\nlines"):
        assert short_values(said) == said
    assert str(UsageError("a", 3)) == "('a', 3)"


def test_errors_travel_between_processes() -> None:
    for kind in (UsageError, MissingDependency):
        again = pickle.loads(pickle.dumps(kind("x" * 5000)))
        assert type(again) is kind
        assert str(again) == str(kind("x" * 5000))


def test_ctrl_c_is_found_behind_other_errors() -> None:
    hidden = RuntimeError("a library's own way to say it")
    hidden.__context__ = ImportError()
    hidden.__context__.__cause__ = KeyboardInterrupt()
    assert was_interrupted(hidden)
    assert was_interrupted(KeyboardInterrupt())
    assert not was_interrupted(ValueError())


def test_an_error_that_stands_behind_itself_has_an_end() -> None:
    """As where a library wraps an error, and what catches the wrapper raises the first one again."""
    first, wrapper = ValueError("first"), RuntimeError("wrapper")
    wrapper.__cause__, first.__context__ = first, wrapper
    assert list(errors_behind(wrapper)) == [wrapper, first]
    assert list(errors_behind(first)) == [first, wrapper]
    assert not was_interrupted(wrapper)
    assert not disk_is_full(first)
    assert list(errors_behind(None)) == []

"""What `click` is asked: prompts as values and as text, and which belong together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.tasks import click
from binderclip.tasks.arguments.points import numbers_text, parse_point

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS, NUMBERS)
def test_the_text_of_a_point_is_the_point(x: float, y: float) -> None:
    assert parse_point(numbers_text((x, y)), "--point") == (x, y)


def test_prompts_are_written_as_people_write_them() -> None:
    request = click.request(image="a.png", point=[(310, 120.5)], outside=[[1, 2]], box=[0, 0, 9, 9])
    assert request.argv() == ["a.png", "--point", "310,120.5", "--not", "1,2", "--box", "0,0,9,9"]
    assert click.request.from_document(request.as_document()) == request
    line = click.request(image="a.png", session="s.json", scribble=[[(1, 2), (3, 4)]], cut=False)
    assert line.argv() == ["a.png", "--scribble", "1,2 3,4", "--session", "s.json", "--no-cut"]
    assert click.request.from_document(line.as_document()) == line


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give --point x,y or --box"),
        ({"undo": 1, "point": [(1, 2)]}, "go with --session"),
        ({"point": [(1, 2)], "out": "mask.jpg"}, "a mask is saved as PNG"),
        ({"box": (5, 5, 5, 9)}, "must be x0,y0,x1,y1"),
        ({"point": [(float("nan"), 2)]}, "finite number"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        click.request(image="a.png", **fields)

"""Requests: one set of fields behind documents, lines of shell and Python, and calls."""

from __future__ import annotations

import inspect
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from binderclip import tasks
from binderclip.errors import UsageError
from binderclip.tasks import Option, Request, VerbTask, attack
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.events import Started, start
from binderclip.tasks.fields import Labels
from binderclip.tasks.verbs import parts


def _split(text: str) -> list[str]:
    return text.split(",")


class CountRequest(Request):
    """Count letters."""

    task: ClassVar[str] = "count"
    words_: Annotated[list[str], Option("Words.", positional=True)]
    letters: Annotated[list[str], Option("Letters.", ("--letters", "-l"), parse=_split, write=",".join)]
    most: Annotated[int, Field(ge=1, le=9), Option("Most.")] = 3
    weight: Annotated[float, Field(ge=0, le=1), Option("Weight.")] = 1.0
    case: Annotated[str, Option("Case.", choices=lambda: ("lower", "upper"))] = "lower"
    without: Annotated[list[str], Option("Left out. Repeat for several.")] = []
    loud: Annotated[bool, Option("Say it.")] = True


def _count(request: CountRequest) -> int:
    start("counting")
    return min(request.most, sum(word.count(letter) for word in request.words_ for letter in request.letters))


count = VerbTask(CountRequest, _count)
ASKED: dict[str, Any] = {"words_": ["banana", "-a"], "letters": ["a", "n"], "most": 4, "loud": False}


def test_a_task_is_a_function_and_says_what_it_does() -> None:
    events: list[Any] = []
    assert count(**ASKED) == 4
    assert count.run(CountRequest(**ASKED), progress=events.append) == 4
    assert events == [Started("counting")]


def test_the_parts_of_a_task_are_imported_when_they_are_first_used() -> None:
    loaded: list[str] = []
    later = VerbTask.later(
        lambda: loaded.append("request") or CountRequest,  # type: ignore[func-returns-value]
        lambda: loaded.append("run") or _count,  # type: ignore[func-returns-value]
    )
    assert not loaded
    assert inspect.getdoc(later) == inspect.getdoc(CountRequest) == "Count letters."
    assert set(loaded) == {"request"}
    assert later(**ASKED) == count(**ASKED) == 4
    assert (inspect.getdoc(VerbTask) or "").startswith("A task as a function")


def test_a_task_is_asked_what_its_verb_is_and_loads_no_other() -> None:
    program = (
        "import sys; from binderclip import tasks; task = tasks.geometry.request.task; print(task);"
        "print(sorted({name.split('.')[3] for name in sys.modules if name.startswith('binderclip.tasks.verbs.')}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["geometry", "['functions', 'geometry', 'parts']"]
    named = {name: task for name in tasks.__all__ if isinstance(task := getattr(tasks, name), VerbTask)}
    assert {name: task.request.task.replace(" ", "_").replace("-", "_") for name, task in named.items()} == {
        name: name for name in parts.__all__ if not name.endswith("Request")
    }


def test_only_what_is_no_default_is_said() -> None:
    assert CountRequest(words_=["a"], letters=["a"], most=3).as_document() == {
        "task": "count", "words_": ["a"], "letters": ["a"],
    }  # fmt: skip
    line = shlex.split(CountRequest(**ASKED).shell())
    assert line == ["binderclip", "count", "--letters", "a,n", "--most", "4", "--no-loud", "--", "banana", "-a"]


def test_paths_become_text_and_lists_are_repeated_options() -> None:
    request = CountRequest(words_=[Path("a.png"), "b"], letters=("a",), without=[Path("x"), "y"])
    assert (request.words_, request.letters, request.without) == (["a.png", "b"], ["a"], ["x", "y"])
    assert request.argv() == ["a.png", "b", "--letters", "a", "--without", "x", "--without", "y"]


def test_some_fields_are_replaced_and_checked_again() -> None:
    request = CountRequest(**ASKED).replaced(most=2, loud=True)
    assert request == CountRequest(words_=ASKED["words_"], letters=ASKED["letters"], most=2)
    with pytest.raises(UsageError, match="--most 12"):
        request.replaced(most=12)


class PairRequest(Request):
    """What is hard to write on a command line."""

    task: ClassVar[str] = "pair"
    file: Annotated[str, Option("File.", positional=True)]
    pair: Annotated[tuple[str, str] | None, Option("One and another.", metavar="ONE OTHER")] = None
    labels: Labels | None = None


WORD = st.text(min_size=1, max_size=5).map(str.strip).filter(bool)


@given(st.lists(WORD, min_size=1, max_size=3, unique=True), st.tuples(WORD, WORD), WORD)
def test_any_word_comes_through_the_command_line(labels: list[str], pair: tuple[str, str], word: str) -> None:
    asked = PairRequest(file=word, labels=labels, pair=pair)
    words = asked.argv()
    options = ["--pair", *pair, "--labels", words[words.index("--labels", 3) + 1]]
    assert words == ([*options, "--", word] if word.startswith("-") else [word, *options])
    assert parse_labels(options[-1]) == labels
    assert PairRequest.from_document(json.loads(json.dumps(asked.as_document()))) == asked


def test_labels_are_looked_at_wherever_they_come_from() -> None:
    assert PairRequest(file="a", labels=["red, round ", "b"]).labels == ["red, round", "b"]
    with pytest.raises(UsageError, match="--labels names 'a' more than once"):
        PairRequest(file="a", labels=["a", "a "])


def test_a_document_gives_the_same_request() -> None:
    request = CountRequest(**ASKED)
    assert CountRequest.from_document(request.as_document()) == request
    # What --json prints holds one.
    assert CountRequest.from_document({"count": 4, "request": request.as_document()}) == request


def test_the_line_of_python_asks_the_same() -> None:
    asked = attack.request(model="small", images=["it's.png"], labels=["a cat", "b"], eps="8/255", out="there")
    line = asked.python()
    call = line.partition("print(attack(")[2].removesuffix(").as_dict())")
    assert line.startswith("from binderclip.tasks import attack; ")
    assert eval(f"attack.request({call})", {"attack": attack}) == asked


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"most": 12}, "--most 12: input should be less than or equal to 9"),
        ({"most": "many"}, "--most 'many': input should be a valid integer"),
        ({"colour": "red"}, "count has no field 'colour': there are words_, letters, most, weight, case, "),
        ({"letters": None}, "--letters None"),
        ({"weight": float("nan")}, "--weight nan: input should be a finite number"),
        ({"case": "title"}, "--case 'title' is unknown: one of lower, upper"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        CountRequest(**{**ASKED, **fields})


def test_documents_of_others_are_refused() -> None:
    with pytest.raises(UsageError, match="of 'attack', not of count"):
        CountRequest.from_document({"task": "attack", "words_": []})
    with pytest.raises(UsageError, match="count needs words_"):
        CountRequest.from_document({"letters": ["a"]})
    with pytest.raises(UsageError, match="one JSON object"):
        CountRequest.from_document([1])


def test_a_request_does_not_change() -> None:
    with pytest.raises(Exception, match="frozen"):
        CountRequest(**ASKED).most = 2  # type: ignore[misc]

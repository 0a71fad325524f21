"""Commands made from requests, and `--from`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import typer
import typer.main
from pydantic import Field

from binderclip.cli.shared.task_command import add_task, with_request
from binderclip.cli.shared.verb import VerbApp
from binderclip.errors import UsageError
from binderclip.tasks import Option, Request, VerbResult, VerbTask, attack

Command = Callable[..., Any]
ASKED = {"task": "attack", "model": "small", "images": ["-odd.png"], "labels": ["a", "b"], "seed": 3}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(ASKED), encoding="utf-8")
    return path


@pytest.mark.parametrize("join", [False, True])
def test_the_document_stands_for_its_words_and_options_beside_it_come_later(document: Path, join: bool) -> None:
    given = [f"--from={document}"] if join else ["--from", str(document)]
    words = with_request(["--seed", "5", *given, "--json"], attack)
    assert words == ["--labels", "a,b", "--seed", "3", "--seed", "5", "--json", "--", "small", "-odd.png"]
    assert with_request(["small", "x.png"], attack) == ["small", "x.png"]


def test_mistakes_in_documents_are_said(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    for text, message in (
        ("{", "not a JSON document"),
        ('{"task": "segment"}', "this is a request of 'segment', not of attack"),
        ('{"model": "small", "images": ["a.png"], "labels": ["a", "b"], "eps": 7}', "must be above 0 and at most 1"),
        ('{"model": "small", "images": [], "labels": ["a", "b"]}', "IMAGES|images"),
    ):
        path.write_text(text, encoding="utf-8")
        done = command("attack", "--from", path)
        assert (done.code, any(part in done.err for part in message.split("|"))) == (2, True), done.err
    done = command("attack", "--from", tmp_path / "none.json")
    assert (done.code, "there is no file" in done.err) == (2, True)


def test_a_missing_name_behind_from_is_an_error(command: Command) -> None:
    for words, message in ((("--from",), "requires an argument"), (("--from", " "), "--from is empty")):
        done = command("attack", *words)
        assert (done.code, message in done.err) == (2, True), done.err


def _sides(text: Any) -> Any:
    return tuple(int(part) for part in text.split(",")) if isinstance(text, str) else text


def _text_of_sides(sides: tuple[int, ...]) -> str:
    return ",".join(map(str, sides))


class MeasureRequest(Request):
    """Measure pictures."""

    task: ClassVar[str] = "measure"
    pictures: Annotated[list[str], Option("Pictures.", positional=True)] = []
    batch_size: Annotated[int, Field(ge=1, le=9), Option("At once.")] = 2
    weight: Annotated[float, Field(ge=0, le=1), Option("Weight.", panel="Weights", metavar="NUMBER")] = 0.5
    state: Annotated[list[str], Option("Phrase. Repeat for several.")] = []
    sides: Annotated[tuple[int, ...] | None, Option("Sides.", parse=_sides, write=_text_of_sides)] = None
    point: Annotated[list[tuple[int, ...]], Option("Points.", parse=_sides, write=_text_of_sides, each=True)] = []
    words: Annotated[bool, Option("Whether words count.")] = True
    npy: Annotated[bool, Option("Save arrays.", ("--npy",))] = False
    out: Annotated[str | None, Option("File.", ("--out", "-o"), output=True)] = None
    device: Annotated[str, Option("Where.")] = "cpu"


@dataclass(frozen=True)
class MeasuredPictures(VerbResult):
    request: MeasureRequest
    title: str = "pictures"

    @property
    def complete(self) -> bool:
        return "broken.png" not in self.request.pictures

    @property
    def leads(self) -> bool:
        return self.request.device != "second"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return ("image",), [(path,) for path in self.request.pictures]

    def as_dict(self) -> dict[str, Any]:
        return {"request": self.request.as_document()}


measure = VerbTask(MeasureRequest, MeasuredPictures)


def command_of(seen: list[MeasureRequest]) -> Any:
    """The command of `measure`, which notes what it was asked."""

    def show(result: MeasuredPictures, json: bool) -> None:
        seen.append(result.request)

    app = VerbApp()
    add_task(app, measure, show)
    return typer.main.get_command(app)


ALL: dict[str, Any] = {
    "pictures": ["a.png", "-b.png"], "batch_size": 3, "weight": 0.25, "state": ["{} with a crack", "-1"],
    "sides": (2, 3), "point": [(1, 2), (-3, 4)], "words": False, "npy": True, "out": "there", "device": "cuda",
}  # fmt: skip


@pytest.mark.parametrize("name", [None, *ALL])
def test_words_of_a_request_are_parsed_to_the_same(name: str | None, tmp_path: Path) -> None:
    asked = MeasureRequest(**(ALL if name is None else {name: ALL[name]}))
    seen: list[MeasureRequest] = []
    command = command_of(seen)
    command.main([*asked.argv()], standalone_mode=False)
    path = tmp_path / "request.json"
    path.write_text(json.dumps(asked.as_document()), encoding="utf-8")
    command.main(["--from", str(path)], standalone_mode=False)
    assert seen == [asked, asked]


def test_help_has_panels_names_and_the_order_of_the_fields() -> None:
    command = command_of([])
    names = [param.name for param in command.params if "completion" not in param.name]
    own = [name for name in ALL if name not in ("weight", "device")]
    assert names == [*own, "from_", "device", "json", "weight", "overwrite"]
    weight = next(param for param in command.params if param.name == "weight")
    assert (weight.rich_help_panel, weight.metavar) == ("Weights", "NUMBER")
    assert [param.opts + param.secondary_opts for param in command.params if param.name in ("words", "npy")] == [
        ["--words", "--no-words"], ["--npy"],
    ]  # fmt: skip


def test_what_could_not_be_used_is_an_exit_code_and_one_process_of_several_speaks() -> None:
    seen: list[MeasureRequest] = []
    command = command_of(seen)
    assert command.main(["a.png"], standalone_mode=False) == 0
    assert command.main(["a.png", "broken.png"], standalone_mode=False) == 1
    assert command.main(["a.png", "--device", "second"], standalone_mode=False) == 0
    assert [request.device for request in seen] == ["cpu", "cpu"]


def test_a_fraction_that_is_no_number_is_refused() -> None:
    for value in ("nan", "2"):
        with pytest.raises(typer.BadParameter):
            command_of([]).main(["--weight", value], standalone_mode=False)
    with pytest.raises(UsageError, match="--batch-size 12"):
        MeasureRequest(batch_size=12)


class RouteRequest(Request):
    """A verb with a `--from` of its own."""

    task: ClassVar[str] = "route"
    document_option: ClassVar[str] = "--request"
    start: Annotated[tuple[int, ...], Option("Begin.", ("--from",), parse=_sides, write=_text_of_sides)]
    to: Annotated[list[tuple[int, ...]], Option("Ends.", parse=_sides, write=_text_of_sides, each=True)]


@dataclass(frozen=True)
class Route(VerbResult):
    request: RouteRequest
    title: str = "route"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        return ("start",), [(self.request.start,)]

    def as_dict(self) -> dict[str, Any]:
        return {"request": self.request.as_document()}


def test_a_verb_with_a_from_of_its_own_takes_the_document_by_another_option(tmp_path: Path) -> None:
    seen: list[RouteRequest] = []
    app = VerbApp()
    add_task(app, VerbTask(RouteRequest, Route), lambda result, json: seen.append(result.request))
    command = typer.main.get_command(app)
    asked = RouteRequest(start=(1, 2), to=[(3, 4), (5, 6)])
    path = tmp_path / "request.json"
    path.write_text(json.dumps(asked.as_document()), encoding="utf-8")
    for words in (asked.argv(), ["--request", str(path)], ["--request", str(path), "--from", "7,8"]):
        command.main(words, standalone_mode=False)
    assert seen == [asked, asked, asked.replaced(start=(7, 8))]


def test_a_repeated_option_may_be_required() -> None:
    app = VerbApp()
    add_task(app, VerbTask(RouteRequest, Route))
    (to,) = [param for param in typer.main.get_command(app).params if param.name == "to"]
    assert to.required
    assert to.multiple

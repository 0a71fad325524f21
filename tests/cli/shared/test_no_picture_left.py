"""Pictures that cannot be used, in every verb that takes pictures: one rule, whichever verb meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from binderclip.errors import DataError
from binderclip.files import make_folder
from binderclip.tasks.events import LeftOut, listening
from binderclip.tasks.files.inputs import skip_pictures
from binderclip.tasks.files.outputs import leaving_no_empty_folder, note_record, output_folder

from ..hostile import GOOD, make_world, verbs

Command = Callable[..., Any]
PICTURES = ("images", "image", "slices", "folder")
"""What verbs call the argument that names their pictures."""
WORLD = "../world/"
NAMED = frozenset(WORLD + name for name in ("good.png", "pictures", "classes", "fakes"))
"""Words of a call that name pictures."""
VARIANTS = [
    (("quality", "../world/pictures", "--against", "../world/pictures"), 0),
    (("quality", "../world/pictures", "--against", "../world/pictures"), 2),
    (("edges", "../world/pictures", "--method", "sobel", "--truth", "../world/pictures", "--out", "made"), 4),
    (("anomaly", "../world/pictures", "--normal", "../world/pictures", "--model", "small", "--out", "made"), 2),
    (("detect", "../world/pictures", "--maps", "made"), 0),
    (("segment", "../world/pictures", "--labels", "cat,dog", "--model", "small", "--compare", "sheet.png"), 0),
    (("explain", "../world/pictures", "--label", "cat", "--model", "small", "--method", "saliency,gradcam"), 0),
]
"""Other ways to call verbs, of which each has its own code, and which of the words is replaced."""
UNOPENED = frozenset([("curate",)])
"""Verbs whose call compares files, not what is in them."""
SERVERS = frozenset([("workbench",)])
LEARNED = {("enhance",): ["made/enhanced.json", "made/enhancer.safetensors"]}
"""What a call learned from other pictures before it opened these, which is kept."""


def calls() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Every verb that takes pictures, and words behind it that would work.

    A verb without a call of its own gets one: a picture, and a value for each option that has to be given.
    """
    for verb, params in verbs().items():
        names = {each.name for each in params if each.param_type_name == "argument"}
        if verb in GOOD:
            yield verb, tuple(GOOD[verb])
        elif names & set(PICTURES) and not needs_a_file(params):
            required = [each for each in params if each.required and each.param_type_name == "option"]
            options = [word for each in required for word in (max(each.opts, key=len), value_of(verb, each))]
            yield verb, (f"{WORLD}good.png", *options)


def needs_a_file(params: list[Any]) -> bool:
    """Whether what a verb needs besides its pictures has to be trained first, as the head of `segment-head` has."""
    return any(each.required and each.name in ("head", "weights") for each in params)


def value_of(verb: tuple[str, ...], option: Any) -> str:
    """A value of an option: the first of its choices, where it has some."""
    from binderclip import tasks
    from binderclip.tasks.request import option_of

    request = getattr(tasks, "_".join(verb).replace("-", "_")).request
    choices = option_of(request.model_fields[option.name]).choices
    return choices()[0] if choices is not None else "made"


def cases() -> Iterator[Any]:
    """(verb, its words, which of them names pictures)."""
    several = [(verb, words, place) for verb, words in calls() for place, word in enumerate(words) if word in NAMED]
    for verb, words, place in [*several, *(((words[0],), words[1:], place) for words, place in VARIANTS)]:
        if verb not in SERVERS:
            option = words[place - 1] if place and words[place - 1].startswith("--") else str(place)
            yield pytest.param(verb, words, place, id="-".join([*verb, option.strip("-")]))


CASES = list(cases())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that calls name; and `some`, two pictures that can be used and one that is cut."""
    world = tmp_path_factory.mktemp("left") / "world"
    make_world(world)
    (world / "some").mkdir()
    for name in ("a", "b"):
        picture = Image.radial_gradient("L").resize((96, 80)).convert("RGB")
        picture.paste((200, 30, 30), (20, 20, 50, 60 if name == "a" else 50))
        picture.save(world / "some" / f"{name}.png")
    (world / "some" / "cut.png").write_bytes((world / "some" / "a.png").read_bytes()[:300])
    return world


def called(command: Command, world: Path, verb: tuple[str, ...], words: tuple[str, ...], place: int, name: str) -> Any:
    """Call a verb with other pictures in one place."""
    placed = [*words[:place], WORLD + name, *words[place + 1 :]]
    return command(*verb, *(word.replace(WORLD, f"{world}/") for word in placed))


def left_behind(folder: Path) -> list[str]:
    """Files that a call made in its folder, and empty folders."""
    paths = [path for path in folder.rglob("*") if path.is_file() or not any(path.iterdir())]
    return sorted(str(path.relative_to(folder)) for path in paths if path.relative_to(folder).parts[0] != "cache")


def test_every_verb_that_takes_pictures_is_called() -> None:
    for verb, params in verbs().items():
        names = {each.name for each in params if each.param_type_name == "argument"}
        if names & set(PICTURES) and verb not in SERVERS and not needs_a_file(params):
            assert any(case.values[0] == verb for case in CASES), f"{verb}: its call in GOOD names none of {NAMED}"
    assert len({case.values[0] for case in CASES}) > 30


@pytest.mark.parametrize("name", ["corrupt.png", "junk", "empty"])
@pytest.mark.parametrize(("verb", "words", "place"), CASES)
def test_where_no_picture_is_left_it_is_said_and_nothing_stays(
    command: Command, world: Path, tmp_path: Path, verb: tuple[str, ...], words: tuple[str, ...], place: int, name: str
) -> None:
    if verb in UNOPENED and name == "junk":
        pytest.skip("the pictures are not opened")
    done = called(command, world, verb, words, place, name)
    assert done.code in (1, 2), done.err
    assert done.out == ""
    lines = done.err.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert lines[-1].startswith("error: ")
    assert name in lines[-1]
    assert left_behind(tmp_path) in ([], LEARNED.get(verb))


@pytest.mark.parametrize(
    ("verb", "words", "place"), [case for case in CASES if case.values[2] == 0 and case.values[0] not in UNOPENED]
)
def test_where_some_are_left_there_is_a_result(
    command: Command, world: Path, tmp_path: Path, verb: tuple[str, ...], words: tuple[str, ...], place: int
) -> None:
    argument = next(each for each in verbs()[verb] if each.param_type_name == "argument")
    done = called(command, world, verb, words, place, "some")
    if argument.name not in PICTURES:
        assert done.code in (0, 1)  # classes, or pairs, of which pictures alone are none
    elif argument.name == "image":
        assert (done.code, "some is a folder; this verb takes one image file" in done.err) == (2, True), done.err
    else:
        assert done.code == 0, done.err
        assert "skipped 1 file:" in done.err
        assert "cut.png: " in done.err
        assert done.out.strip() or left_behind(tmp_path)


@pytest.mark.parametrize(("verb", "words", "place"), [case for case in CASES if case.values[2] == 0])
def test_a_name_that_is_not_utf_8_is_refused_by_all(
    command: Command, world: Path, tmp_path: Path, verb: tuple[str, ...], words: tuple[str, ...], place: int
) -> None:
    argument = next(each for each in verbs()[verb] if each.param_type_name == "argument")
    done = called(command, world, verb, words, place, "caf\udce9.png")
    assert done.code in (1, 2)
    takes_folders = argument.name not in ("images", "image", "slices") or "is no folder" in done.err
    assert takes_folders or "caf\\xe9.png: its name is not UTF-8" in done.err
    assert left_behind(tmp_path) == []


def test_the_rule_by_itself() -> None:
    events: list[Any] = []
    bad = [("a.png", "a.png: damaged"), ("b.png", "too small")]
    with listening(events.append):
        skip_pictures([], left=[])
        skip_pictures(bad, left=["c.png"])
        assert events == [LeftOut(*each) for each in bad]
        with pytest.raises(DataError, match=r"^a\.png: damaged; give another picture$"):
            skip_pictures(bad[:1], left=[])
        assert len(events) == 2  # the error says it all
        with pytest.raises(DataError, match=r"^none of 2 slices can be used: a\.png: damaged; give at least one that"):
            skip_pictures(bad, left=(), unit="slice")
        assert len(events) == 4


def test_only_what_was_made_and_holds_no_result_is_removed(tmp_path: Path) -> None:
    kept = make_folder(tmp_path / "kept")

    @leaving_no_empty_folder()
    def interrupted(folder: Path, record: bool, result: bool) -> None:
        output_folder(folder)
        if record:
            (folder / "record.json").touch()
            note_record(folder / "record.json")
        if result:
            (folder / "a.png").touch()
        raise KeyboardInterrupt

    def fail(folder: Path, *, record: bool = False, result: bool = False) -> bool:
        with pytest.raises(KeyboardInterrupt):
            interrupted(folder, record, result)
        return folder.exists()

    assert fail(kept)
    assert fail(kept, record=True)
    assert not fail(tmp_path / "new" / "below")
    assert not (tmp_path / "new").exists()
    assert not fail(kept / "below", record=True)
    assert fail(tmp_path / "full", record=True, result=True)
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["a.png", "record.json"]
    with leaving_no_empty_folder():
        output_folder(tmp_path / "done")
    assert (tmp_path / "done").is_dir()

"""Objects by steps: taken back, kept in a file, read from COCO; their masks are the segmenter's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binderclip.data.formats.run_lengths import run_lengths
from binderclip.errors import DataError, UsageError
from binderclip.segment.clicks import (
    ObjectSession,
    ObjectStep,
    PictureObjects,
    PointedObject,
    object_mask,
    read_object_session,
    write_object_session,
)
from binderclip.segment.clicks.object_steps import MOST_OBJECTS
from binderclip.segment.promptable import InteractiveSession, PromptModel, PromptNetwork

SETTINGS = {"side": 64, "width": 32, "heads": 2, "blocks": 1, "layers": 1}


def point(number: int, x: float, y: float, positive: bool = True) -> ObjectStep:
    return ObjectStep("point", number, point=(x, y), positive=positive)


def steps_of(picture: PictureObjects, choices: list[int]) -> None:
    """Steps that are possible, by arbitrary numbers."""
    for choice in choices:
        there = [one.number for one in picture.objects]
        number = there[choice % len(there)] if there and choice % 3 else picture.next_number
        kind = choice // 3 % 5
        if number == picture.next_number or kind == 0:
            picture.do(point(number, choice % 60, choice % 40))
        elif kind == 1:
            picture.do(ObjectStep("box", number, box=(1.0, 2.0, 10.0 + choice % 9, 20.0)))
        elif kind == 2:
            picture.do(ObjectStep("name", number, name=f"name {choice}"))
        elif kind == 3:
            picture.do(ObjectStep("delete", number))
        else:
            picture.do(point(number, choice % 50, choice % 30, False))


@given(st.lists(st.integers(0, 999), max_size=25), st.integers(0, 25))
def test_every_step_is_taken_back_and_done_again(choices: list[int], back: int) -> None:
    picture = PictureObjects((40, 60))
    states = [[]]
    for choice in choices:
        steps_of(picture, [choice])
        states.append(picture.objects)
    back = min(back, len(choices))
    for count in range(1, back + 1):
        picture.undo()
        assert picture.objects == states[-1 - count]
    kept = ObjectSession({"a.jpg": picture}, model="small-sam")
    for count in reversed(range(back)):
        picture.redo()
        assert picture.objects == states[-1 - count]
    assert len(picture.undone) == 0
    assert kept.count == len(states[-1])


@given(st.lists(st.integers(0, 999), max_size=15), st.integers(0, 5))
def test_a_session_comes_back_from_its_file_with_what_was_undone(
    tmp_path_factory: pytest.TempPathFactory, choices: list[int], back: int
) -> None:
    picture = PictureObjects((40, 60))
    steps_of(picture, choices)
    for _ in range(min(back, len(choices))):
        picture.undo()
    picture.hidden, picture.done = {one.number for one in picture.objects[:1]}, True
    path = tmp_path_factory.mktemp("session") / "s.json"
    write_object_session(ObjectSession({"sub/Vögel 1.jpg": picture, "b.jpg": PictureObjects((3, 3))}, "tiny"), path)
    again = read_object_session(path)
    # Where nothing was done, nothing is kept.
    assert again == ObjectSession({"sub/Vögel 1.jpg": picture}, "tiny")


def test_impossible_steps_change_nothing() -> None:
    picture = PictureObjects((40, 60))
    for step, message in (
        (point(1, 60, 3), "outside the picture of 60 x 40"),
        (point(1, 3, 3, False), "first click on the object"),
        (ObjectStep("box", 1, box=(5, 5, 5, 9)), "no area"),
        (ObjectStep("box", 1, box=(70, 5, 80, 9)), "outside the picture"),
        (ObjectStep("box", 1, box=(1, 5, float("inf"), 9)), "a box is"),
        (ObjectStep("name", 1, name="cup"), "there is no object 1"),
        (ObjectStep("delete", 4), "there is no object 4"),
        (point(10**12, 3, 3), "there is no object 1000000000000"),  # a colour of each number up to it would be made
        (ObjectStep("mask", 1, mask=(7,)), "run lengths of 7 pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            picture.do(step)
    assert picture.steps == []
    picture.do(point(1, 3, 3))
    with pytest.raises(UsageError, match="at most 100 characters"):
        picture.do(ObjectStep("name", 1, name="a\nb"))
    picture.do(ObjectStep("delete", 1))
    # Its number is not given again: what was saved under it would be another object's.
    with pytest.raises(UsageError, match="there is no object 1"):
        picture.do(point(1, 3, 3))
    assert picture.next_number == 2
    with pytest.raises(UsageError, match="nothing to redo"):
        picture.redo()
    for number in range(2, MOST_OBJECTS + 2):
        picture.do(point(number, 1, 1))
    with pytest.raises(UsageError, match="at most 255 objects"):
        picture.do(point(picture.next_number, 1, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format="binderclip objects 9"), "neither a session of clicks"),
        (lambda d: d.update(pictures={}), "pictures must be a list"),
        (lambda d: d["pictures"].append(d["pictures"][0]), "picture 2: a.jpg comes twice"),
        (lambda d: d["pictures"][0].pop("steps"), "picture 1: 'steps' is missing"),
        (lambda d: d["pictures"][0].update(size=[0, 4]), "picture 1: size"),
        (lambda d: d["pictures"][0]["steps"][0].update(at=[1e9, 2]), "picture 1: point 1e.09,2 is outside"),
        (lambda d: d["pictures"][0]["steps"][0].update(at=["1", 2]), "picture 1: '1' is not a number"),
        (lambda d: d["pictures"][0]["steps"][0].update(kind="guess"), "picture 1: a step has a kind"),
        (lambda d: d["pictures"][0]["steps"].append({"kind": "delete", "object": 9}), "there is no object 9"),
    ],
)
def test_a_session_that_was_damaged_is_named(tmp_path: Path, change: Any, message: str) -> None:
    picture = PictureObjects((40, 60))
    picture.do(point(1, 3, 3))
    document = ObjectSession({"a.jpg": picture}).document()
    change(document)
    path = tmp_path / "s.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=message):
        read_object_session(path)
    for text in ("{", "[]", '{"images": 3}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"s\.json is neither"):
            read_object_session(path)


@pytest.fixture(scope="module")
def segmenter() -> PromptModel:
    torch.manual_seed(0)
    return PromptModel(PromptNetwork(**SETTINGS), settings=SETTINGS, name="tiny").eval()


def test_masks_are_those_of_the_same_prompts(segmenter: PromptModel) -> None:
    picture = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    state = segmenter.encode(picture)
    session = InteractiveSession(segmenter, picture, feedback=False, state=state)
    session.click(20, 10)
    one = PointedObject(1, inside=((20.0, 10.0),))
    mask, certainty = object_mask(segmenter, state, one)
    np.testing.assert_array_equal(mask, session.mask.numpy())
    assert certainty == session.predicted_iou
    session.click(50, 30, positive=False)
    session.box(2, 2, 40, 30)
    several = PointedObject(1, inside=((20.0, 10.0),), outside=((50.0, 30.0),), box=(2.0, 2.0, 40.0, 30.0))
    mask, _ = object_mask(segmenter, state, several)
    np.testing.assert_array_equal(mask, session.mask.numpy())
    with pytest.raises(UsageError, match="nothing says where"):
        object_mask(segmenter, state, PointedObject(1, name="cup"))


def test_a_mask_of_another_program_stays_until_it_is_clicked(segmenter: PromptModel, tmp_path: Path) -> None:
    given = np.zeros((40, 60), dtype=bool)
    given[5:20, 10:44] = True
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
        "annotations": [{"id": 4, "image_id": 1, "category_id": 2, "segmentation": {
            "size": [40, 60], "counts": run_lengths(given)}}],
        "categories": [{"id": 2, "name": "cup"}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(document))
    picture = read_object_session(tmp_path / "coco.json").pictures["a.jpg"]
    (one,) = picture.objects
    assert (one.number, one.name) == (1, "cup")
    state = segmenter.encode(torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1)))
    mask, certainty = object_mask(segmenter, state, one)
    np.testing.assert_array_equal(mask, given)
    assert certainty is None
    # With a point the segmenter decides, and what was there is fed to it.
    asked = []

    class Watched:
        image_size, differentiable = segmenter.image_size, segmenter.differentiable
        encode = segmenter.encode

        def predict(self, state: Any, prompts: Any, *, multimask: bool = True) -> Any:
            asked.append((prompts, multimask))
            return segmenter.predict(state, prompts, multimask=multimask)

    picture.do(point(1, 20, 10))
    object_mask(Watched(), state, picture.objects[0])
    ((prompts, multimask),) = asked
    assert not multimask
    assert prompts.points.tolist() == [[[20, 10]]]
    fed = (prompts.masks[0] > 0).double()
    # Its share of the square that the decoder sees is the mask's share of the picture, but for its border.
    assert abs(float(fed.mean()) - given.mean()) < 0.03

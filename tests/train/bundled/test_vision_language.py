"""How `small-vlm` is made: what the scenes say, the start in closed form, and that a few steps lower the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.models import TinyVLM, load
from binderclip.train.bundled import vision_language as recipe


@pytest.fixture(scope="module")
def model() -> TinyVLM:
    torch.manual_seed(0)
    return TinyVLM(load("small"), tuple(SCENES15), **recipe.NETWORK).eval()


@pytest.fixture(scope="module")
def data(model):
    return recipe.asked(model, 3, 50, "train")


def test_cells_boxes_and_patches_are_those_of_the_scenes(data):
    made = scenes(
        3, 50, recipe.SIDE, vocabulary=vocabulary("scenes15", split="train"), objects=recipe.OBJECTS,
        area=recipe.AREA, occlusion=0.1, background=list(recipe.BACKGROUNDS),
    )  # fmt: skip
    assert (data.cells >= 0).sum(1).tolist() == [len(names) for names in made.names]
    classes = list(SCENES15)
    for number, names in enumerate(made.names):
        for slot, name in enumerate(names):
            box = made.boxes[number, slot] / 128
            torch.testing.assert_close(data.boxes[number, classes.index(name)], box)
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            assert data.cells[number, classes.index(name)] == 3 * int(3 * y) + int(3 * x)
    patch = made.semantic[7, 32:48, 64:80]  # row 2, column 4
    assert data.patches[7, 2 * 8 + 4] == patch.flatten().mode().values - 1


def test_the_start_in_closed_form_locates_and_steps_help(model, data):
    plain = recipe.accuracies(model, data)["where"]
    recipe.aligned_(model, data)
    aligned = recipe.accuracies(model, data)["where"]
    assert plain < 0.2 < 0.3 < aligned
    questions, answers, _ = recipe.questions_on(model, data.cells, 4, torch.Generator().manual_seed(1))

    def loss() -> float:
        with torch.no_grad():
            logits = recipe.grouped_logits(model, data.features, questions)
        return float(functional.cross_entropy(logits.flatten(0, 1), answers.flatten()))

    before = loss()
    recipe.train_vlm(model, data, epochs=6)
    assert loss() < before - 0.5

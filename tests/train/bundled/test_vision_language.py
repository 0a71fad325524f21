"""How `small-vlm` is made: what the scenes say, the start in closed form, and that a few steps lower the loss."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import SCENES15, vocabulary
from binderclip.errors import UsageError
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


def test_classes_are_compared_where_the_turn_is_slow_and_both_halves_alike(model):
    """Over the 64 patches no class's pair turns by more than .65 rad; the recipe must not decide what p073 measures."""
    pairs = model.decoder.blocks[0].head_dim // 2
    components = recipe.class_components(15, pairs)
    assert len(set(components)) == 15
    angles = [64 * 10_000.0 ** -(component % pairs / pairs) for component in components]
    assert max(angles) < 0.65
    assert angles[:7] == angles[8:]
    with pytest.raises(UsageError, match="17 classes do not fit"):
        recipe.class_components(17, pairs)


def test_the_closed_form_start_loses_little_to_the_turn(data):
    """Queries of each class against the keys of its patches, as the decoder turns them, near and far."""
    fresh = TinyVLM(load("small"), tuple(SCENES15), **recipe.NETWORK).eval()
    recipe.aligned_(fresh, data)
    kept = recipe.kept_in_box(fresh, data)
    for half in kept.values():
        assert half["with rotary"] > 0.9 * half["without rotary"]


def test_what_lies_in_the_box_counts_each_object_once(model, data):
    """All tokens kept: the part of the patches' centres inside the box, mean over objects of each half."""
    inside: dict[bool, list[float]] = {False: [], True: []}
    centres = (torch.arange(8) + 0.5) / 8
    for scene, classes in enumerate(data.cells >= 0):
        for number in classes.nonzero()[:, 0].tolist():
            x0, y0, x1, y1 = data.boxes[scene, number].tolist()
            columns, rows = ((centres >= x0) & (centres < x1)).sum(), ((centres >= y0) & (centres < y1)).sum()
            inside[number >= 8].append(100 * int(columns * rows) / 64)
    found = recipe.kept_in_box(model, data, keep_rate=1.0)
    for later, half in ((False, "first half"), (True, "second half")):
        expected = sum(inside[later]) / len(inside[later])
        assert found[half] == {"with rotary": pytest.approx(expected, abs=0.06),
                               "without rotary": pytest.approx(expected, abs=0.06)}  # fmt: skip


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

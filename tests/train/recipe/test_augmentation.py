from __future__ import annotations

import pytest
import torch

from binderclip.data import Cutout
from binderclip.data.augment.augment import PLAIN, Augment
from binderclip.errors import UsageError
from binderclip.train.recipe.augmentation import make_augment


def test_true_is_the_default_and_false_leaves_pictures_as_they_are() -> None:
    assert make_augment(True, size=8, seed=3) == Augment(8, seed=3)
    assert make_augment(False, size=8, seed=3) == Augment(8, seed=3, **PLAIN)
    assert make_augment({"scale": [0.5, 1.0]}, size=8, seed=3) == Augment(8, scale=(0.5, 1.0), seed=3)


def test_holes_are_filled_with_what_the_model_normalises_to_zero() -> None:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    augment = make_augment(PLAIN | {"cutout": 0.5}, size=16, seed=3, mean=mean.tolist())
    images = augment(torch.full((1, 3, 16, 16), 255, dtype=torch.uint8), ["a"])
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    gone = ~Cutout(8, seed=3).keep(["a"], (16, 16))[0]
    assert normalised[0][:, gone].abs().max() < 1e-6
    assert normalised[0][:, ~gone].abs().min() > 0.5


def test_a_table_sets_everything() -> None:
    made = make_augment({"cutout": {"length": 7, "n_holes": 2, "p": 0.5, "fill": 0.25}}, size=16, seed=3)
    assert made.cutout == Cutout(7, 2, p=0.5, fill=0.25, seed=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": 3}, "no augmentation 'cutoff': did you mean 'cutout'"),
        ({"cutout": {"lenght": 3}}, "no setting of cutout 'lenght': did you mean 'length'"),
        ({"cutout": {"p": 0.5}}, "needs length"),
        ({"cutout": "big"}, "length is 'big'"),
        ({"cutout": 1.5}, "length is 1.5"),
        ({"flip": 2.0}, "flip is 2.0"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_augment(settings, size=16, seed=0)

"""Kinds of things by a small WordNet of our own, and few-shot figures of a model whose features are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.data.synsets import Synset
from binderclip.train.bundled.figures.few_shots import few_shot_figures, photograph_kind

SYNSETS = {
    "1": Synset(("cat",), ("2",)),
    "2": Synset(("feline",), ("3",)),
    "3": Synset(("mammal",), ("4",)),
    "4": Synset(("animal",), ()),
    "5": Synset(("hammer",), ("6", "1")),
    "6": Synset(("tool",), ()),
    "7": Synset(("idea",), ("7",)),
}
ORDER = {"cat": ("1", "6"), "hammer": ("5",), "tool": ("6",), "idea": ("7",)}
PHOTO = LabelledPhotograph("p", "/f", "", "", (), (), "photograph", False, "learn")


@pytest.mark.parametrize(
    ("label", "kind"), [("cat", "mammal"), ("hammer", "tool"), ("tool", "tool"), ("idea", None), ("unknown", None)]
)
def test_a_kind_is_the_nearest_meaning_above_the_commonest_one(label: str, kind: str | None) -> None:
    assert photograph_kind(label, SYNSETS, ORDER) == kind


class _Placed:
    """The text side of `small`, and pictures that are vectors."""

    def __init__(self) -> None:
        self.text_bank: Any = load("small").text_bank

    def encode_image(self, picture: torch.Tensor, normalize: bool) -> torch.Tensor:
        return torch.nn.functional.normalize(picture[None], dim=-1)


class _Shown:
    def __init__(self, vector: torch.Tensor) -> None:
        self.vector = vector

    def open(self) -> torch.Tensor:
        return self.vector


def photographs(generator: torch.Generator, count: int) -> tuple[list[Any], list[str | None]]:
    """Two kinds with an axis each, a third with too few, and what is of no kind."""
    noise = 0.1 * torch.randn(2 * count + 2, 384, generator=generator)
    kinds = ["bird"] * count + ["tool"] * count + ["fish", None]
    noise[:count, 0] += 10
    noise[count : 2 * count, 1] += 10
    return [_Shown(row) for row in noise], list(kinds)


def test_heads_learn_from_the_shots_and_are_measured_on_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    learn, test = photographs(generator, 6), photographs(generator, 3)
    figures = few_shot_figures(_Placed(), learn, test, draws=3)  # type: ignore[arg-type]
    assert figures["kinds"] == ["bird", "tool"]
    assert figures["photographs"] == 6
    # Axes tell the kinds apart without fail; words know nothing of them.
    assert figures["linear probe"] == figures["Tip-Adapter"] == [1.0, 0.0]
    swapped = (test[0], [{"bird": "tool", "tool": "bird"}.get(str(kind), kind) for kind in test[1]])
    assert few_shot_figures(_Placed(), learn, swapped, draws=3)["linear probe"] == [0.0, 0.0]  # type: ignore[arg-type]


def test_too_few_photographs_are_refused() -> None:
    few = ([replace(PHOTO)] * 5, ["bird"] * 5)
    with pytest.raises(UsageError, match="of no kind there are enough"):
        few_shot_figures(load("small"), few, few)

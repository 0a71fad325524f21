"""Maps of words from a classifier's concepts against sums written out, and what the segmenter does with them."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip import load
from binderclip.errors import NotSupported, UsageError
from binderclip.models.image_text.word_maps import PRESENCE, PRESENCE_SIDES, USUAL
from binderclip.models.towers import Tower
from binderclip.segment import ConceptMaps, Segmenter
from binderclip.segment.parts.concept_maps import ABSENT
from binderclip.segment.parts.context import Context, Frame
from binderclip.segment.parts.text import BoundText


class Concepts:
    """Five concepts along the axes of a space of five, of which the picture's left shows the second for certain."""

    def __init__(self) -> None:
        self.vectors = torch.eye(5)
        self.usual, self.usual_places = torch.ones(5), torch.ones(1, 5) / 5**0.5
        self.regions = None
        self.calls: list[int] = []

    def meant(self, word: str) -> list[int]:
        return [2] if word == "named" else []

    def logits(self, features: Float[Tensor, "h w 5"]) -> Float[Tensor, "h w 5"]:
        return features

    def feature_map(self, images: Float[Tensor, "1 3 H W"], side: int = 512) -> Float[Tensor, "1 5 h w"]:
        self.calls.append(side)
        logits = torch.zeros(1, 5, side // 32, side // 32)
        logits[:, 1, :, : side // 64] = 9.0
        return logits


@pytest.fixture
def context() -> Context:
    model = SimpleNamespace(concepts=Concepts(), name="five")
    frame = Frame(model, torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64))
    return Context(load("small").image_tower, frame.pixels, frame, ((0, 0),))


def words(*rows: list[float]) -> BoundText:
    return BoundText(tuple(f"w{i}" for i in range(len(rows))), torch.tensor(rows), torch.arange(len(rows)), 1.0)


def test_a_word_is_where_its_concept_is_and_an_absent_one_nowhere(context: Context) -> None:
    text = words([0.0, 1, 0, 0, 0], [0.0, 0, 0, 1, 0])
    maps = ConceptMaps(gate=0.95, affinity=0)(context, None, text)[0]  # type: ignore[arg-type]
    width = maps.shape[-1]
    assert float(maps[0, :, : width // 2 - 1].min()) > float(maps[0, :, width // 2 + 1 :].max())
    assert bool((maps[1] == ABSENT).all())
    # Elsewhere all five are alike, where the first is sure it has exp(9) of exp(9) + 4.
    fusion = ConceptMaps(sharpness=1e3)
    probabilities = (math.exp(9) / (math.exp(9) + 4), 1 / 5)
    cosines = (math.exp(9) / math.sqrt(math.exp(18) + 4), 1 / math.sqrt(5))  # of (1, e^9, 1, 1, 1) and of ones
    slope, weight, offset = PRESENCE
    usual = weight / math.sqrt(5)  # log 1, and the cosine with the one usual place
    expected = [
        slope * (math.log(p) + weight * c - USUAL * usual) + offset for p, c in zip(probabilities, cosines, strict=True)
    ]
    torch.testing.assert_close(fusion.shown(context.frame, text), torch.tensor(expected).sigmoid(), atol=1e-4, rtol=0)


def test_a_word_that_names_a_concept_is_where_that_is(context: Context) -> None:
    """Its vector is that of the second concept, on the left; by name it is the third, which the left shows least."""
    fusion = ConceptMaps(gate=None, picture=0, contrast=1, affinity=0)
    text = words([0.0, 1, 0, 0, 0])
    near = fusion(context, None, text)[0, 0]  # type: ignore[arg-type]
    found = fusion(context, None, replace(text, words=("named",)))[0, 0]  # type: ignore[arg-type]
    width = found.shape[-1]
    assert float(near[:, : width // 2 - 1].min()) > float(near[:, width // 2 + 1 :].max())
    assert float(found[:, : width // 2 - 1].max()) < float(found[:, width // 2 + 1 :].min())


def test_each_size_counts_alike_and_is_seen_once_for_all_words_and_calls(context: Context) -> None:
    fusion = ConceptMaps(sides=(128, 256), gate=None, affinity=0)
    first = fusion(context, None, words([0.0, 1, 0, 0, 0]))  # type: ignore[arg-type]
    both = fusion(context, None, words([1.0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0]))  # type: ignore[arg-type]
    # Each once: the maps' sides, and those at which it is asked whether a word is shown.
    assert sorted(context.frame.model.concepts.calls) == sorted({128, 256, *PRESENCE_SIDES})
    torch.testing.assert_close(first[0, 0], both[0, 1])
    text = words([0.0, 1, 0, 0, 0])
    for affinity in (0.0, 10.0):
        single = ConceptMaps(sides=(256,), gate=None, affinity=affinity)(context, None, text)  # type: ignore[arg-type]
        presence = ConceptMaps(sides=(256,)).shown(context.frame, text)
        assert float(single.mean()) == pytest.approx(float(presence.log()), abs=1e-5)
        assert float(single.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_a_model_without_concepts_is_refused_before_a_picture_is_opened() -> None:
    with pytest.raises(NotSupported, match="--model everyday"):
        Segmenter(load("small"), "photograph")


def test_several_windows_and_numbers_out_of_range_are_refused(context: Context) -> None:
    context.places = ((0, 0), (0, 32))
    with pytest.raises(UsageError, match="as a whole"):
        ConceptMaps()(context, None, words([0.0, 1, 0, 0, 0]))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="sides"):
        ConceptMaps(sides=())
    with pytest.raises(UsageError, match="finite"):
        ConceptMaps(gate=math.nan)


def test_the_segmenter_of_everyday_runs_no_block_of_its_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(Tower, "run", refuse)
    monkeypatch.setattr(Tower, "embed", refuse)
    segmenter = Segmenter(load("everyday"), fusion=ConceptMaps(affinity=0))  # patches are of another model's tower
    assert segmenter.preset == "photograph"
    found = segmenter(torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(0)), ["dog", "car"])
    assert found.labels.shape == (40, 60)
    assert set(found.labels.unique().tolist()) <= {-1, 0, 1}

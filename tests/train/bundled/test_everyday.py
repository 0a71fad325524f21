"""The parts of the bundled `everyday` by hand, and figures on photographs by a model whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph
from binderclip.train.bundled.everyday import people_probe, photograph_probe, scenes, shows_people, with_people
from binderclip.train.bundled.figures.photograph_figures import interval, photograph_figures
from binderclip.train.bundled.regions import PEOPLE

PHOTO = LabelledPhotograph("p", "/f", "", "forest", ("wood",), ("sky",), "photograph", True, "learn")


def test_scenes_are_mean_directions_of_words_that_no_class_has() -> None:
    photographs = [PHOTO, replace(PHOTO, label="forests"), replace(PHOTO, label="dog", also=()), PHOTO]
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0], [0.0, 3.0]])
    found = scenes(photographs, features, {"dog": [3]})
    assert list(found) == ["forest", "wood"]  # "dog" is a class, "forests" stands on one picture, "sky" is beside it
    torch.testing.assert_close(found["forest"], normalize(torch.tensor([0.5, 0.5]), dim=0))
    assert list(scenes(photographs, features, {"forest": [0]})) == ["wood"]  # plurals are the same word


def test_the_probe_tells_photographs_from_drawings() -> None:
    generator = torch.Generator().manual_seed(0)
    photographs = torch.randn(40, 5, generator=generator) + 3
    drawings = torch.randn(90, 5, generator=generator) - 3
    weight, offset = photograph_probe(photographs, drawings)
    assert float((photographs @ weight + offset).min()) > 0 > float((drawings @ weight + offset).max())


def test_people_are_told_by_a_curve_over_the_cosine_with_their_mean() -> None:
    """Pictures on both sides of a gap: the curve crosses one half inside it, along the mean direction."""
    generator = torch.Generator().manual_seed(0)
    people = normalize(torch.randn(10, 64, generator=generator) + 2, dim=1)
    others = normalize(torch.randn(200, 64, generator=generator), dim=1)
    weight, offset = people_probe(people, others)
    mean = normalize(people.sum(0), dim=0)
    torch.testing.assert_close(normalize(weight, dim=0), mean)
    crossing = -offset / float(weight.norm())
    assert float((others @ mean).max()) < crossing < float((people @ mean).min())


def test_people_beside_the_subject_and_cut_outs_teach_nothing_of_people() -> None:
    assert shows_people(replace(PHOTO, also=("woman",))) is True
    assert shows_people(replace(PHOTO, label="man", kind="cutout")) is None
    assert shows_people(replace(PHOTO, shows=("sky", "crowd"))) is None
    assert shows_people(PHOTO) is False


def test_words_for_people_lie_in_one_place_so_that_women_and_men_are_pulled_alike() -> None:
    """Of the photographs at hand two show men and one a woman; "man" alone had a scene, and women were men."""
    concepts = load("everyday").concepts
    scenes_of_people = set(concepts.names[1000:]) & set(PEOPLE)
    assert scenes_of_people == {"man"}
    place = concepts.vectors[concepts.names.index("man")]
    torch.testing.assert_close(place, concepts.people.vector, rtol=0, atol=1e-3)
    with torch.no_grad():
        texts = load("small").encode_text(["man", "woman"], normalize=True)
    assert float((place @ texts.T).diff().abs()) < 0.1


class _Known:
    """Compares a picture, which is a row of scores, with labels: the scores themselves."""

    def encode_image(self, row: torch.Tensor) -> torch.Tensor:
        return row[None]

    def text_bank(self, labels: list[str]) -> SimpleNamespace:
        return SimpleNamespace(raw=torch.eye(len(labels)))

    def similarity(self, features: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return features @ texts.T


class _Shown:
    """A photograph whose picture is its scores."""

    def __init__(
        self, scores: list[float], label: str, also: tuple[str, ...] = (), shows: tuple[str, ...] = ()
    ) -> None:
        self.scores, self.label, self.also, self.shows, self.file = scores, label, also, shows, "f"

    def open(self) -> torch.Tensor:
        return torch.tensor(self.scores, dtype=torch.float32)


def test_figures_count_right_words_and_leave_disputed_ones_out() -> None:
    labels = list("abcdefg")
    shown = [
        _Shown([9, 1, 0, 0, 0, 0, 0], "a"),  # right
        _Shown([9, 1, 0, 0, 0, 0, 0], "b", shows=("a",)),  # "a" is neither right nor wrong, so "b" comes first
        _Shown([9, 8, 7, 6, 5, 1, 0], "g", also=("f",)),  # neither among five
    ]
    figures = photograph_figures(_Known(), shown, labels)  # type: ignore[arg-type]
    assert figures.first.tolist() == [True, True, False]
    assert figures.five.tolist() == [True, True, False]
    # "a" is first found on picture 0 or 2 (9 each), "b" and "f" and "g" on the right ones or not by their columns
    assert figures.search_five.tolist() == [True] * 4
    assert figures.labels == 7
    with pytest.raises(UsageError, match="'z'"):
        photograph_figures(_Known(), [_Shown([0.0] * 7, "z")], labels)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no photographs"):
        photograph_figures(_Known(), [], labels)  # type: ignore[arg-type]


def test_wilson_interval_against_scipy() -> None:
    from scipy.stats import binomtest

    hits = torch.tensor([True] * 28 + [False] * 49)
    expected = binomtest(28, 77).proportion_ci(0.95, "wilson")
    assert interval(hits) == [36.4, round(100 * expected.low, 1), round(100 * expected.high, 1)]


def test_words_for_people_mean_what_they_wear_and_no_other_word_changes() -> None:
    given = {"person": [3], "clothing": [7, 5], "man": [9], "dog": [1]}
    meant = with_people(given)
    assert meant["person"] == meant["woman"] == [3, 5, 7]
    assert meant["man"] == [3, 5, 7, 9]
    assert (meant["dog"], meant["clothing"]) == ([1], [7, 5])
    assert given == {"person": [3], "clothing": [7, 5], "man": [9], "dog": [1]}


def test_everyday_finds_people_by_their_clothes() -> None:
    concepts = load("everyday").concepts
    assert {"kimono", "suit", "sunglasses", "ballplayer"} <= {
        concepts.names[index] for index in concepts.meant("a woman")
    }

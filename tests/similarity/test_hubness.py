"""CSLS against loops, its limits, and what an index stores of it (Conneau et al., arXiv 1710.04087)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from binderclip.errors import UsageError
from binderclip.models.text.textbank import TextBank
from binderclip.search.vectors import IndexVectors
from binderclip.similarity import CSLS, Cosine, mean_nearest_cosine


@pytest.fixture
def clouds() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, 6, generator=generator) for n in (5, 4, 20))  # type: ignore[return-value]


def by_loops(
    images: torch.Tensor, texts: torch.Tensor, references: torch.Tensor, k: int, image_weight: float, text_weight: float
) -> list:
    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(a @ b / (a.norm() * b.norm()))

    def common(a: torch.Tensor) -> float:
        return sum(sorted((cosine(a, r) for r in references), reverse=True)[:k]) / k

    return [[cosine(x, y) - image_weight * common(x) - text_weight * common(y) for y in texts] for x in images]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.5, 0.5), (0.1, 0.4), (1.0, 0.0)])
def test_equals_the_equation_written_as_loops(clouds: tuple, weights: tuple[float, float]) -> None:
    images, texts, references = clouds
    geometry = CSLS(references, neighbours=3, image_weight=weights[0], text_weight=weights[1])
    scores = geometry(geometry.embed(images, "image"), geometry.embed(texts, "text"))
    torch.testing.assert_close(scores, torch.tensor(by_loops(images, texts, references, 3, *weights)))
    paired = geometry.paired(geometry.embed(images[:4]), geometry.embed(texts, "text"))
    torch.testing.assert_close(paired, scores[:4].diagonal())


def test_lengths_mean_nothing_and_weight_zero_is_the_cosine(clouds: tuple) -> None:
    images, texts, references = clouds
    geometry, cosine = CSLS(references, image_weight=0.0, text_weight=0.0), Cosine()
    own = geometry(geometry.embed(7 * images), geometry.embed(texts, "text"))
    torch.testing.assert_close(own, cosine(cosine.embed(images), cosine.embed(texts)))
    with_hubs = CSLS(references)
    torch.testing.assert_close(with_hubs.embed(7 * images), with_hubs.embed(images))


def test_a_label_that_is_near_everything_no_longer_comes_first() -> None:
    """Cosines name the hub for both pictures; less what it has in common with all references, each gets its own."""
    references = torch.eye(4)
    hub, own = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    picture = torch.tensor([0.9, 0.4, 0.35, 0.35])
    texts = torch.stack([hub, own])
    cosine = Cosine()
    assert cosine(cosine.embed(picture[None]), cosine.embed(texts)).argmax() == 0
    geometry = CSLS(references, neighbours=4)
    assert geometry(geometry.embed(picture[None]), geometry.embed(texts, "text")).argmax() == 1


def test_more_neighbours_than_references_are_all_of_them(clouds: tuple) -> None:
    images, _, references = clouds
    unit, other = normalize(images, dim=-1), normalize(references, dim=-1)
    torch.testing.assert_close(mean_nearest_cosine(unit, other, 99), (unit @ other.T).mean(-1))


def test_an_index_ranks_and_scores_as_it_compares(clouds: tuple) -> None:
    images, texts, references = clouds
    geometry = CSLS(references, neighbours=3)
    vectors = IndexVectors(geometry)
    scores = geometry(geometry.embed(images), geometry.embed(texts, "text"))
    torch.testing.assert_close(vectors.stored(images) @ vectors.asked(texts).T, scores)
    assert vectors.score(1 - float(scores[0, 0])) == pytest.approx(float(scores[0, 0]))
    assert vectors.width(6) == 8
    # A picture that asks is like itself.
    torch.testing.assert_close((vectors.stored(images) * vectors.asked(images, "image")).sum(1), torch.ones(5))
    torch.testing.assert_close(vectors.stored_both(texts, images[:4], 0.0), vectors.stored(images[:4]))


def test_banks_compare_by_it_and_still_give_unit_rows(clouds: tuple) -> None:
    images, texts, references = clouds
    geometry = CSLS(references, neighbours=3)
    bank = TextBank(["a", "b"], list("wxyz"), texts, torch.tensor([0, 0, 1, 1]), torch.tensor(10.0), geometry=geometry)
    unit = normalize(texts, dim=-1)
    means = torch.stack([unit[:2].mean(0), unit[2:].mean(0)])
    expected = torch.tensor(by_loops(images, means, references, 3, 0.5, 0.5))
    torch.testing.assert_close(bank.similarities(images), expected)
    torch.testing.assert_close(bank.prototypes(), normalize(means, dim=-1))


def test_gradients_reach_the_features(clouds: tuple) -> None:
    images, texts, references = clouds
    geometry = CSLS(references, neighbours=3).double()
    x = images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: geometry(geometry.embed(a), geometry.embed(texts.double(), "text")), x)


def test_signatures_tell_settings_and_references_apart(clouds: tuple) -> None:
    references = clouds[2]
    signatures = {CSLS(r, text_weight=w).signature() for r in (references, references + 1) for w in (0.5, 0.4)}
    assert len(signatures) == 4
    assert CSLS(references).signature() == CSLS(2 * references).signature()


@pytest.mark.parametrize(
    ("references", "settings", "words"),
    [
        (torch.zeros(0, 3), {}, "at least 1"),
        (torch.zeros(3), {}, "R, d"),
        (torch.eye(3), {"neighbours": 0}, "neighbours=0"),
        (torch.eye(3), {"image_weight": 1.5}, "image_weight=1.5"),
        (torch.eye(3), {"text_weight": float("nan")}, "text_weight=nan"),
    ],
)
def test_bad_settings_are_refused(references: torch.Tensor, settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        CSLS(references, **settings)

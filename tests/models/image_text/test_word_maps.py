"""Maps of a classifier's concepts: the formula by loops, and its invariants."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from binderclip.models import load
from binderclip.models.image_text.regions import RegionWord, kind_presence, region_presence
from binderclip.models.image_text.word_maps import (
    PATCHES_SIDE,
    PRESENCE,
    PRESENCE_SIDES,
    UNNAMED,
    USUAL,
    ConceptEvidence,
    PictureConcepts,
    concept_evidence,
    picture_patches,
    presence_score,
    region_words,
    spread_maps,
    word_maps,
    word_presence,
    word_weights,
)


def test_evidence_is_the_soft_maximum_written_as_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(5, 2, 3, generator=generator), torch.randn(4, 5, generator=generator)
    found = concept_evidence(logits, weights, 0.5)
    for q in range(4):
        for y in range(2):
            for x in range(3):
                place = logits[:, y, x].double()
                expected = (place + weights[q].double()).exp().sum().log() - 0.5 * place.exp().sum().log()
                assert float(found[q, y, x]) == pytest.approx(float(expected), abs=1e-5)


def test_a_constant_on_all_logits_moves_no_map_at_full_contrast() -> None:
    logits = torch.randn(5, 4, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        concept_evidence(logits + 3.0, weights, 1.0), concept_evidence(logits, weights, 1.0), rtol=1e-4, atol=1e-4
    )
    maps = word_maps([logits, logits[:, :2, :2]], weights, 0.5)
    assert maps.shape == (2, 4, 4)
    torch.testing.assert_close(word_maps([logits], weights, 0.5).mean((1, 2)), torch.zeros(2), rtol=0, atol=1e-5)


def test_places_are_means_of_nine_made_once_and_words_lie_by_their_cosines() -> None:
    own = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(3))
    asked: list[int] = []

    def feature_map(image: torch.Tensor, side: int) -> torch.Tensor:
        asked.append(side)
        return own

    concepts = SimpleNamespace(feature_map=feature_map, logits=lambda features: 2 * features, vectors=torch.eye(3))
    concepts.meant = lambda word: []
    picture = PictureConcepts(concepts, torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(picture.logits(64)[:, 1, 2], 2 * own[0, :, 0:3, 1:4].mean((1, 2)))
    assert picture.features(64).shape == (2, 4, 5)
    assert picture.logits(64) is picture.logits(64)
    assert asked == [64]
    near = word_weights(concepts, torch.tensor([[2.0, 1.0, 0.0]]), ["w"], 7.0)
    unit = normalize(torch.tensor([2.0, 1.0, 0.0]), dim=0)
    torch.testing.assert_close(near[0], 7 * (unit - unit[0]))


def test_a_word_that_names_concepts_goes_by_them_and_not_by_what_is_near() -> None:
    """ "tree" is nearest to the tree frog (0) among texts and names the oak and the palm (1, 2)."""
    concepts = SimpleNamespace(vectors=torch.eye(4), meant=lambda word: [1, 2] if word == "tree" else [])
    text = torch.tensor([[3.0, 1.0, 0.0, 0.0]])
    cosines = text[0] / 10**0.5
    alone = 2 * (cosines - cosines[0])
    torch.testing.assert_close(word_weights(concepts, text, ["oak"], 2.0)[0], alone)
    torch.testing.assert_close(word_weights(concepts, text, [], 2.0)[0], alone)
    expected = torch.tensor([-UNNAMED, 0.0, 0.0, float(alone[3]) - UNNAMED])
    torch.testing.assert_close(word_weights(concepts, text, ["tree"], 2.0)[0], expected)


def test_presence_is_the_logistic_of_what_is_shown_less_part_of_what_is_usual() -> None:
    generator = torch.Generator().manual_seed(4)
    logits, weights = torch.randn(3, 2, 2, generator=generator), -torch.rand(2, 3, generator=generator)
    vectors, texts = torch.randn(3, 5, generator=generator), torch.randn(2, 5, generator=generator)
    usual, places = torch.rand(3, generator=generator), normalize(torch.randn(11, 5, generator=generator), dim=1)
    concepts = SimpleNamespace(vectors=vectors, usual=usual, usual_places=places)
    probability = word_presence(concepts, [logits], texts, weights)
    slope, weight, offset = PRESENCE
    for q in range(2):
        shown, cosine = -math.inf, -math.inf
        for y in range(2):
            for x in range(2):
                p = logits[:, y, x].exp() / logits[:, y, x].exp().sum()
                z = sum(float(p[c]) * vectors[c] for c in range(3))
                shown = max(shown, math.log(sum(float(p[c] * weights[q, c].exp()) for c in range(3))))
                cosine = max(cosine, float(torch.cosine_similarity(z, texts[q], dim=0)))
        common = math.log(sum(float(usual[c] * weights[q, c].exp()) for c in range(3)))
        # Of eleven, the second largest is what nine tenths do not exceed.
        near = sorted(float(torch.cosine_similarity(place, texts[q], dim=0)) for place in places)[9]
        score = shown + weight * cosine - USUAL * (common + weight * near)
        assert float(probability[q]) == pytest.approx(1 / (1 + math.exp(-slope * score - offset)), abs=1e-5)


def test_a_picture_is_asked_at_several_sizes_which_count_alike() -> None:
    concepts = SimpleNamespace(
        vectors=torch.eye(3, 4), usual=torch.full((3,), 0.1), usual_places=normalize(torch.ones(2, 4), dim=1)
    )
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randn(3, *size, generator=generator) for size in ((2, 3), (4, 6), (1, 1))]
    texts, weights = torch.randn(2, 4, generator=generator), -torch.rand(2, 3, generator=generator)
    one_by_one = torch.stack([presence_score(concepts, [each], texts, weights) for each in maps])
    torch.testing.assert_close(presence_score(concepts, maps, texts, weights), one_by_one.mean(0))
    assert float(one_by_one.std(0).min()) > 0.01
    seen = []
    regions = SimpleNamespace(names=["other"])

    def feature_map(image: torch.Tensor, side: int) -> torch.Tensor:
        seen.append(side)
        return torch.zeros(1, 3, 2, 2)

    concepts.feature_map, concepts.logits, concepts.regions = feature_map, lambda features: features, regions
    picture = PictureConcepts(concepts, torch.zeros(1, 3, 32, 32))
    ConceptEvidence(sides=(768,)).presence(texts, weights, [None, None], picture)
    assert tuple(seen) == PRESENCE_SIDES  # whatever sides the maps are made at


def test_a_word_that_any_picture_shows_a_little_of_must_be_shown_more() -> None:
    """Two words of the same evidence, the first of which is usual."""
    concepts = SimpleNamespace(
        vectors=torch.eye(2, 4), usual=torch.tensor([0.5, 0.005]), usual_places=normalize(torch.ones(3, 4), dim=1)
    )
    texts = torch.tensor([[0.0, 0, 1, 0], [0.0, 0, 0, 1]])  # as near to either concept
    first, second = word_presence(concepts, [torch.zeros(2, 1, 1)], texts, torch.tensor([[0.0, -50], [-50, 0.0]]))
    assert float(torch.logit(second) - torch.logit(first)) == pytest.approx(
        PRESENCE[0] * USUAL * math.log(100), rel=1e-3
    )


def test_words_of_regions_are_where_these_are() -> None:
    """Grass below, sky above: a word for all of it is the region, one for a kind of it both maps, another its own."""
    side = 8
    odds = torch.stack([torch.zeros(side, side), torch.linspace(-3, 3, side)[:, None].expand(side, side)])
    regions = SimpleNamespace(log_odds=lambda features, patches: odds, names=["other", "building"])
    concepts = SimpleNamespace(
        feature_map=lambda image, size: torch.zeros(1, 2, side, side), vectors=torch.eye(2, 3), regions=regions,
        logits=lambda features: torch.stack([features[..., 0], torch.linspace(0, 4, side).expand(side, side)], -1),
        usual=torch.full((2,), 0.1), usual_places=torch.eye(1, 3),
    )  # fmt: skip
    picture = PictureConcepts(concepts, torch.zeros(1, 3, 32, 32))
    evidence = ConceptEvidence(sides=(512,), affinity=0)
    weights = torch.tensor([[-9.0, 0.0]] * 3)
    words = [None, RegionWord(1, True), RegionWord(1, False)]
    alone, whole, kind = evidence.maps(weights, words, picture)
    assert torch.equal(evidence.maps(weights[:1], [RegionWord(1, False, unnamed=True)], picture)[0], whole)
    across, down = torch.arange(side).expand(side, side).float(), torch.arange(side)[:, None].expand(side, side).float()

    def correlation(map: torch.Tensor, other: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([map.flatten(), other.flatten()]))[0, 1])

    assert correlation(alone, across) > 0.95
    assert abs(correlation(alone, down)) < 1e-4
    assert correlation(whole, down) > 0.99
    assert correlation(kind, across) > 0.6
    assert correlation(kind, down) > 0.6
    presence = evidence.presence(torch.ones(3, 3), weights, words, picture)
    assert float(presence[1]) == pytest.approx(float(region_presence(odds[1])))
    torch.testing.assert_close(presence[0], presence[2])
    # Of people both count: their region says more than what they wear.
    regions.names[1] = "person"
    score = presence_score(concepts, [picture.logits(512)], torch.ones(3, 3), weights)[2]
    people = evidence.presence(torch.ones(3, 3), weights, words, picture)
    both = kind_presence("person", score, odds[1])
    assert both is not None
    assert float(people[2]) == pytest.approx(float(both))
    torch.testing.assert_close(people[:2], presence[:2])


def test_kinds_of_flowers_are_where_flowers_are_but_for_those_that_a_class_is_called() -> None:
    concepts = load("everyday").concepts
    unnamed = {word: known.unnamed for word in ("a tulip", "roses", "daisy", "flower", "castle", "house", "woman")
               if (known := region_words(concepts, [word])[0])}  # fmt: skip
    assert [word for word, own in unnamed.items() if own] == ["a tulip", "roses"]
    assert len(unnamed) == 7


def test_maps_spread_over_patches_that_are_alike() -> None:
    """Two kinds of patches, checkered: one peak becomes all patches of its kind; a constant map stays constant."""
    kinds = torch.arange(12).view(3, 4) % 2
    patches = torch.nn.functional.one_hot(kinds, 2).permute(2, 0, 1).float()
    maps = torch.zeros(2, 3, 4)
    maps[0, 1, 1] = 5.0
    found = spread_maps(maps, patches, 50.0)
    # By hand: 5 / 6 where the kind is that of the peak, 0 elsewhere, which standardised is 1 and -1.
    torch.testing.assert_close(found[0], torch.where(kinds == kinds[1, 1], 1.0, -1.0))
    torch.testing.assert_close(found[1], torch.zeros(3, 4))
    flat = spread_maps(maps, patches, 0.0)  # no affinity: every patch is the mean of all
    torch.testing.assert_close(flat[0], torch.zeros(3, 4), atol=1e-2, rtol=0)  # rounding over the least spread


@pytest.mark.parametrize(("size", "grid"), [((90, 60), (36, 24)), ((1, 1), (36, 36)), ((4, 2000), (1, 36))])
def test_patches_of_any_picture_lie_on_a_grid_of_its_form(size: tuple[int, int], grid: tuple[int, int]) -> None:
    patches = picture_patches(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(5)))
    assert tuple(patches.shape[1:]) == grid
    assert max(grid) * 8 == PATCHES_SIDE
    torch.testing.assert_close(patches.norm(dim=0), torch.ones(grid))

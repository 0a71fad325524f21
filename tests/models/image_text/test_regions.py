"""Regions without an outline of their own: the formula by loops, words, and what `everyday` knows."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.data import load_data, to_tensor
from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel, load
from binderclip.models.image_text.regions import (
    KIND_PRESENCE,
    LARGEST,
    MOST_ODDS,
    PRESENCE,
    RegionClassifier,
    RegionWord,
    kind_presence,
    region_presence,
    region_score,
)
from binderclip.models.image_text.word_maps import PictureConcepts
from binderclip.segment import ConceptMaps, Segmenter
from binderclip.segment.parts.context import Frame
from binderclip.segment.parts.text import TextSide


@pytest.fixture(scope="module")
def everyday() -> ImageTextModel:
    return load("everyday")


def test_log_odds_are_those_of_a_softmax_written_as_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 2 + 4 + 2, generator=generator), torch.randn(3, generator=generator)
    features, patches = torch.randn(2, 3, 5, generator=generator), torch.randn(4, 3, 5, generator=generator)
    odds = RegionClassifier(["other", "sky", "grass"], weight, bias, {}).log_odds(features, patches)
    for y in range(3):
        for x in range(5):
            h = y / 2
            seen = [*features[:, y, x].tolist(), *patches[:, y, x].tolist(), h, h * h]
            scores = [math.exp(float(bias[r]) + sum(float(w) * s for w, s in zip(weight[r], seen))) for r in range(3)]  # noqa: B905
            for r in range(3):
                p = scores[r] / sum(scores)
                expected = max(-MOST_ODDS, min(MOST_ODDS, math.log(p / (1 - p))))
                assert float(odds[r, y, x]) == pytest.approx(expected, abs=1e-4)


def test_a_picture_shows_a_region_by_its_likeliest_places() -> None:
    odds = torch.linspace(-4, 4, 40).view(5, 8)
    largest = sorted(1 / (1 + math.exp(-float(o))) for o in odds.flatten())[-round(40 * LARGEST) :]
    mean = sum(largest) / len(largest)
    assert float(region_score(odds)) == pytest.approx(math.log(mean / (1 - mean)), abs=1e-4)
    slope, offset = PRESENCE
    expected = 1 / (1 + math.exp(-slope * math.log(mean / (1 - mean)) - offset))
    assert float(region_presence(odds)) == pytest.approx(expected, abs=1e-5)
    assert float(region_presence(odds.flip(0, 1))) == pytest.approx(expected, abs=1e-5)  # wherever they are
    assert 0 <= float(region_presence(torch.full((1, 1), -1e3))) < 1e-4


def test_people_are_shown_by_what_they_wear_and_by_where_they_are() -> None:
    odds = torch.full((4, 5), 1.5)
    worn, place, offset = KIND_PRESENCE["person"]
    expected = 1 / (1 + math.exp(-worn * 9.0 - place * 1.5 - offset))
    found = kind_presence("person", torch.tensor(9.0), odds)
    assert found is not None
    assert float(found) == pytest.approx(expected, abs=1e-5)
    assert worn > 0 < place
    assert kind_presence("building", torch.tensor(9.0), odds) is None


def test_words_mean_regions_in_any_number_and_with_an_article() -> None:
    words = {"sky": (1, True), "castle": (2, False)}
    regions = RegionClassifier(["other", "sky", "building"], torch.zeros(3, 4), torch.zeros(3), words)
    assert regions.of("the Sky") == RegionWord(1, True)
    assert regions.of("castles") == RegionWord(2, False)
    assert regions.of("sky scraper") is None
    assert regions.table() == words
    with pytest.raises(UsageError, match="beyond the 3"):
        RegionClassifier(["other", "sky", "building"], torch.zeros(3, 4), torch.zeros(3), {"w": (3, True)})
    with pytest.raises(UsageError, match="do not fit"):
        RegionClassifier(["other"], torch.zeros(2, 4), torch.zeros(2), {})


def test_a_word_as_it_is_written_counts_before_its_other_numbers() -> None:
    words = {"bush": (1, True), "bushes": (2, False)}
    regions = RegionClassifier(["other", "tree", "leaf"], torch.zeros(3, 4), torch.zeros(3), words)
    assert (regions.of("bushes"), regions.of("a bush")) == (RegionWord(2, False), RegionWord(1, True))


def test_in_half_precision_regions_are_where_they_are(everyday: ImageTextModel) -> None:
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    half = load("everyday", dtype="bfloat16")
    odds, exact = (PictureConcepts(model.concepts, image).region_odds for model in (half, everyday))
    assert odds.dtype == torch.float32
    assert float((odds - exact).abs().mean()) < 0.3
    assert Segmenter(half)(image[0], ["sky", "dog"]).labels.shape == (64, 96)


def test_everyday_knows_lawns_oaks_and_castles_and_no_fruit_by_its_tree(everyday: ImageTextModel) -> None:
    regions = everyday.concepts.regions
    named = {
        word: regions.of(word)
        for word in ("lawn", "an oak", "castle", "sea", "apple", "orange", "dog", "women", "wood")
    }
    found = {word: (regions.names[own.region], own.whole) for word, own in named.items() if own is not None}
    assert found == {
        "lawn": ("grass", True), "an oak": ("tree", False), "castle": ("building", False), "sea": ("water", True),
        "women": ("person", False), "wood": ("wood", True),
    }  # fmt: skip


def test_people_are_found_where_they_are_and_nowhere_else(everyday: ImageTextModel) -> None:
    """On photographs that nothing was fitted to: an astronaut, and nobody among bricks, coins and grass."""
    pictures = {sample.captions[0].split()[1]: sample.image for sample in load_data("photographs")}
    fusion, words = ConceptMaps(), ["person", "woman", "man"]
    text = TextSide().bind(everyday, words)
    shown = {}
    for name in ("astronaut", "wall", "coins", "from"):
        image = to_tensor(pictures[name].convert("RGB"))[None]
        shown[name] = fusion.shown(Frame(everyday, image, image), text).tolist()
    assert min(shown.pop("astronaut")) > 0.5
    assert max(max(probabilities) for probabilities in shown.values()) < 0.5


def test_a_drawn_meadow_has_its_sky_above_and_its_grass_below(everyday: ImageTextModel) -> None:
    rng = np.random.default_rng(0)
    picture = np.zeros((96, 144, 3))
    picture[:48] = np.array([0.45, 0.65, 0.95]) + 0.02 * rng.standard_normal((48, 144, 1))
    picture[48:] = np.array([0.25, 0.5, 0.15]) + 0.12 * rng.standard_normal((48, 144, 1))
    image = torch.from_numpy(picture.clip(0, 1)).float().permute(2, 0, 1)[None]
    odds = PictureConcepts(everyday.concepts, image).region_odds
    sky, grass = (odds[everyday.concepts.regions.names.index(name)] for name in ("sky", "grass"))
    half = odds.shape[1] // 2
    assert float(sky[: half - 2].mean()) > float(sky[half + 2 :].mean()) + 3
    assert float(grass[half + 2 :].mean()) > float(grass[: half - 2].mean()) + 3


def test_a_file_of_a_version_before_is_refused_with_what_to_do(everyday: ImageTextModel, tmp_path: Path) -> None:
    folder = everyday.save(tmp_path / "mine")
    path = folder / "concepts.safetensors"
    tensors = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("usual")}
    save_file(tensors, path, {"format": "pt", "binderclip": "{}"})
    with pytest.raises(CheckpointError, match="save the model again"):
        load(folder)

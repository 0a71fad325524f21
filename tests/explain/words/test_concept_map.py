"""Maps of a classifier's concepts: the formula by loops, and a thing that is found where it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import normalize

from binderclip.data import load_data
from binderclip.errors import NotSupported, UsageError
from binderclip.explain import METHODS, ConceptMap
from binderclip.models import load
from binderclip.models.image_text.word_maps import concept_evidence, place_logits, word_closeness, word_maps


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


def test_places_are_means_of_nine_and_words_lie_by_their_cosines() -> None:
    own = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(3))
    concepts = SimpleNamespace(logit_map=lambda image, side: own, vectors=torch.eye(3))
    logits = place_logits(concepts, torch.zeros(1, 3, 8, 8), 64)  # type: ignore[arg-type]
    torch.testing.assert_close(logits[:, 1, 2], own[0, :, 0:3, 1:4].mean((1, 2)))
    near = word_closeness(concepts, torch.tensor([[2.0, 1.0, 0.0]]))  # type: ignore[arg-type]
    unit = normalize(torch.tensor([2.0, 1.0, 0.0]), dim=0)
    torch.testing.assert_close(near[0], unit - unit[0])


def test_it_points_at_the_thing_wherever_it_lies() -> None:
    """A photograph of a cat pasted left or right on plain ground: the peak follows it; gradients are not asked."""
    cat = next(sample.image for sample in load_data("photographs") if sample.key.startswith("chelsea"))
    small = cat.convert("RGB").resize((200, 160))
    model, peaks = load("everyday"), []
    for left in (10, 290):
        picture = Image.new("RGB", (500, 200), (120, 140, 120))
        ImageDraw.Draw(picture).line((0, 190, 500, 190), fill=(90, 90, 90))
        picture.paste(small, (left, 20))
        found = METHODS["concepts"](sides=(384, 512))(model, picture, "a cat")
        assert not bool(found.blank[0])
        peaks.append(found.peak()[0])
    assert 10 <= peaks[0] < 210
    assert 290 <= peaks[1] < 490


def test_what_it_cannot_explain_is_said() -> None:
    with pytest.raises(NotSupported, match="everyday has one"):
        ConceptMap()(load("small"), torch.rand(1, 3, 32, 32), "a cat")
    with pytest.raises(UsageError, match="explains a text"):
        ConceptMap()(load("everyday"), torch.rand(1, 3, 32, 32), 3)
    with pytest.raises(UsageError, match="2 texts for 1 images"):
        ConceptMap()(load("everyday"), torch.rand(1, 3, 32, 32), ["a cat", "a dog"])
    with pytest.raises(UsageError, match="32 to 4096"):
        ConceptMap(sides=(8,))

"""Maps of a classifier's concepts: the formula by loops, and its invariants."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

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
    logits = place_logits(concepts, torch.zeros(1, 3, 8, 8), 64)
    torch.testing.assert_close(logits[:, 1, 2], own[0, :, 0:3, 1:4].mean((1, 2)))
    near = word_closeness(concepts, torch.tensor([[2.0, 1.0, 0.0]]))
    unit = normalize(torch.tensor([2.0, 1.0, 0.0]), dim=0)
    torch.testing.assert_close(near[0], unit - unit[0])

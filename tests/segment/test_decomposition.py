"""The decomposition preset (p085, arXiv 2310.05916): maps and other terms are the logits; foreground by the mean."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.models.towers import Record
from binderclip.models.towers.trace import trace
from binderclip.segment import DecompositionSegmenter, Frame, Segmenter, TokenContributions
from binderclip.segment.parts.context import open_windows

LABELS = ["a cat", "a dog", "green grass"]


def picture(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layers", [None, (-1,)])
def test_maps_and_the_other_terms_are_the_logits(clip_model, layers) -> None:
    image = picture()
    pixels = image[None]
    with torch.no_grad():
        seen = trace(clip_model.image_tower, clip_model.preprocess.normalize(pixels))
        terms = seen.contributions("token", layers=layers).unit()
        rows = clip_model.encode_text(LABELS, normalize=True)
        context = open_windows(Frame(clip_model, pixels, pixels), pixels, [(0, 0)], Record())
        heat = torch.einsum("behw,qe->bqhw", TokenContributions(layers).features(context), rows)
        others = terms.values[:, :, :1].sum((1, 2)) + sum(terms.rest.values())
        logits = clip_model.encode_image(pixels, normalize=True) @ rows.T
    torch.testing.assert_close(heat.sum((2, 3)) + others @ rows.T, logits, rtol=1e-4, atol=1e-5)
    found = Segmenter(clip_model, "decomposition", size=32, fusion=TokenContributions(layers))(image, LABELS)
    scale = float(clip_model.scale().detach())
    drawn = scale * F.interpolate(heat, size=(32, 32), mode="bilinear")[0]
    torch.testing.assert_close(found.scores, drawn, rtol=1e-4, atol=1e-4)
    segmenter = DecompositionSegmenter(clip_model, layers=layers, size=32)
    torch.testing.assert_close(segmenter(image, LABELS).scores, drawn, rtol=1e-4, atol=1e-4)


def test_taking_the_mean_over_classes_off_leaves_the_winner(clip_model) -> None:
    found = DecompositionSegmenter(clip_model, size=32)(picture(), LABELS)
    centred = found.scores - found.scores.mean(0)
    assert torch.equal(found.labels.long(), centred.argmax(0))


def test_foreground_is_where_the_centred_heat_is_above_its_mean(clip_model) -> None:
    segmenter = DecompositionSegmenter(clip_model, size=32)
    scores = segmenter(picture(), LABELS).scores
    heat = scores[0] - scores.mean(0)
    found = segmenter.foreground(picture(), "a cat", LABELS[1:])
    assert found.classes == ("background", "a cat")
    assert found.background
    assert torch.equal(found.mask("a cat"), heat > heat.mean())
    # min-max around the mean, as the paper thresholds, is a rising function of the heat
    scaled = (heat - heat.min()) / (heat.max() - heat.min())
    assert torch.equal(found.mask("a cat"), scaled > scaled.mean())


def test_a_foreground_needs_something_to_compare_with(clip_model) -> None:
    for others in ([], "a dog"):
        with pytest.raises(UsageError, match="at least one class to compare 'a cat' with"):
            DecompositionSegmenter(clip_model).foreground(picture(), "a cat", others)

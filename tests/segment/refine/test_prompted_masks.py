"""Regions as prompts of a promptable segmenter (p148, Trident): an oracle repairs a coarse map, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import measure

from binderclip.errors import UsageError
from binderclip.segment import PromptedMasks, regions_of
from binderclip.segment.parts.context import Frame
from binderclip.segment.promptable import ImageState, Masks, OracleSegmenter
from binderclip.segment.promptable.image import framed
from binderclip.segment.refine.prompted_masks import _Probabilities


def frame(height: int, width: int) -> Frame:
    image = torch.rand(1, 3, height, width)
    return Frame(None, image, image)


def objects() -> torch.Tensor:
    """Two squares of 24 pixels in a picture of 64 x 96, and the rest."""
    masks = torch.zeros(3, 64, 96, dtype=torch.bool)
    masks[0, 20:44, 8:32], masks[1, 20:44, 60:84] = True, True
    masks[2] = ~masks[:2].any(0)
    return masks


def coarse(shift: int = 4) -> torch.Tensor:
    """Log probabilities of (ground, a, b), the objects moved down by some pixels."""
    probs = torch.full((3, 64, 96), 0.05)
    moved = objects().roll(shift, 1)
    probs[0] = 0.8
    for label, mask in ((1, moved[0]), (2, moved[1])):
        probs[label][mask], probs[0][mask] = 0.9, 0.05
    return probs.log()


def test_an_oracle_repairs_the_map() -> None:
    logits = coarse()
    labels = logits.argmax(0).int()
    truth = torch.where(objects()[0], 1, torch.where(objects()[1], 2, 0)).int()
    assert (labels != truth).float().mean() > 0.03
    found = PromptedMasks(OracleSegmenter(objects()), iou=0.1)(labels, logits, frame(64, 96))
    # What the objects' own masks cover is right; only ground that was taken for them loses by its own probability.
    assert found.dtype == labels.dtype
    assert (found[truth == 1] == 1).all()
    assert (found[truth == 2] == 2).all()
    assert (found != truth).float().mean() < (labels != truth).float().mean() / 2 + 1e-3


class Doubtful:
    """Gives a mask of everything to every prompt, sure of some of them only."""

    image_size, differentiable = 64, False

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.seen = scores, []

    def encode(self, image) -> ImageState:
        return ImageState(None, (image.shape[-2], image.shape[-1]), (64 / 96, 64 / 96))

    def predict(self, state, prompts, *, multimask=True) -> Masks:
        self.seen.append(prompts)
        scores = torch.tensor([[self.scores.pop(0)] for _ in range(len(prompts))])
        logits = torch.full((len(prompts), 1, *state.size), 2.0)
        return Masks(logits, scores, logits)


def test_unsure_masks_are_dropped_and_their_regions_compete() -> None:
    logits = coarse()
    labels = logits.argmax(0).int()
    none = PromptedMasks(Doubtful([0.1, 0.1, 0.1]))(labels, logits, frame(64, 96))
    assert none.equal(labels)
    # The ground alone is kept, everywhere at sigmoid(2) of its probability; the objects stand against it.
    found = PromptedMasks(Doubtful([0.9, 0.1, 0.1]))(labels, logits, frame(64, 96))
    assert found.equal(labels)
    given_up = PromptedMasks(Doubtful([0.9, 0.1, 0.1]), released=True)(labels, logits, frame(64, 96))
    assert (given_up == 0).all()


def test_prompts_lie_where_the_regions_lie() -> None:
    logits = coarse(0)
    logits[1, 30, 20] = -0.01
    segmenter = Doubtful([0.9, 0.9, 0.9])
    PromptedMasks(segmenter)(logits.argmax(0).int(), logits, frame(64, 96))
    prompts = segmenter.seen[1]
    assert prompts.boxes.tolist() == [[8.0, 20.0, 32.0, 44.0]]
    assert prompts.points.tolist() == [[[21.0, 31.0]]]  # the centre of the cell of two pixels
    assert prompts.masks.shape == (1, 256, 256)
    assert float(prompts.masks.max()) == pytest.approx(0.005 * 0.9, rel=0.05)
    # 96 x 64 pixels in a square of 64: the lower third is padding.
    assert (prompts.masks[0, 171:] == 0).all()
    inside = prompts.masks[0] > 0.002
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert abs(int(rows[0]) - 20 * 256 / 96) < 3
    assert abs(int(columns[-1]) - 32 * 256 / 96) < 3


def test_regions_against_skimage() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(-1, 3, (20, 30), generator=generator)
    probs = torch.rand(3, 20, 30, generator=generator)
    found = regions_of(labels, probs, least=3)
    want = []
    for label in range(3):
        numbers = measure.label((labels == label).numpy(), connectivity=2)
        for region in measure.regionprops(numbers):
            if region.area >= 3:
                y0, x0, y1, x1 = region.bbox
                rows, columns = region.coords.T
                best = int(np.argmax(probs[label].numpy()[rows, columns]))
                want.append((label, (x0, y0, x1, y1), (columns[best] + 0.5, rows[best] + 0.5)))
    assert sorted((r.label, r.box, r.point) for r in found) == sorted(want)
    assert regions_of(labels, probs, coarse=1.1) == []


def test_class_maps_fill_a_squashed_frame() -> None:
    state = ImageState(None, (50, 100), (64 / 100, 64 / 50))
    assert (framed(torch.ones(25, 50), state, 64) == 1).all()


def test_bad_shares_are_named() -> None:
    with pytest.raises(UsageError, match="coarse"):
        PromptedMasks(coarse=20)
    with pytest.raises(UsageError, match="min_area"):
        PromptedMasks(min_area=225)


@pytest.mark.parametrize("absolute", [True, False])
def test_probabilities_class_by_class_are_those_of_all_at_once(absolute) -> None:
    logits = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(0))
    drawn = torch.nn.functional.interpolate(logits[None], size=(20, 31), mode="bilinear")[0]
    want = drawn.exp() if absolute else drawn.softmax(0)
    probs = _Probabilities(logits, (20, 31), absolute)
    torch.testing.assert_close(torch.stack([probs[label] for label in range(5)]), want)
    torch.testing.assert_close(probs.largest(), want.amax(0))

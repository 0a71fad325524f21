"""All masks of a picture, against blobs that are known and segment_anything's rules written out."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment.promptable import AutomaticMasks, ImageState, Masks, OracleSegmenter, RegionMasks
from binderclip.segment.promptable.automatic import THRESHOLDS, stability_score, tidy


def test_each_blob_once(blobs):
    oracle = OracleSegmenter(blobs)
    found = AutomaticMasks(oracle, points_per_side=8, points_per_batch=7)(torch.rand(3, 40, 60))
    assert oracle.encoded == 1
    assert len(found) == 3
    expected = sorted(blobs, key=lambda mask: -int(mask.sum()))
    assert all(torch.equal(a, b) for a, b in zip(found.masks, expected, strict=True))
    assert found.boxes[0].tolist() == [30, 6, 56, 34]
    ids = found.id_map()
    assert torch.equal(ids >= 0, blobs.any(0))
    assert found.records()[0]["bbox"] == [30, 6, 26, 28]


def test_small_is_painted_over_large():
    masks = torch.zeros(2, 6, 6, dtype=torch.bool)
    masks[0, 2:4, 2:4] = True
    masks[1] = True
    found = RegionMasks.of(masks)
    assert found.areas.tolist() == [36, 4]
    assert found.id_map()[2:4, 2:4].unique().tolist() == [1]
    assert RegionMasks.of(torch.zeros(2, 4, 4, dtype=torch.bool)).id_map().unique().tolist() == [-1]


def test_an_id_map_and_back():
    ids = torch.tensor([[0, 0, 5], [0, 5, 5], [-1, -1, 5]])
    found = RegionMasks.from_ids(ids)
    assert found.areas.tolist() == [4, 3]
    assert found.id_map().tolist() == [[1, 1, 0], [1, 0, 0], [-1, -1, 0]]


class _Fixed:
    """The same candidates for every prompt."""

    image_size, differentiable = 8, False

    def __init__(self, logits: torch.Tensor, scores: list[float]) -> None:
        self.logits, self.scores = logits, torch.tensor(scores)

    def encode(self, image):
        return ImageState(None, (8, 8), (1, 1))

    def predict(self, state, prompts, *, multimask=True):
        shape = (len(prompts), *self.logits.shape)
        logits = self.logits.expand(shape)
        return Masks(logits, self.scores.expand(len(prompts), -1), logits)


def test_filters_by_score_stability_and_overlap():
    logits = torch.full((3, 8, 8), -5.0)
    logits[0, :4, :4] = 5
    logits[1, 4:, 4:] = 5
    logits[2, :, :] = 0.5  # above 0 everywhere, above 1 nowhere: stability 0
    segmenter = _Fixed(logits, [0.9, 0.5, 0.95])
    kept = AutomaticMasks(segmenter, points_per_side=2, pred_iou_thresh=0.6)(torch.rand(3, 8, 8))
    assert len(kept) == 1
    assert torch.equal(kept.masks[0], logits[0] > 0)
    loose = AutomaticMasks(segmenter, points_per_side=2, pred_iou_thresh=0.4, stability_score_thresh=0.0)
    assert loose(torch.rand(3, 8, 8)).areas.tolist() == [64, 16, 16]


def test_stability_is_the_iou_of_two_thresholds():
    logits = 4 * torch.randn(5, 9, 9)
    high, low = logits > 1, logits > -1
    expected = (high & low).flatten(1).sum(1) / (high | low).flatten(1).sum(1)
    torch.testing.assert_close(stability_score(logits), expected)


def test_tidy_fills_holes_and_drops_islands():
    mask = torch.zeros(12, 12, dtype=torch.bool)
    mask[1:8, 1:8] = True
    whole = mask.clone()
    mask[4, 4] = False
    mask[10, 10] = True
    assert torch.equal(tidy(mask, 4), whole)
    assert torch.equal(tidy(mask, 1), mask)
    only = torch.zeros(4, 4, dtype=torch.bool)
    only[0, 0] = True
    assert torch.equal(tidy(only, 4), only)


def test_nothing_found_is_an_empty_list(blobs):
    found = AutomaticMasks(OracleSegmenter(blobs & False), points_per_side=2)(torch.rand(3, 40, 60))
    assert len(found) == 0
    assert found.id_map().unique().tolist() == [-1]


def test_wrong_numbers_are_refused(blobs):
    oracle = OracleSegmenter(blobs)
    for wrong in ({"points_per_side": 0}, {"box_nms_thresh": 0.0}, {"min_mask_region_area": -1}):
        with pytest.raises(UsageError):
            AutomaticMasks(oracle, **wrong)


def test_a_model_may_bring_its_own_thresholds_and_the_caller_has_the_last_word(blobs):
    oracle = OracleSegmenter(blobs)
    assert AutomaticMasks(oracle).thresholds == THRESHOLDS
    oracle.automatic = {"pred_iou_thresh": 0.4, "stability_score_offset": 0.25}
    own = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.95, "stability_score_offset": 0.25}
    assert AutomaticMasks(oracle).thresholds == own
    assert AutomaticMasks(oracle, pred_iou_thresh=0.0).thresholds == {**own, "pred_iou_thresh": 0.0}

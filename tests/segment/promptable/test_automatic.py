"""All masks of a picture, against blobs that are known and segment_anything's rules written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage import measure

from binderclip.errors import UsageError
from binderclip.segment.promptable import (
    AutomaticMasks,
    ImageState,
    Masks,
    OracleSegmenter,
    Prompts,
    RegionMasks,
    predict_masks,
)
from binderclip.segment.promptable.automatic import THRESHOLDS
from binderclip.segment.promptable.crops import crop_boxes, near_crop_edge
from binderclip.segment.promptable.regions import stability_score, tidy


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
    ramp = torch.linspace(-2, 2, 41).view(1, 1, 41)  # steps of .1: above .55 are 15, above -.55 are 26
    torch.testing.assert_close(stability_score(ramp, 0.55), torch.tensor([15 / 26]))


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


class _Random(_Fixed):
    """Rectangles of random places and sizes, their logits falling off to the edge, and random scores."""

    def __init__(self) -> None:
        self.state = torch.Generator().manual_seed(0)
        self.logits, self.scores = [], []

    def encode(self, image):
        return ImageState(None, (40, 60), (1, 1))

    def predict(self, state, prompts, *, multimask=True):
        shape = (len(prompts), 3)
        draw = lambda low, high: torch.rand(*shape, 1, 1, generator=self.state) * (high - low) + low  # noqa: E731
        y, x = torch.arange(40.0)[:, None], torch.arange(60.0)[None]
        away = torch.maximum((y - draw(5, 35)).abs() / draw(2, 15), (x - draw(5, 55)).abs() / draw(2, 20))
        logits = draw(0.5, 6) * (1 - away)
        scores = torch.rand(shape, generator=self.state)
        self.logits.append(logits.flatten(0, 1))
        self.scores.append(scores.flatten())
        return Masks(logits, scores, logits)


def test_the_rules_written_out_in_loops():
    """Filter by score and stability, then of every two overlapping boxes keep the better one."""
    segmenter = _Random()
    found = AutomaticMasks(
        segmenter, points_per_side=8, points_per_batch=10, pred_iou_thresh=0.3, stability_score_thresh=0.4,
        stability_score_offset=0.5, box_nms_thresh=0.5,
    )(torch.rand(3, 40, 60))  # fmt: skip
    kept = []
    everything = zip(torch.cat(segmenter.logits).numpy(), torch.cat(segmenter.scores).tolist(), strict=True)
    for logits, score in sorted(everything, key=lambda item: -item[1]):
        outer = int((logits > -0.5).sum())
        if score < 0.3 or not (logits > 0).any() or (logits > 0.5).sum() / outer < 0.4:
            continue
        rows, columns = np.nonzero(logits > 0)
        box = (columns.min(), rows.min(), columns.max(), rows.max())
        if all(_iou(box, other) <= 0.5 for _, other in kept):
            kept.append((logits > 0, box))
    assert 5 < len(found) == len(kept) < 100
    expected = {mask.tobytes() for mask, _ in kept}
    assert {mask.numpy().tobytes() for mask in found.masks} == expected


def _iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    area = lambda box: max(box[2] - box[0], 0.5) * max(box[3] - box[1], 0.5)  # noqa: E731
    return both / (area(a) + area(b) - both)


def test_no_mask_is_dropped_for_its_area_and_what_was_not_changed_is_preferred() -> None:
    """Two candidates that an island tells apart: the surer one has it, and the other one is what stays."""
    logits = torch.full((3, 32, 32), -5.0)
    logits[0, 4:14, 4:14] = 5
    logits[1] = logits[0]
    logits[1, 26:28, 28:30] = 5  # an island of 4 pixels stretches the box
    logits[2, 24:26, 6:9] = 5  # smaller than the least region, and all there is of its mask
    segmenter = _Fixed(logits, [0.7, 0.9, 0.8])
    segmenter.encode = lambda image: ImageState(None, (32, 32), (1, 1))  # type: ignore[method-assign]
    found = AutomaticMasks(segmenter, points_per_side=1, pred_iou_thresh=0.5, min_mask_region_area=20)(
        torch.rand(3, 32, 32)
    )
    assert found.areas.tolist() == [100, 6]
    assert found.scores.tolist() == pytest.approx([0.7, 0.8])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("box_nms_thresh", "crop_nms_thresh"), [(0.3, 0.617), (0.617, 0.3)])
def test_small_regions_by_segment_anythings_rules(seed: int, box_nms_thresh: float, crop_nms_thresh: float) -> None:
    """The rules of `SamAutomaticMaskGenerator.postprocess_small_regions` in loops, with scikit-image's regions."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: torch.randint(low, high, (30, 1, 1), generator=generator)  # noqa: E731
    y, x = torch.arange(40)[:, None], torch.arange(60)[None]
    inside = ((y - draw(14, 20)).abs() < draw(4, 8)) & ((x - draw(14, 20)).abs() < draw(4, 8))
    grain = torch.rand(30, 40, 60, generator=generator)
    grain = torch.where(draw(0, 3) > 0, grain, 0.5)  # a third of the masks have neither islands nor holes
    masks = (inside & (grain > 0.04)) | (grain > 0.999)
    scores = torch.rand(len(masks), generator=generator)
    automatic = AutomaticMasks(
        OracleSegmenter(masks), min_mask_region_area=9, box_nms_thresh=box_nms_thresh, crop_nms_thresh=crop_nms_thresh
    )
    found = automatic._finished(masks, scores, scores, torch.zeros(len(masks), 2))
    mended = [_without_small_regions(mask.numpy(), 9) for mask in masks]
    unchanged = [bool((new == old.numpy()).all()) for new, old in zip(mended, masks, strict=True)]
    kept: list[int] = []
    for i in sorted(range(len(mended)), key=lambda i: not unchanged[i]):
        if all(_iou(_box(mended[i]), _box(mended[j])) <= 0.617 for j in kept):
            kept.append(i)
    assert 1 < len(kept) < len(mended)
    assert {mask.numpy().tobytes() for mask in found.masks} == {mended[i].tobytes() for i in kept}
    assert sorted(found.scores.tolist()) == sorted(scores[kept].tolist())


def _without_small_regions(mask: np.ndarray, area: int) -> np.ndarray:
    """Holes of fewer pixels filled, then islands of fewer away, but for the largest where all are smaller."""
    mask = mask.copy()
    holes = measure.label(~mask, connectivity=2)
    for region in measure.regionprops(holes):
        if region.area < area:
            mask[holes == region.label] = True
    islands = measure.label(mask, connectivity=2)
    regions = measure.regionprops(islands)
    large = [region for region in regions if region.area >= area] or [max(regions, key=lambda region: region.area)]
    return np.isin(islands, [region.label for region in large])


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_threshold_of_nothing_keeps_every_candidate() -> None:
    logits = torch.full((2, 8, 8), -5.0)
    logits[0, :4, :4] = logits[1, 4:, 4:] = 5
    segmenter = _Fixed(logits, [-0.2, 0.5])
    count = lambda least: len(AutomaticMasks(segmenter, 1, pred_iou_thresh=least)(torch.rand(3, 8, 8)))  # noqa: E731
    assert [count(0.0), count(0.4), count(0.5)] == [2, 1, 0]  # 0 is no threshold; 0.5 is not above 0.5


def test_crops_find_what_the_whole_picture_is_too_coarse_for():
    """An oracle of what is in its crop; one point to a side meets nothing in the whole picture."""
    small = torch.zeros(100, 160, dtype=torch.bool)
    small[20:30, 34:46] = True

    class Local(OracleSegmenter):
        def encode(self, image):
            self.encoded += 1
            at = (image[0, 0] > 0.5).float() if image.ndim == 4 else (image[0] > 0.5).float()
            return ImageState(at, tuple(at.shape), (1, 1))

        def predict(self, state, prompts, *, multimask=True):
            at = prompts.points[:, 0].long()
            hit = state.features[at[:, 1], at[:, 0]] > 0
            logits = torch.where(hit[:, None, None], 20 * state.features - 10, -10.0)[:, None]
            return Masks(logits, hit[:, None].float(), logits)

    oracle = Local(small[None])
    image = small.float().expand(3, -1, -1)
    assert len(AutomaticMasks(oracle, points_per_side=1)(image)) == 0
    found = AutomaticMasks(oracle, points_per_side=1, crop_n_layers=1, crop_overlap_ratio=0.0)(image)
    assert oracle.encoded == 1 + 5
    assert len(found) == 1
    assert torch.equal(found.masks[0], small)
    assert found.points.tolist() == [[40, 25]]
    # an object that a crop cuts off is left to others
    wide = torch.zeros(100, 160, dtype=torch.bool)
    wide[20:30, 30:130] = True
    assert len(AutomaticMasks(Local(wide[None]), points_per_side=1, crop_n_layers=1, crop_overlap_ratio=0.0)(
        wide.float().expand(3, -1, -1))) == 0  # fmt: skip


def test_many_prompts_at_once_go_in_batches(tiny):
    state = tiny.encode(torch.rand(3, 48, 70))
    points = torch.rand(300, 1, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([70, 48])
    prompts = Prompts(points, torch.ones(300, 1, dtype=torch.long))
    logits, scores = predict_masks(tiny, state, prompts, batch=64)
    assert logits.shape == (300, 48, 70)
    for row in (0, 63, 64, 299):
        one = tiny.predict(state, prompts.rows(row, row + 1)).pick()
        torch.testing.assert_close(logits[row], one.logits[0, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores[row], one.scores[0, 0], atol=1e-4, rtol=1e-4)


def test_nothing_found_is_an_empty_list(blobs):
    found = AutomaticMasks(OracleSegmenter(blobs & False), points_per_side=2)(torch.rand(3, 40, 60))
    assert len(found) == 0
    assert found.id_map().unique().tolist() == [-1]


def test_wrong_numbers_are_refused(blobs):
    oracle = OracleSegmenter(blobs)
    for wrong in ({"points_per_side": 0}, {"box_nms_thresh": 0.0}, {"min_mask_region_area": -1},
                  {"crop_n_layers": 9}, {"crop_overlap_ratio": 1.0}, {"crop_nms_thresh": 0.0},
                  {"crop_n_points_downscale_factor": 0}):  # fmt: skip
        with pytest.raises(UsageError):
            AutomaticMasks(oracle, **wrong)


def test_a_model_may_bring_its_own_thresholds_and_the_caller_has_the_last_word(blobs):
    oracle = OracleSegmenter(blobs)
    assert AutomaticMasks(oracle).thresholds == THRESHOLDS
    oracle.automatic = {"pred_iou_thresh": 0.4, "stability_score_offset": 0.25}
    own = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.95, "stability_score_offset": 0.25}
    assert AutomaticMasks(oracle).thresholds == own
    assert AutomaticMasks(oracle, pred_iou_thresh=0.0).thresholds == {**own, "pred_iou_thresh": 0.0}


def test_deeper_crops_are_asked_with_fewer_points_and_a_category_is_written(blobs):
    automatic = AutomaticMasks(OracleSegmenter(blobs), points_per_side=9, crop_n_points_downscale_factor=2)
    assert [len(automatic.grid(90, 90, layer)) for layer in range(4)] == [81, 16, 4, 1]
    assert automatic.grid(60, 40, 2).tolist() == [[10, 15], [30, 15], [10, 45], [30, 45]]
    entries = RegionMasks.of(blobs).annotations(7, first=4, category=3)
    assert [(entry["id"], entry["image_id"], entry["category_id"]) for entry in entries] == [
        (4, 7, 3), (5, 7, 3), (6, 7, 3),
    ]  # fmt: skip


def test_a_mask_of_a_smaller_crop_replaces_the_whole_pictures():
    """Boxes of the whole picture are a little too large here; those of a crop fit."""
    small = torch.zeros(100, 160, dtype=torch.bool)
    small[2:22, 10:34] = True

    class Coarse(OracleSegmenter):
        def encode(self, image):
            at = (image[0, 0] if image.ndim == 4 else image[0]) > 0.5
            return ImageState(at.float(), tuple(at.shape), (1, 1))

        def predict(self, state, prompts, *, multimask=True):
            at = prompts.points[:, 0].long()
            hit = state.features[at[:, 1], at[:, 0]] > 0
            shown = state.features
            if state.size == (100, 160):
                shown = torch.nn.functional.max_pool2d(shown[None, None], 3, 1, 1)[0, 0]
            logits = torch.where(hit[:, None, None], 20 * shown - 10, -10.0)[:, None]
            return Masks(logits, hit[:, None].float(), logits)

    image = small.float().expand(3, -1, -1)
    settings = {"points_per_side": 9, "crop_overlap_ratio": 0.0}
    whole = AutomaticMasks(Coarse(small[None]), **settings)(image)
    found = AutomaticMasks(Coarse(small[None]), crop_n_layers=1, **settings)(image)
    assert whole.areas.tolist() == [22 * 26]
    assert found.areas.tolist() == [20 * 24]


def test_crops_and_their_edges_are_those_of_segment_anything():
    # Layer 1: overlap 50, crops of (50 + 160) / 2 by (50 + 100) / 2; layer 2: 25, (75 + 160) / 4 by (75 + 100) / 4.
    boxes = crop_boxes((100, 160), 2, 0.5)
    first = [(x, y, min(x + 105, 160), min(y + 75, 100)) for x in (0, 55) for y in (0, 25)]
    second = [(x, y, min(x + 59, 160), min(y + 44, 100)) for x in (0, 34, 68, 102) for y in (0, 19, 38, 57)]
    assert boxes == [(0, (0, 0, 160, 100)), *((1, box) for box in first), *((2, box) for box in second)]
    # 20 pixels from the edge of a crop are near, 21 are not; the picture's own edge cuts nothing off.
    at = torch.tensor([[55.0, 25, 180, 110], [56, 25, 180, 110], [0, 0, 60, 60]])
    assert near_crop_edge(at, (35, 0, 235, 200), (300, 400)).tolist() == [True, False, False]


def test_one_candidate_a_point_by_wish(blobs, tiny, monkeypatch):
    asked = []
    for segmenter, name in ((OracleSegmenter(blobs), "predict"), (tiny, "predict_low")):
        answer = getattr(segmenter, name)
        monkeypatch.setattr(segmenter, name, lambda *a, _answer=answer, **k: asked.append(k) or _answer(*a, **k))
        for multimask in (True, False):
            AutomaticMasks(segmenter, points_per_side=2, multimask=multimask)(torch.rand(3, 40, 60))
    assert asked == [{"multimask": True}, {"multimask": False}] * 2

"""Points from heatmaps, boxes from masks, wholes from parts, cut-outs."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment.promptable import Masks, OracleSegmenter
from binderclip.segment.task import (
    BestScore,
    CandidateMasks,
    EveryMask,
    Look,
    MostSimilar,
    SimilarityWeighted,
    contained_dropped,
    cutouts,
    grown_box,
    heatmap_points,
)


def test_points_are_the_hottest_and_as_many_coldest_cells():
    heat = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    heat[2, 3], heat[4, 6] = 2.0, -1.0
    points, labels = heatmap_points(heat, (50, 140), threshold=0.6, down_sample=1.0)
    unit = (heat + 1) / 3
    hot = (unit >= 0.6).nonzero()
    assert labels == [0] * len(hot) + [1] * len(hot)
    inside = {(float((c + 0.5) * 20 // 1), float((r + 0.5) * 10 // 1)) for r, c in hot.tolist()}
    assert {tuple(p) for p in points[len(hot) :].tolist()} == inside
    assert points[-1].tolist() == [70, 25]  # the hottest is the last one
    assert points[0].tolist() == [130, 45]  # the coldest the first
    doubled, _ = heatmap_points(heat, (50, 140), threshold=0.99, down_sample=0.5)
    assert len(doubled) >= 2
    assert doubled[-1][0] in (65, 75)
    assert len(heatmap_points(heat, (50, 140), threshold=0.0, down_sample=1.0)[0]) == 2 * (35 // 2)
    assert heatmap_points(torch.ones(4, 4), (8, 8))[1] == []


def test_the_box_grows_around_the_part_with_the_largest_box():
    mask = np.zeros((60, 80), dtype=bool)
    mask[10:30, 10:30] = True  # 20 x 20
    for i in range(12):
        mask[40 + i, 50 + i] = True  # 12 x 12, the loosest part: 144 / 12
    # 10..30 moves by floor(2) to 8, then by ceil(2.2) to 33
    assert grown_box(mask) == (8, 8, 33, 33)
    assert grown_box(mask & False) == (0, 0, 80, 60)
    assert grown_box(mask | True) == (0, 0, 80, 60)
    odd = np.zeros((60, 80), dtype=bool)
    odd[20:39, 30:45] = True  # 15 x 19: floor(1.5) and floor(1.9), then ceil(1.6) and ceil(2.0)
    assert grown_box(odd) == (29, 19, 47, 41)


def test_parts_go_into_wholes_and_the_largest_is_the_background():
    masks = torch.zeros(3, 50, 50, dtype=torch.bool)
    for row, side in enumerate((40, 20, 10)):
        masks[row, 5 : 5 + side, 5 : 5 + side] = True
    assert contained_dropped(masks) == [0]
    masks[2] = False
    masks[2, 40:48, 3:13] = True  # half of it outside
    assert contained_dropped(masks) == [0, 2]
    # a share that is just reached is not above it
    masks = masks[:2].clone()
    masks[1] = False
    masks[1, 5:45, 44:46] = True
    assert contained_dropped(masks, overlap=0.5) == [0, 1]
    assert contained_dropped(masks, overlap=0.49) == [0]


def test_every_mask_of_an_oracle(picture, oracle, blobs):
    look = Look(picture, oracle, oracle.encode(picture))
    every = EveryMask(8, drop_largest=False)(look)
    assert {m.numpy().tobytes() for m in every.logits > 0} == {b.numpy().tobytes() for b in blobs}
    fewer = EveryMask(8)(look)
    assert {m.numpy().tobytes() for m in fewer.logits > 0} == {b.numpy().tobytes() for b in blobs[:2]}
    assert oracle.encoded == 1


def test_the_largest_mask_is_dropped_though_it_is_the_only_one(picture):
    nested = torch.zeros(3, 40, 60, dtype=torch.bool)
    for row, side in enumerate((36, 20, 10)):
        nested[row, 2 : 2 + side, 2 : 2 + side] = True
    oracle = OracleSegmenter(nested)
    look = Look(picture, oracle, oracle.encode(picture))
    with pytest.warns(UserWarning, match="drop_largest"):
        assert len(EveryMask(16)(look)) == 0
    kept = EveryMask(16, drop_largest=False)(look)
    assert torch.equal(kept.logits > 0, nested[:1])


def test_slip_leaves_out_what_is_not_sure_to_nine_tenths(picture, blobs):
    class Unsure(OracleSegmenter):
        """Knows the predicted IoU: 0.95, 0.89 and 0.8."""

        automatic: ClassVar = {"pred_iou_thresh": 0.85}

        def predict(self, state, prompts, *, multimask=True):
            found = super().predict(state, prompts, multimask=multimask)
            sizes = (found.logits > 0).flatten(2).sum(2)
            known = {int(b.sum()): s for b, s in zip(blobs, (0.95, 0.89, 0.8), strict=True)}
            scores = torch.tensor([[known.get(int(n), 0.0) for n in row] for row in sizes])
            return Masks(found.logits, scores, found.low_res)

    oracle = Unsure(blobs)
    look = Look(picture, oracle, oracle.encode(picture))
    for threshold, expected in (({}, [0]), ({"pred_iou_thresh": None}, [0, 1]), ({"pred_iou_thresh": 0.5}, [2, 0, 1])):
        found = EveryMask(8, drop_largest=False, **threshold)(look)
        assert torch.equal(found.logits > 0, blobs[expected])


def test_cutouts_are_numpys(picture, blobs):
    pixels = np.asarray(picture)
    for ground, value in (("black", 0), ("mean", pixels.mean((0, 1)).round()), ("original", pixels)):
        for cut, mask in zip(cutouts(picture, blobs, ground), blobs.numpy(), strict=True):
            rows, columns = np.nonzero(mask)
            box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert np.array_equal(np.asarray(cut), np.where(mask[..., None], pixels, value)[box].astype(np.uint8))
    squashed = cutouts(picture, blobs, size=(14, 10))
    for cut, own in zip(squashed, cutouts(picture, blobs), strict=True):
        assert cut.size == (10, 14)
        assert np.array_equal(np.asarray(cut), np.asarray(own.resize((10, 14), Image.Resampling.BILINEAR)))
    with pytest.raises(UsageError, match="pixel"):
        cutouts(picture, blobs & False)
    with pytest.raises(UsageError, match="ground"):
        cutouts(picture, blobs, "glitter")


class Colours:
    """Pictures are their mean colour beside black, words are colours."""

    def encode_image(self, pictures):
        means = [np.asarray(p, dtype=np.float32).reshape(-1, 3).mean(0) for p in pictures]
        return torch.tensor(np.stack(means)) + 1e-3

    def text_bank(self, words):
        rows = torch.eye(3)[[("red", "green", "blue").index(word) for word in words]]
        return type("Bank", (), {"prototypes": lambda self: rows, "scale": 100.0})()


def test_the_cutout_most_like_the_word_wins(picture, blobs):
    found = CandidateMasks(20.0 * blobs.float() - 10, torch.tensor([0.1, 0.9, 0.2]))
    for row, word in enumerate(("red", "green", "blue")):
        assert torch.equal(MostSimilar(Colours())(picture, found, [word]) > 0.5, blobs[row])
        weighted = SimilarityWeighted(Colours())(picture, found, [word])
        assert torch.equal(weighted > 0.5, blobs[row])
        assert float(weighted.max()) <= 1
    assert torch.equal(BestScore()(picture, found, ["red"]) > 0.5, blobs[1])
    empty = CandidateMasks(torch.full((2, 40, 60), -9.0), torch.ones(2))
    assert not MostSimilar(Colours())(picture, empty, ["red"]).any()
    none = CandidateMasks(torch.zeros(0, 40, 60), torch.zeros(0))
    for choose in (MostSimilar(Colours()), SimilarityWeighted(Colours()), BestScore()):
        assert choose(picture, none, ["red"]).shape == (40, 60)


def test_weights_are_a_softmax_of_cosines(picture, blobs):
    found = CandidateMasks(20.0 * blobs.float() - 10, torch.ones(3))
    chooser = SimilarityWeighted(Colours(), scale=5.0)
    like = chooser.similarity(picture, blobs, ["red", "red"])
    weights = np.exp(5 * like.numpy()) / np.exp(5 * like.numpy()).sum()
    expected = sum(w * m for w, m in zip(weights, blobs.numpy(), strict=True))
    np.testing.assert_allclose(chooser(picture, found, ["red"]).numpy(), expected, atol=1e-3)


def test_erasing_keeps_what_is_outside():
    from binderclip.segment.task import filled_from_border

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)
    pixels[8:20, 10:30] = (255, 0, 0)
    filled = np.asarray(filled_from_border(Image.fromarray(pixels), (10, 8, 30, 20)))
    outside = np.ones((30, 40), dtype=bool)
    outside[8:20, 10:30] = False
    assert np.array_equal(filled[outside], pixels[outside])
    assert filled[8:20, 10:30, 0].mean() < 200
    whole = np.asarray(filled_from_border(Image.fromarray(pixels), (0, 0, 40, 30)))
    assert len(np.unique(whole.reshape(-1, 3), axis=0)) == 1

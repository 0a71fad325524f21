"""Simple Copy-Paste (p134, arXiv 2012.07177): conservation, slow loops, torchvision's boxes, plain resizing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import masks_to_boxes

from binderclip.data import CopyPaste, InstanceSample, LargeScaleJitter, scenes
from binderclip.data.synthetic_scenes.paste import Piece, boxes_of, paste
from binderclip.errors import UsageError


def sample(seed: int, objects: int = 3, size: tuple[int, int] = (16, 20)) -> InstanceSample:
    """Random colours and disjoint random blots."""
    g = torch.Generator().manual_seed(seed)
    owner = F.interpolate(torch.rand(1, objects + 1, 4, 5, generator=g), size=size, mode="bilinear")[0].argmax(0)
    masks = torch.stack([owner == k for k in range(objects)]) if objects else torch.zeros(0, *size, dtype=torch.bool)
    return InstanceSample(torch.rand(3, *size, generator=g), masks, torch.arange(objects) + 1, f"s{seed}")


def test_paste_equals_a_slow_loop() -> None:
    g = torch.Generator().manual_seed(0)
    image, masks = torch.rand(3, 3, 3, generator=g), torch.rand(2, 3, 3, generator=g) < 0.6
    alpha = torch.tensor([[0.0, 1.0], [0.7, 0.2]])
    colour = torch.rand(2, 2, 3, generator=g) * alpha[..., None]
    expected, hidden = image.clone(), masks.clone()
    for i in range(2):
        for j in range(2):
            for c in range(3):
                expected[1 + i, j, c] = colour[i, j, c] + (1 - alpha[i, j]) * image[1 + i, j, c]
            if alpha[i, j] >= 0.5:
                hidden[:, 1 + i, j] = False
    arrays = image.numpy().copy(), masks.numpy().copy()
    paste(image, masks, Piece(colour, alpha, alpha >= 0.5), 1, 0)
    paste(*arrays, Piece(colour.numpy(), alpha.numpy(), alpha.numpy() >= 0.5), 1, 0)
    for found in ((image, masks), map(torch.from_numpy, arrays)):
        got, left = found
        assert torch.allclose(got, expected, atol=1e-6)
        assert torch.equal(left, hidden)


def test_boxes_are_those_of_torchvision_half_open() -> None:
    masks = sample(1).masks
    expected = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # torchvision's end is the last pixel
    assert torch.equal(boxes_of(masks), expected)
    assert not boxes_of(torch.zeros(1, 4, 9, dtype=torch.bool)).any()


# --- pasting ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 200), st.integers(0, 3), st.integers(1, 4), st.sampled_from(["uniform-size", "each"]))
def test_every_pixel_is_the_targets_or_the_sources(seed: int, below: int, above: int, select: str) -> None:
    target, source = sample(seed, below), sample(seed + 1000, above)
    result = CopyPaste(select=select, min_pixels=0, seed=seed)([target], [source])[0]
    pasted = len(result) - sum(
        bool((target.masks[k] & ~_pasted_area(result, source)).any()) for k in range(len(target))
    )
    assert 1 <= pasted <= above
    alpha = result.masks[len(result) - pasted :].any(0)
    assert torch.allclose(result.image, torch.where(alpha, source.image, target.image), atol=2e-7)
    # the pasted masks and labels are the source's own, in its order
    rows = [int(label) - 1 for label in result.labels[len(result) - pasted :]]
    assert rows == sorted(set(rows))
    assert torch.equal(result.masks[len(result) - pasted :], source.masks[rows])
    # what is left of the target's objects is disjoint from them, and nothing else is lost
    kept = result.masks[: len(result) - pasted]
    assert not (kept & alpha).any()
    assert int(kept.sum()) == int((target.masks & ~alpha).sum())
    assert torch.equal(result.boxes, masks_to_boxes(result.masks) + torch.tensor([0, 0, 1, 1]))


def _pasted_area(result: InstanceSample, source: InstanceSample) -> Tensor:
    """Where the result is the source's picture (colours are random reals: they never coincide)."""
    return ((result.image - source.image).abs() < 1e-6).all(0)


def test_nothing_is_pasted_from_nothing_or_with_probability_zero_or_without_another_picture() -> None:
    target = sample(1)
    for result in (
        CopyPaste()([target], [sample(2, objects=0)]),
        CopyPaste(p=0.0)([target], [sample(2)]),
        CopyPaste()([target]),
    ):
        assert result[0] is target


def test_a_hidden_object_goes_and_small_remains_go_only_when_something_was_hidden() -> None:
    picture = torch.zeros(3, 8, 8)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :4, :4] = True  # wholly hidden
    masks[1, :4, 4:6] = True  # half hidden: 4 pixels left
    masks[2, 6:, 6:] = True  # 4 pixels, untouched
    target = InstanceSample(picture, masks, torch.tensor([1, 2, 3]), "a")
    cover = torch.zeros(1, 8, 8, dtype=torch.bool)
    cover[0, :4, :5] = True
    source = InstanceSample(picture + 1, cover, torch.tensor([7]), "b")
    assert CopyPaste(min_pixels=10).onto(target, source, [0]).labels.tolist() == [3, 7]
    result = CopyPaste(min_pixels=4).onto(target, source, [0])
    assert result.labels.tolist() == [2, 3, 7]
    assert result.boxes[0].tolist() == [5, 0, 6, 4]
    assert int(result.semantic[0, 5]) == 2
    assert int(result.semantic[0, 4]) == 7


def test_ignored_parts_are_kept_where_nothing_is_pasted_and_never_pasted() -> None:
    target, source = sample(1), sample(2)
    ignore = torch.zeros(target.size, dtype=torch.bool)
    ignore[:, :10] = True
    target = dataclasses.replace(target, ignore=ignore)
    result = CopyPaste().onto(target, dataclasses.replace(source, ignore=ignore.roll(10, 1)), [1])
    assert torch.equal(result.ignore, ignore & ~source.masks[1])
    assert ((result.semantic == -1) == result.ignore).all()


def test_sources_are_uniform_over_the_others() -> None:
    pool = [sample(k, objects=1) for k in range(4)]
    marks = [dataclasses.replace(s, labels=torch.tensor([10 + k])) for k, s in enumerate(pool)]
    counts = np.zeros((4, 4))
    for epoch in range(300):
        for k, result in enumerate(CopyPaste(seed=5)(marks, epoch=epoch)):
            counts[k, int(result.labels[-1]) - 10] += 1
    assert not counts.diagonal().any()
    off = counts[~np.eye(4, dtype=bool)]
    assert ((off - 100) ** 2 / 100).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001


def test_the_number_of_objects_is_uniform_or_binomial() -> None:
    source = sample(0, objects=3)
    for select, expected in (("uniform-size", [1 / 3, 1 / 3, 1 / 3]), ("each", [4 / 8, 3 / 8, 1 / 8])):
        mix = CopyPaste(select=select)
        numbers = np.array([len(mix._chosen(f"k{i}", len(source), 0)) for i in range(3000)])
        share = np.bincount(numbers, minlength=4)[1:] / 3000
        assert np.abs(share - expected).max() < 4 * (0.25 / 3000) ** 0.5


def test_the_result_depends_on_seed_key_and_epoch_only() -> None:
    pool = [sample(k) for k in range(6)]
    mix = CopyPaste(LargeScaleJitter(16, seed=3), seed=3)
    whole = mix(pool, epoch=2)
    alone = mix([pool[4]], pool, epoch=2)[0]
    assert torch.equal(alone.image, whole[4].image)
    assert torch.equal(alone.masks, whole[4].masks)
    assert not torch.equal(mix([pool[4]], pool, epoch=3)[0].image, alone.image)
    # the same picture is jittered differently as a target and as a source
    assert not torch.equal(mix.jitter(pool[0]).image, mix.jitter(pool[0], role="onto s1").image)


def test_a_soft_edge_changes_pixels_near_the_edge_only() -> None:
    target, source = sample(1, size=(32, 40)), sample(2, size=(32, 40))
    hard, soft = CopyPaste().onto(target, source, [0]), CopyPaste(blur=1.0).onto(target, source, [0])
    inner = -F.max_pool2d(-source.masks[0].float()[None], 9, 1, 4)[0] > 0
    assert inner.any()
    assert torch.allclose(soft.image[:, inner], hard.image[:, inner], atol=1e-3)
    assert torch.equal(soft.masks, hard.masks)
    assert not torch.allclose(soft.image, hard.image, atol=0.05)


# --- jitter ----------------------------------------------------------------------------------------------------------


def test_without_chance_the_jitter_is_a_plain_resize_at_the_corner() -> None:
    one = sample(3, size=(20, 40))
    got = LargeScaleJitter(20, scale=(1.0, 1.0), flip=0.0, fill=(0.1, 0.2, 0.3))(one)
    small = F.interpolate(one.image[None], size=(10, 20), mode="bilinear", antialias=True)[0]
    assert torch.allclose(got.image[:, :10], small, atol=1e-6)
    assert torch.equal(got.image[:, 10:], torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1).expand(3, 10, 20))
    nearest = F.interpolate(one.masks[None].float(), size=(10, 20), mode="nearest-exact")[0] > 0
    assert torch.equal(got.masks[:, :10], nearest[nearest.flatten(1).any(1)])
    assert not got.masks[:, 10:].any()
    square = sample(4, size=(20, 20))
    same = LargeScaleJitter(20, scale=(1.0, 1.0), flip=1.0)(square)
    assert torch.equal(same.image, square.image.flip(-1))
    assert torch.equal(same.masks, square.masks.flip(-1))


def test_enlarging_crops_and_masks_stay_on_their_pixels() -> None:
    # An object that is all of one colour is found by its colour after any jitter.
    image = torch.zeros(3, 24, 24)
    masks = torch.zeros(1, 24, 24, dtype=torch.bool)
    masks[0, 6:18, 4:20] = True
    image[0, masks[0]] = 1.0
    one = InstanceSample(image, masks, torch.tensor([1]), "a")
    factors = set()
    for epoch in range(40):
        got = LargeScaleJitter(24, scale=(0.3, 2.5), fill=0.0, place="random")(one, epoch)
        if not len(got):
            continue
        wrong = (got.image[0] > 0.5) ^ got.masks[0]
        edge = F.max_pool2d(got.masks.float(), 3, 1, 1)[0] - -F.max_pool2d(-got.masks.float(), 3, 1, 1)[0]
        assert not wrong[edge == 0].any()
        factors.add(round(float(got.masks.sum()) / 192, 2))
    assert min(factors) < 0.4
    assert max(factors) > 1.8


def test_objects_that_fall_outside_are_dropped_with_their_labels() -> None:
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 15, 15] = True
    one = InstanceSample(torch.rand(3, 16, 16), masks, torch.tensor([4, 9]), "a")
    seen = set()
    for epoch in range(30):
        got = LargeScaleJitter(16, scale=(2.0, 2.0), flip=0.0)(one, epoch)
        assert got.masks.flatten(1).any(1).all()
        seen.add(tuple(got.labels.tolist()))
    assert () in seen
    assert (4, 9) not in seen


# --- samples ---------------------------------------------------------------------------------------------------------


def test_scenes_become_samples_with_their_label_map_and_caption() -> None:
    batch = scenes(0, 3, 48, objects=(2, 3))
    for k, one in enumerate(map(InstanceSample.from_sample, batch.samples())):
        assert torch.equal(one.semantic, batch.semantic[k])
        assert torch.allclose(one.image, batch.images[k], atol=0.5 / 255 + 1e-6)
        assert torch.equal(one.boxes, batch.boxes[k][batch.present[k]])
        assert one.caption(batch.classes) == batch.captions[k]
    both = CopyPaste(min_pixels=0).onto(one, InstanceSample.from_sample(batch.samples()[0]), [0])
    assert batch.names[0][0] in both.caption(batch.classes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LargeScaleJitter(0), "size is 0"),
        (lambda: LargeScaleJitter(8, scale=(0.0, 1.0)), "scale is"),
        (lambda: LargeScaleJitter(8, flip=2.0), "flip is 2.0"),
        (lambda: LargeScaleJitter(8, place="middle"), "place is 'middle'"),
        (lambda: CopyPaste(select="all"), "select is 'all'"),
        (lambda: CopyPaste(p=-0.1), "p is -0.1"),
        (lambda: CopyPaste(blur=-1.0), "blur -1.0"),
        (lambda: CopyPaste()([sample(1)], [sample(2, size=(8, 8))]), "give a jitter"),
        (lambda: CopyPaste()([sample(1)], [sample(2), sample(2)]), "2 sources have 1 different keys"),
        (lambda: InstanceSample(torch.zeros(1, 4, 4), torch.zeros(0, 4, 4).bool(), torch.zeros(0)), "image is"),
        (lambda: InstanceSample(torch.zeros(3, 4, 4), torch.zeros(2, 4, 4).bool(), torch.zeros(1)), "masks are"),
        (lambda: dataclasses.replace(sample(1), ignore=torch.zeros(2, 2).bool()), "ignore is"),
    ],
)
def test_mistakes_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_a_sample_without_masks_or_labels_is_refused() -> None:
    found = scenes(0, 1, 32).samples()[0]
    with pytest.raises(UsageError, match="has no masks"):
        InstanceSample.from_sample(dataclasses.replace(found, masks=None))
    with pytest.raises(UsageError, match="has no labels"):
        InstanceSample.from_sample(dataclasses.replace(found, attributes={}))

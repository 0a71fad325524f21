"""GrabCut of maps (Rother, Kolmogorov, Blake, SIGGRAPH 2004) on scenes whose masks are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment import CutSettings, GrabCut, cut_labels, mask_iou
from binderclip.segment.cut.labels import Seeds, cut_seeds, otsu_threshold
from binderclip.segment.parts.context import Frame


def scene(height: int = 90, width: int = 120) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A picture with a red and a green disc on bluish ground, masks (2, H, W), and coarse maps that only touch them."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    centres = ((40, 30), (50, 90))
    masks = torch.stack([(rows - y) ** 2 + (columns - x) ** 2 < 18**2 for y, x in centres])
    image = torch.tensor([0.2, 0.4, 0.7])[:, None, None].expand(3, height, width)
    for mask, colour in zip(masks, ([0.8, 0.2, 0.2], [0.3, 0.8, 0.2]), strict=True):
        image = torch.where(mask, torch.tensor(colour)[:, None, None], image)
    image = (image + 0.05 * torch.randn(3, height, width, generator=generator)).clamp(0, 1)
    near = torch.stack([torch.exp(-((rows - y + 4) ** 2 + (columns - x - 4) ** 2) / 500.0) for y, x in centres])
    maps = torch.nn.functional.interpolate(near[None], size=(9, 12), mode="area")[0]
    return image, masks, maps


@pytest.mark.parametrize("place", [0, 1])
def test_one_label_is_cut_out_along_its_edge(place: int) -> None:
    image, masks, maps = scene()
    found = cut_labels(image, maps[place : place + 1]) == 0
    split = maps[place] > otsu_threshold(maps[place].numpy())
    split = torch.nn.functional.interpolate(split[None, None].float(), size=found.shape, mode="nearest")[0, 0] > 0
    cut, plain = (float(mask_iou(each[None], masks[place : place + 1])) for each in (found, split))
    assert cut > 0.93 > 0.8 > plain


def test_several_labels_are_cut_at_once_and_do_not_overlap() -> None:
    image, masks, maps = scene()
    found = cut_labels(image, maps)
    for label in range(2):
        assert float(mask_iou((found == label)[None], masks[label : label + 1])) > 0.93
    assert torch.equal(cut_labels(image, maps.flip(0)) == 0, found == 1)


def test_offset_and_scale_of_a_map_change_nothing_and_a_constant_one_takes_nothing() -> None:
    image, _, maps = scene()
    found = cut_labels(image, maps)
    assert float((cut_labels(image, 3 * maps - 7) != found).float().mean()) < 0.002
    assert float((cut_labels(image, 0.25 * maps[:1] + 2) != cut_labels(image, maps[:1])).float().mean()) < 0.002
    flat = torch.cat([maps[:1], torch.full_like(maps[:1], 0.3)])
    assert torch.equal(cut_labels(image, flat), cut_labels(image, maps[:1]))
    assert bool((cut_labels(image, flat[1:]) == -1).all())


def test_a_constant_map_takes_nothing_whatever_its_height_and_however_often_it_was_resized() -> None:
    """Bilinear weights of 427 rows from 24 do not add up to one in float32: -100 becomes -100.00003 here and there."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 427, 640, generator=generator)
    for height in (-100.0, -3.5, 1e4):
        level = torch.full((1, 1, 24, 36), height)
        resized = torch.nn.functional.interpolate(level, size=(427, 640), mode="bilinear", antialias=True)
        assert bool((cut_labels(image, resized[0]) == -1).all())


def test_of_two_labels_that_claim_the_same_the_higher_map_has_it() -> None:
    image, masks, maps = scene()
    for first, second in ((0.5, 0.0), (0.0, 0.5)):
        found = cut_labels(image, torch.stack([maps[0] + first, maps[0] + second]))
        assert float(mask_iou((found == int(second > first))[None], masks[:1])) > 0.93
        assert not bool((found == int(first > second)).any())


def test_the_mirrored_picture_has_the_mirrored_mask() -> None:
    image, _, maps = scene()
    found, mirrored = (cut_labels(image.flip(-1), maps.flip(-1)).flip(-1), cut_labels(image, maps))
    assert float((found != mirrored).float().mean()) < 0.002


def test_the_part_reads_the_maps_of_any_preset_and_keeps_the_background() -> None:
    image, masks, maps = scene()
    frame = Frame(None, image[None], image[None], background=True)
    logits = 10 * torch.cat([torch.full_like(maps[:1], 0.3), maps])
    found = GrabCut()(torch.zeros(image.shape[1:], dtype=torch.int32), logits, frame)
    assert set(found.unique().tolist()) == {0, 1, 2}
    assert float(mask_iou((found == 2)[None], masks[1:])) > 0.93
    alone = GrabCut()(torch.zeros(image.shape[1:], dtype=torch.int32), maps[:1], Frame(None, image[None], image[None]))
    assert set(alone.unique().tolist()) == {-1, 0}


def test_the_threshold_is_scikit_images() -> None:
    filters = pytest.importorskip("skimage.filters")
    values = np.concatenate([np.random.default_rng(0).normal(m, 1, 400) for m in (0, 6)])
    ours, theirs = otsu_threshold(values), filters.threshold_otsu(values)
    assert ours == pytest.approx(theirs, abs=np.ptp(values) / 256)


def test_pictures_of_a_pixel_and_of_one_colour_do_not_fail() -> None:
    assert cut_labels(torch.rand(3, 1, 1), torch.rand(2, 1, 1)).shape == (1, 1)
    flat = cut_labels(torch.full((3, 20, 30), 0.5), torch.rand(1, 4, 6))
    assert flat.shape == (20, 30)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="fine 10"):
        CutSettings(side=20, fine=10)
    with pytest.raises(UsageError, match="gamma -1"):
        CutSettings(gamma=-1)
    with pytest.raises(UsageError, match="inside"):
        GrabCut(inside=0.6, outside=0.5)


def test_labels_that_cover_the_whole_picture_leave_no_crumb_to_nothing() -> None:
    """Sky above and grass below, and leaves of the grass' colour in the sky: no pixel was ever none of the labels."""
    above = (torch.arange(96) < 48)[:, None].expand(96, 128)
    green, blue = torch.tensor([0.2, 0.6, 0.2])[:, None, None], torch.tensor([0.3, 0.5, 0.9])[:, None, None]
    image = torch.where(above, blue, green) + 0.02 * torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(0))
    for y, x in ((10, 20), (20, 70), (12, 110)):
        image[:, y : y + 3, x : x + 3] = green
    labels = torch.where(above, 1, 2).numpy()
    splits = np.stack([np.where(above, 1.0, -1.0), np.where(above, -1.0, 1.0)])
    free = np.zeros((3, 96, 128), dtype=bool)
    seeds = Seeds(labels, free[0], free, ~free[0])
    cut = cut_seeds(image.clamp(0, 1), splits, seeds, CutSettings(prior=0.1, gamma=1.0, side=128))
    assert set(np.unique(cut)) == {1, 2}
    assert ((cut == 1) == above.numpy()).mean() > 0.98
    assert cut[11, 21] == 1

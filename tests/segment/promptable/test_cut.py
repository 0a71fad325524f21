"""Masks of clicks cut out along edges, on discs that are known (GrabCut, Rother et al., SIGGRAPH 2004)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.segment import InteractiveSession, Prompts, mask_iou
from binderclip.segment.promptable import CutSegmenter, ImageState, Masks, RegionMasks, cut_mask, cut_regions


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture with two red discs on blue ground, and their masks."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(120), indexing="ij")
    masks = torch.stack([(rows - 45) ** 2 + (columns - x) ** 2 < 20**2 for x in (30, 90)])
    red, blue = (torch.tensor(c)[:, None, None] for c in ([0.8, 0.2, 0.2], [0.2, 0.4, 0.7]))
    image = torch.where(masks.any(0), red, blue) + 0.05 * torch.randn(3, 90, 120, generator=generator)
    return image.clamp(0, 1), masks


def rough(x: float, y: float = 45, radius: float = 14) -> Float[Tensor, "90 120"]:
    """Logits of a mask that is too small and too far up."""
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(120), indexing="ij")
    return (radius - ((rows - y + 5) ** 2 + (columns - x) ** 2).float().sqrt()) / 4


class Rough:
    """A segmenter whose masks are rough discs around the first point; the middle candidate is the surest."""

    image_size = 128
    differentiable = True

    def encode(self, image: object) -> ImageState:
        return ImageState((torch.zeros(1, 1, 1, 1),), (90, 120), (1.0, 1.0))

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        assert prompts.points is not None
        x = float(prompts.points[0, 0, 0])
        logits = torch.stack([rough(x, radius=r) for r in (6.0, 14.0, 30.0)])[None]
        scores = torch.tensor([[0.3, 0.9, 0.5]])
        return Masks(logits, scores, logits) if multimask else Masks(logits[:, 1:2], scores[:, 1:2], logits[:, 1:2])


def test_a_rough_mask_becomes_the_object() -> None:
    image, masks = scene()
    found = cut_mask(image, rough(30))
    before, after = (float(mask_iou(m[None], masks[:1])) for m in (rough(30) > 0, found))
    assert after > 0.95 > 0.5 > before
    assert not bool((found & masks[1]).any()), "the other disc is beyond the object's radius"


def test_points_stay_where_they_were_put_and_parts_without_one_go() -> None:
    image, masks = scene()
    wide = torch.maximum(rough(30), rough(90))
    both = cut_mask(image, wide)
    assert float(mask_iou(both[None], masks.any(0)[None])) > 0.95
    one = cut_mask(image, wide, inside=np.array([[30.0, 40.0]]))
    assert float(mask_iou(one[None], masks[:1])) > 0.95
    less = cut_mask(image, rough(30), inside=np.array([[30.0, 40.0]]), away=np.array([[40.0, 50.0]]))
    assert not bool(less[50, 40])
    assert bool(less[40, 30])


def test_nothing_is_cut_outside_the_box_and_an_empty_mask_stays_empty() -> None:
    image, masks = scene()
    found = cut_mask(image, torch.maximum(rough(30), rough(90)), box=(0.0, 0.0, 60.0, 90.0))
    assert not bool(found[:, 64:].any())
    assert float(mask_iou(found[None], masks[:1])) > 0.9
    assert not bool(cut_mask(image, torch.full((90, 120), -3.0)).any())


def test_a_session_sees_the_best_candidate_cut_and_the_others_as_they_were() -> None:
    image, masks = scene()
    session = InteractiveSession(CutSegmenter(Rough()), image)
    assert float(mask_iou(session.click(30.5, 40.5)[None], masks[:1])) > 0.95
    segmenter = CutSegmenter(Rough())
    found = segmenter.predict(segmenter.encode(image), Prompts.of(points=[(30.5, 40.5)]))
    plain = Rough().predict(Rough().encode(image), Prompts.of(points=[(30.5, 40.5)]))
    torch.testing.assert_close(found.logits[0, [0, 2]], plain.logits[0, [0, 2]])
    torch.testing.assert_close(found.low_res, plain.low_res)
    assert not segmenter.differentiable


class Part(Rough):
    """A segmenter that takes a small part around the first point for the whole."""

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        assert prompts.points is not None
        x, y = (float(v) for v in prompts.points[0, 0])
        logits = rough(x, y + 5, radius=5.0)[None, None]
        return Masks(logits, torch.tensor([[0.9]]), logits)


def test_one_click_takes_what_looks_like_its_place_and_a_second_one_decides_alone() -> None:
    """A disc of half the picture's height: cut from the small part it ends at twice the part's radius."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(90), torch.arange(120), indexing="ij")
    truth = (rows - 45) ** 2 + (columns - 60) ** 2 < 28**2
    stripes = (columns // 4) % 2 == 0  # colours alone would cut the disc at its own stripes
    colour = torch.where(stripes, 0.9, 0.3)
    image = torch.where(truth, torch.stack([colour, colour, 0 * colour]), torch.tensor([0.2, 0.4, 0.7])[:, None, None])
    image = (image + 0.03 * torch.randn(3, 90, 120, generator=generator)).clamp(0, 1)
    segmenter = CutSegmenter(Part())
    state = segmenter.encode(image)
    one = segmenter.predict(state, Prompts.of(points=[(60, 45)])).masks()[0]
    alone = cut_mask(image, rough(60, 50, radius=5.0), inside=np.array([[60.0, 45.0]]))
    overlaps = [float(mask_iou(mask[None], truth[None])) for mask in (alone, one)]
    assert overlaps[0] < 0.3
    assert overlaps[1] > overlaps[0] + 0.3
    points = torch.tensor([[[60.0, 45.0], [5.0, 5.0]]])
    two = segmenter.predict(state, Prompts(points=points, labels=torch.tensor([[1, 0]]))).masks()[0]
    away = cut_mask(image, rough(60, 50, radius=5.0), inside=np.array([[60.0, 45.0]]), away=np.array([[5.0, 5.0]]))
    torch.testing.assert_close(two, away)


def test_masks_of_anything_are_cut_from_their_borders_and_stay_in_order() -> None:
    image, masks = scene()
    regions = RegionMasks.of(
        torch.stack([rough(30) > 0, rough(90, radius=16) > 0]), scores=torch.tensor([0.7, 0.9]),
        points=torch.tensor([[30.0, 40.0], [torch.nan, torch.nan]]),
    )  # fmt: skip
    found = cut_regions(image, regions)
    for place in range(2):
        centre = 90 if float(regions.scores[place]) > 0.8 else 30
        own = found.masks[found.scores == regions.scores[place]]
        truth, before = masks[[0 if centre == 30 else 1]], regions.masks[place][None]
        assert float(mask_iou(own, truth)) > float(mask_iou(before, truth)) + 0.15
    empty = RegionMasks.of(torch.zeros(0, 90, 120, dtype=torch.bool))
    assert len(cut_regions(image, empty)) == 0

"""Regions of a coarse label map as prompts of a promptable segmenter, whose masks take their place (Trident)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.parts.context import Frame
from binderclip.segment.parts.resolution import enlarged
from binderclip.segment.parts.splicing import promptable
from binderclip.segment.promptable import ImageState, PromptableSegmenter, Prompts
from binderclip.segment.promptable.image import framed


@dataclass(frozen=True)
class ClassRegion:
    """A connected region of one class.

    Attributes:
        label: its class.
        mask: where it is.
        box: xyxy around it, half-open, in cells of the mask.
        point: (x, y) of the centre of the cell where its class is most probable.
    """

    label: int
    mask: Bool[Tensor, "h w"]
    box: tuple[float, float, float, float]
    point: tuple[float, float]


@dataclass(frozen=True)
class PromptedMasks:
    """Every region of a coarse label map asks a promptable segmenter for its mask: a point, its box, its class map.

    Masks of which the segmenter is sure are kept; inside them a class counts as far as mask and class are probable, and
    the best class wins. Other pixels keep their label; regions whose mask is not kept compete with the probability that
    they had.

    Args:
        segmenter: a promptable segmenter, or its name (`load_promptable`).
        coarse: pixels whose best probability is below it are in no region, and classes that never reach it are not
            asked for.
        iou: masks whose predicted IoU is not above it are dropped.
        min_area: regions that cover a smaller share of the picture ask for nothing. 225 cells at half the size of a
            picture of PASCAL VOC (375 x 500 pixels).
        strength: what the class map is multiplied with as a mask prompt.
        absolute: the logits are log probabilities (`ClassRule(over="words")`); False puts a softmax over them.
        released: as in the released code, regions whose mask is dropped do not compete.

    Raises:
        UsageError: a share or probability out of [0, 1].

    Paper: Shi et al., Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary
    Segmentation (ICCV 2025, arXiv 2411.09219).
    """

    segmenter: str | PromptableSegmenter = "small-sam"
    coarse: float = 0.2
    iou: float = 0.8
    min_area: float = 0.0048
    strength: float = 0.005
    absolute: bool = True
    released: bool = False

    def __post_init__(self) -> None:
        for name in ("coarse", "min_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} must be in [0, 1], not {getattr(self, name)}")

    def __call__(self, labels: Int[Tensor, "H W"], logits: Float[Tensor, "C h w"], frame: Frame) -> Int[Tensor, "H W"]:
        """The refined label map."""
        size = (labels.shape[0], labels.shape[1])
        half = (max(1, size[0] // 2), max(1, size[1] // 2))
        # One class at a time at the picture's size: all of them would not fit where there are many.
        probs = _Probabilities(logits, size, self.absolute)
        small = torch.stack([enlarged(probs[label][None, None], half)[0, 0] for label in range(len(logits))])
        coarse = F.interpolate(labels[None, None].float(), size=half, mode="nearest")[0, 0].long()
        coarse = torch.where(small.amax(0) < self.coarse, -1, coarse)
        regions = regions_of(coarse, small, least=self.min_area * half[0] * half[1], coarse=self.coarse)
        if not regions:
            return labels
        segmenter: Any = self.segmenter
        if isinstance(segmenter, str):
            segmenter = promptable(segmenter, str(frame.image.device))
        state = frame.once(("promptable", self.segmenter), lambda: segmenter.encode(frame.image))
        best, chosen = torch.zeros(size, device=labels.device), labels
        failed = torch.zeros(half, dtype=torch.bool, device=labels.device)
        for label in sorted({region.label for region in regions}):
            own = [region for region in regions if region.label == label]
            predicted = segmenter.predict(state, self._prompts(own, small[label], segmenter, state), multimask=False)
            sure = (predicted.scores[:, 0] > self.iou).to(labels.device)
            for region, good in zip(own, sure.tolist(), strict=True):
                failed |= region.mask & (not good)
            if bool(sure.any()):
                masks = predicted.logits[:, 0].to(labels.device)[sure]
                refined = masks.amax(0).sigmoid() * probs[label] * (masks > 0).any(0)
                chosen = torch.where(refined > best, label, chosen)
                best = torch.maximum(refined, best)
        return self._merged(labels, chosen, best, failed, probs)

    def _prompts(self, regions: list[ClassRegion], probs: Tensor, segmenter: Any, state: ImageState) -> Prompts:
        scale = torch.tensor([state.size[1] / probs.shape[1], state.size[0] / probs.shape[0]])
        points = torch.tensor([region.point for region in regions]) * scale
        boxes = torch.tensor([region.box for region in regions]) * scale.repeat(2)
        mask = framed(torch.where(probs > self.coarse, self.strength * probs, 0.0), state, segmenter.image_size)
        return Prompts(
            points[:, None], torch.ones(len(regions), 1, dtype=torch.long), boxes, mask.expand(len(regions), -1, -1)
        )

    def _merged(
        self, labels: Tensor, chosen: Tensor, best: Tensor, failed: Tensor, probs: _Probabilities
    ) -> Int[Tensor, "H W"]:
        """Where prompts failed, the map before stays if it is surer."""
        if self.released or not bool(failed.any()):
            return chosen
        there = F.interpolate(failed[None, None].float(), size=labels.shape, mode="nearest")[0, 0] > 0
        return torch.where(there & (probs.largest() > best), labels, chosen)


class _Probabilities:
    """Probabilities of classes at the picture's size, a class at a time."""

    def __init__(self, logits: Float[Tensor, "C h w"], size: tuple[int, int], absolute: bool) -> None:
        self.logits, self.size, self.total = logits.float(), size, None
        if not absolute:
            total = self._drawn(0)
            for label in range(1, len(logits)):
                total = torch.logaddexp(total, self._drawn(label))
            self.total = total

    def _drawn(self, label: int) -> Float[Tensor, "H W"]:
        return enlarged(self.logits[label][None, None], self.size)[0, 0]

    def __getitem__(self, label: int) -> Float[Tensor, "H W"]:
        return (self._drawn(label) if self.total is None else self._drawn(label) - self.total).exp()

    def largest(self) -> Float[Tensor, "H W"]:
        """Of all classes."""
        largest = self[0]
        for label in range(1, len(self.logits)):
            largest = torch.maximum(largest, self[label])
        return largest


def regions_of(
    labels: Int[Tensor, "h w"], probs: Float[Tensor, "C h w"], *, least: float = 0.0, coarse: float = 0.0
) -> list[ClassRegion]:
    """Connected regions of equal labels, neighbours by corners too.

    Args:
        labels: -1 is in no region.
        probs: of the classes, for the points.
        least: cells of the smallest region that counts.
        coarse: classes whose probability is below it everywhere have no region.
    """
    from scipy import ndimage

    regions = []
    for label in range(len(probs)):
        if float(probs[label].max()) < coarse:
            continue
        numbers, _ = ndimage.label((labels == label).cpu().numpy(), structure=np.ones((3, 3)))
        for number, place in enumerate(ndimage.find_objects(numbers), start=1):
            mask = torch.from_numpy(numbers == number).to(labels.device)
            if int(mask.sum()) < least:
                continue
            at = int(torch.where(mask, probs[label], -1.0).argmax())
            rows, columns = place
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            regions.append(ClassRegion(label, mask, box, (at % mask.shape[1] + 0.5, at // mask.shape[1] + 0.5)))
    return regions

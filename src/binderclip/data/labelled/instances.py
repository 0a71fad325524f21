"""A picture with the exact masks of its objects, for augmentation that moves objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.sets.sample import Sample
from binderclip.data.synthetic_scenes.captions import listed
from binderclip.data.synthetic_scenes.paste import boxes_of
from binderclip.errors import UsageError


@dataclass(frozen=True, eq=False)
class InstanceSample:
    """A picture, the visible pixels of each of its objects, and what they are.

    Boxes are computed from the masks whenever they are asked for, so that they are never those of an earlier state.

    Args:
        image: in [0, 1].
        masks: visible pixels of each object; objects do not share any.
        labels: class of each object, from 1 where a label map is wanted (0 is its background).
        key: names the picture; what happens to it in augmentation goes by it.
        ignore: pixels that say nothing (crowds, unlabelled parts), or None. They are never pasted.

    Raises:
        UsageError: shapes that do not belong together.
    """

    image: Float[Tensor, "3 H W"]
    masks: Bool[Tensor, "K H W"]
    labels: Int[Tensor, "K"]
    key: str = ""
    ignore: Bool[Tensor, "H W"] | None = None

    def __post_init__(self) -> None:
        size = tuple(self.image.shape[1:])
        if self.image.ndim != 3 or self.image.shape[0] != 3 or not self.image.is_floating_point():
            raise UsageError(f"image is {self.image.dtype} {tuple(self.image.shape)}; it is float (3, H, W)")
        if tuple(self.masks.shape) != (len(self.labels), *size) or self.masks.dtype != torch.bool:
            expected = (len(self.labels), *size)
            raise UsageError(f"masks are {self.masks.dtype} {tuple(self.masks.shape)}; they are bool {expected}")
        if self.ignore is not None and (tuple(self.ignore.shape) != size or self.ignore.dtype != torch.bool):
            raise UsageError(f"ignore is {self.ignore.dtype} {tuple(self.ignore.shape)}; it is bool {size}")

    @classmethod
    def from_sample(cls, sample: Sample, labels: Sequence[int] | None = None) -> InstanceSample:
        """A sample of an image-text set with its masks, such as one of `Scenes.samples()`.

        Args:
            sample: has masks.
            labels: class of each mask; default `sample.attributes["labels"]`.

        Raises:
            UsageError: no masks, or no labels for them.
        """
        classes = sample.attributes.get("labels") if labels is None else labels
        if sample.masks is None or classes is None:
            missing = "masks" if sample.masks is None else "labels"
            raise UsageError(f"{sample.key}: the sample has no {missing} of objects")
        pixels = torch.from_numpy(np.array(sample.image.convert("RGB"))).permute(2, 0, 1).float() / 255
        masks = torch.from_numpy(np.asarray(sample.masks)).bool()
        return cls(pixels.contiguous(), masks, torch.as_tensor(list(classes), dtype=torch.int64), sample.key)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return int(self.image.shape[1]), int(self.image.shape[2])

    @property
    def boxes(self) -> Float[Tensor, "K 4"]:
        """Half-open xyxy boxes of the visible pixels."""
        return boxes_of(self.masks)

    @property
    def semantic(self) -> Int[Tensor, "H W"]:
        """Label map: 0 is the background, -1 what is ignored."""
        label_map = (self.masks * self.labels[:, None, None]).sum(0)
        return label_map if self.ignore is None else torch.where(self.ignore, -1, label_map)

    def caption(self, classes: Sequence[str]) -> str:
        """The objects in words, "a cat and two dogs"; `classes` are indexed by the labels."""
        return listed([classes[label] for label in self.labels.tolist()])

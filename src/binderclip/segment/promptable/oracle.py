"""A segmenter that knows the answer: what a pipeline could reach if only its prompts mattered."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.promptable.image import as_picture
from binderclip.segment.promptable.prompts import ImageState, Masks, Prompts

__all__ = ["OracleSegmenter"]


class OracleSegmenter:
    """Gives back whichever of the known masks fits the prompt best.

    A mask gets a point for each click that it is right about; ties go to the one with the larger overlap with the box
    or mask prompt, then to the smaller one. Where no mask holds an inside click the answer is empty. With
    `multimask=True` the three best are the candidates. Nothing is differentiable.

    Args:
        masks: of the one picture that will be encoded.

    Raises:
        UsageError: no mask.
    """

    differentiable = False

    def __init__(self, masks: Bool[Tensor, "M H W"]) -> None:
        if masks.ndim != 3 or not len(masks):
            raise UsageError(f"masks must be (M, H, W) with M at least 1, got {tuple(masks.shape)}")
        self.masks = masks.bool()
        self.image_size = max(masks.shape[1:])
        self.encoded = 0

    def encode(self, image: ImageLike) -> ImageState:
        """Note the size; the picture itself is not looked at."""
        _, size = as_picture(image)
        if size != tuple(self.masks.shape[1:]):
            raise UsageError(f"the picture is {size}, the masks are {tuple(self.masks.shape[1:])}")
        self.encoded += 1
        return ImageState(self.masks, size, (1.0, 1.0))

    def predict(self, state: ImageState, prompts: Prompts, *, multimask: bool = True) -> Masks:
        """The known masks that fit best, as logits of +10 and -10, with their fit as score."""
        fits = torch.stack([self._fit(prompts, row) for row in range(len(prompts))])
        count = min(3, len(self.masks)) if multimask else 1
        scores, chosen = fits.topk(count, dim=1)
        logits = torch.where(self.masks[chosen], 10.0, -10.0)
        logits = torch.where((scores > 0)[..., None, None], logits, -10.0)
        return Masks(logits, scores.clamp(min=0), logits)

    def _fit(self, prompts: Prompts, row: int) -> Tensor:
        masks, (height, width) = self.masks, self.masks.shape[1:]
        areas = masks.flatten(1).sum(1)
        fit = 1e-3 * (1 - areas / (height * width))
        if prompts.points is not None and prompts.labels is not None:
            kept = prompts.labels[row] >= 0
            points, labels = prompts.points[row][kept], prompts.labels[row][kept].bool()
            column = points[:, 0].floor().long().clamp(0, width - 1)
            line = points[:, 1].floor().long().clamp(0, height - 1)
            held = masks[:, line, column]
            if len(labels):
                fit = fit + (held == labels).float().mean(1)
            if bool(labels.any()):
                fit = torch.where(held[:, labels].any(1), fit, 0.0)
        regions = []
        if prompts.boxes is not None:
            x0, y0, x1, y1 = prompts.boxes[row].tolist()
            x = torch.arange(width) + 0.5
            y = torch.arange(height) + 0.5
            regions.append(((y >= y0) & (y < y1))[:, None] & ((x >= x0) & (x < x1)))
        if prompts.masks is not None:
            mask = torch.nn.functional.interpolate(prompts.masks[row][None, None], size=(height, width), mode="nearest")
            regions.append(mask[0, 0] > 0)
        for region in regions:
            intersection = (masks & region).flatten(1).sum(1)
            iou = intersection / (masks | region).flatten(1).sum(1).clamp(min=1)
            fit = torch.where(intersection > 0, fit + 0.5 * iou, 0.0)
        return fit.float()

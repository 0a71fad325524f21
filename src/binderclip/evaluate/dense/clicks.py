"""How many clicks a promptable segmenter needs: IoU after each, over the objects of scenes with exact masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.synthetic_scenes.batch import Scenes
from binderclip.errors import UsageError
from binderclip.segment.metrics import mask_iou
from binderclip.segment.promptable import PromptableSegmenter, Prompts, click_curve

__all__ = ["ClickFigures", "click_figures"]


@dataclass(frozen=True)
class ClickFigures:
    """IoU of M objects.

    Attributes:
        clicks: after each click, the first in the middle of the object and each further one in that of the largest
            error.
        box: with the exact box alone.
        filled: of the filled box itself, which a box prompt has to beat.
    """

    clicks: Float[Tensor, "M clicks"]
    box: Float[Tensor, "M"]
    filled: Float[Tensor, "M"]

    def clicks_to(self, iou: float) -> float:
        """Mean number of clicks until an object's IoU reaches `iou`; one that never does counts as all of them."""
        reached = self.clicks >= iou
        first = reached.float().argmax(1) + 1
        return float(torch.where(reached.any(1), first, self.clicks.shape[1]).float().mean())

    def summary(self) -> dict[str, float]:
        """Means: `clicks/1`, ..., `box`, `box_filled`."""
        means = {f"clicks/{i + 1}": float(value) for i, value in enumerate(self.clicks.mean(0))}
        return {**means, "box": float(self.box.mean()), "box_filled": float(self.filled.mean())}


@torch.no_grad()
def click_figures(
    segmenter: PromptableSegmenter, made: Scenes, *, clicks: int = 5, least: float = 0.002
) -> ClickFigures:
    """Ask for every object of some scenes; each scene is encoded once.

    Args:
        segmenter: any promptable one.
        made: the scenes.
        clicks: most clicks an object gets.
        least: share of the scene that the visible part of an object must cover to be asked for.

    Raises:
        UsageError: no object is large enough.
    """
    curves, boxed, filled = [], [], []
    for image, masks, boxes in zip(made.images, made.visible, made.boxes, strict=True):
        state = segmenter.encode(image)
        for mask, box in zip(masks, boxes, strict=True):
            if float(mask.float().mean()) < least or not bool(mask.any()):
                continue
            curves.append(click_curve(segmenter, image, mask, clicks=clicks, state=state))
            masks_of_box = segmenter.predict(state, Prompts(boxes=box[None]), multimask=False).masks()[0]
            boxed.append(mask_iou(masks_of_box, mask))
            x0, y0, x1, y1 = (int(v) for v in box)
            whole = torch.zeros_like(mask)
            whole[y0:y1, x0:x1] = True
            filled.append(mask_iou(whole, mask))
    if not curves:
        raise UsageError(f"no object covers {least:.1%} of its scene")
    return ClickFigures(torch.stack(curves), *(torch.as_tensor(v, dtype=torch.float32) for v in (boxed, filled)))

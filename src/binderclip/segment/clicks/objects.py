"""Many objects of one picture, clicked at the same time: one encoded picture, one batch of prompts a round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.promptable import Click, ImageState, Masks, PromptableSegmenter, Prompts

__all__ = ["ObjectClicks", "ious"]


def ious(predicted: Bool[Tensor, "*B H W"], truth: Bool[Tensor, "*B H W"]) -> Float[Tensor, "*B"]:
    """IoU of masks, 1 where both are empty."""
    intersection, either = (predicted & truth).sum((-2, -1)), (predicted | truth).sum((-2, -1))
    return torch.where(either > 0, intersection / either.clamp(min=1), 1.0)


@dataclass
class ObjectClicks:
    """The clicks on M objects of a picture, and their masks; what an `InteractiveSession` does, for all at once.

    Args:
        segmenter: any promptable one.
        state: of the encoded picture.
        truth: of the objects.
        feedback: whether the previous logits are fed back.
        batch: objects that are decoded at once.
        ignore: void pixels of the picture: they belong to no object and nothing is wrong there.

    Raises:
        UsageError: masks of another size than the picture, or one without a pixel outside the void.
    """

    segmenter: PromptableSegmenter
    state: ImageState
    truth: Bool[Tensor, "M H W"]
    feedback: bool = True
    batch: int = 64
    ignore: Bool[Tensor, "H W"] | None = None
    clicks: list[list[Click]] = field(init=False)
    predicted: Bool[Tensor, "M H W"] = field(init=False, repr=False)
    low_res: Float[Tensor, "M h w"] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.truth.ndim != 3 or tuple(self.truth.shape[1:]) != tuple(self.state.size):
            raise UsageError(f"masks are {tuple(self.truth.shape)}, the picture is {tuple(self.state.size)}")
        if self.ignore is not None:
            if self.ignore.dtype != torch.bool or self.ignore.shape != self.truth.shape[1:]:
                raise UsageError(
                    f"ignore must be a mask {tuple(self.truth.shape[1:])}, not {self.ignore.dtype} "
                    f"{tuple(self.ignore.shape)}"
                )
            self.truth = self.truth & ~self.ignore.to(self.truth.device)
        empty = ~self.truth.flatten(1).any(1)
        if bool(empty.any()):
            raise UsageError(f"object {int(empty.nonzero()[0])} has no pixel")
        self.clicks = [[] for _ in self.truth]
        self.predicted = torch.zeros_like(self.truth, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.truth)

    def counted(self, masks: Bool[Tensor, "M H W"]) -> Bool[Tensor, "M H W"]:
        """Masks without the void."""
        return masks if self.ignore is None else masks & ~self.ignore.to(masks.device)

    def prompts(self, clicks: Sequence[Sequence[Click]], rows: Sequence[int]) -> Prompts:
        """Prompts out of clicks on objects, padded, with the previous logits where they are fed back.

        Args:
            clicks: of each prompt.
            rows: the object that each prompt asks for.
        """
        most = max(len(own) for own in clicks)
        points = torch.zeros(len(rows), most, 2)
        labels = torch.full((len(rows), most), -1)
        for i, own in enumerate(clicks):
            for j, click in enumerate(own):
                points[i, j] = torch.tensor([click.x, click.y])
                labels[i, j] = int(click.positive)
        previous = None if self.low_res is None or not self.feedback else self.low_res[list(rows)]
        return Prompts(points, labels, masks=previous)

    def predict(self, prompts: Prompts) -> Masks:
        """The answer to prompts of the present round: the best of three for a first click, else the single mask."""
        assert prompts.points is not None
        single = prompts.points.shape[1] == 1 and prompts.masks is None
        return self.segmenter.predict(self.state, prompts, multimask=single).pick()

    @torch.no_grad()
    def click(self, chosen: Sequence[Click | None]) -> Bool[Tensor, "M H W"]:
        """One more click on each object; an object whose click is None keeps its mask.

        Returns:
            The masks now.
        """
        due = [row for row, click in enumerate(chosen) if click is not None]
        for row in due:
            click = chosen[row]
            assert click is not None
            self.clicks[row].append(click)
        parts = [due[i : i + self.batch] for i in range(0, len(due), self.batch)]
        answers = [self.predict(self.prompts([self.clicks[row] for row in rows], rows)) for rows in parts]
        for rows, masks in zip(parts, answers, strict=True):
            self.predicted[rows] = self.counted((masks.logits[:, 0] > 0).to(self.predicted.device))
            if self.low_res is None:
                self.low_res = masks.low_res.new_zeros(len(self), *masks.low_res.shape[-2:])
            self.low_res[rows] = masks.low_res[:, 0]
        return self.predicted

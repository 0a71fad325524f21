"""Models that run beside the one that is trained."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.models import ImageTextModel, TokenIds
from binderclip.train.engine.surgery import short_context

__all__ = ["FrozenCopy"]


class FrozenCopy:
    """A copy of the model as a stage finds it, which encodes every batch and never changes.

    It is no module, so that it is neither trained, averaged nor saved: a resumed stage makes the same copy again from
    the model that it starts from.

    Args:
        model: copied, put into evaluation mode, without gradients.
    """

    def __init__(self, model: ImageTextModel) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenCopy:
        return self

    @torch.no_grad()
    def outputs(
        self, images: Float[Tensor, "B 3 S S"], tokens: TokenIds, *, at_once: int | None = None
    ) -> dict[str, Float[Tensor, "B d"]]:
        """Raw features of a batch as `teacher_image` and `teacher_text`.

        Args:
            images: normalised pixels.
            tokens: the captions.
            at_once: pictures in the towers at once; None for all.
        """
        size = len(images) if at_once is None else at_once
        parts = [slice(start, start + size) for start in range(0, len(images), size)]
        with short_context(self.model.backbone, tokens.ids.shape[1]):
            image = torch.cat([self.model.encode_pixels(images[part]) for part in parts])
            text = torch.cat([self.model.encode_text(tokens[part]) for part in parts])
        return {"teacher_image": image, "teacher_text": text}

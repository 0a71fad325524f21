"""What is carried along beside the model that is trained."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses import patch_features
from binderclip.models import ImageTextModel, TokenIds
from binderclip.train.tokens.place import short_context

__all__ = ["FrozenCopy", "MomentumCopy", "cosine_momentum"]


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """A momentum that rises from `start` to 1 along a cosine.

    Args:
        step: from 0.
        steps: of the whole training.
        start: in [0, 1].
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


class MomentumCopy(nn.Module):
    """A copy of a module that follows it: p' = m p + (1 - m) q, without gradients.

    Args:
        module: what is followed; not a part of the copy.
        start: momentum m of the first step, in [0, 1]; it rises to 1 along a cosine.
        steps: calls of `follow` in the whole training; None keeps the momentum as it starts.

    Raises:
        UsageError: a momentum out of range.
    """

    step: Tensor

    def __init__(self, module: nn.Module, *, start: float, steps: int | None) -> None:
        super().__init__()
        if not 0 <= start <= 1:
            raise UsageError(f"momentum {start} lies in [0, 1]")
        self.copied = copy.deepcopy(module).requires_grad_(False)
        self.start, self.steps = start, None if steps is None else max(1, steps)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """One step towards `module`; buffers (running statistics) are those of the copy's own forward passes."""
        momentum = self.start if self.steps is None else cosine_momentum(int(self.step), self.steps, self.start)
        for mine, other in zip(self.copied.parameters(), module.parameters(), strict=True):
            mine.lerp_(other.detach().to(mine), 1 - momentum)
        self.step += 1


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

    @torch.no_grad()
    def patches(
        self, images: Float[Tensor, "B 3 S S"], seen_by: ImageTextModel, grid: tuple[int, int]
    ) -> Float[Tensor, "B N D"]:
        """Patch tokens after the final norm, in a grid (see `losses.patch_features`).

        Args:
            images: pixels as another model sees them.
            seen_by: that model, whose normalisation they have.
            grid: (h, w) of the patches.
        """
        theirs, mine = seen_by.preprocess, self.model.preprocess
        if (theirs.mean, theirs.std) != (mine.mean, mine.std):
            mean, std, own_mean, own_std = (
                images.new_tensor(each).view(3, 1, 1) for each in (theirs.mean, theirs.std, mine.mean, mine.std)
            )
            images = (images * std + mean - own_mean) / own_std
        return patch_features(self.model.image_tower, images, grid)

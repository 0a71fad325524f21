"""What a drawing is moved by: the distance of its features from a prompt's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import replace_grad
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["ImageObjective", "PromptDistance", "clip_prompt"]

ImageObjective = Callable[[Tensor], Tensor]
"""From pictures [N, 3, h, w] in [0, 1], transformed already, to a number that is made small. Where it has `networks`,
a tuple of modules, they are frozen and in eval mode while a picture is optimised."""

PromptDistanceKind = Literal["cosine", "spherical"]


class PromptDistance:
    """The mean distance of pictures from prompts in a model's shared space, times a weight: see `clip_prompt`.

    Args:
        model: its image tower, and its tower for text where the target is text.
        target: unit rows.
        weight, stop, distance, normalise_input: as in `clip_prompt`.
    """

    def __init__(
        self,
        model: ImageTextModel,
        target: Float[Tensor, "T E"],
        weight: float,
        stop: float,
        distance: PromptDistanceKind,
        normalise_input: bool,
    ) -> None:
        refuse_bare_module(model, "PromptDistance")
        self.model, self.target, self.weight, self.stop = model, target, weight, stop
        self.distance, self.normalise_input = distance, normalise_input
        self.networks = (model,)

    def features(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N E"]:
        """Features of pictures, not normalised; differentiable."""
        if self.normalise_input:
            return self.model.encode_image(images)
        return self.model.encode_pixels(self.model.preprocess.fit(images))

    def cosines(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, "N T"]:
        """Cosines of each picture with each prompt; differentiable."""
        return F.normalize(self.features(images), dim=-1) @ self.target.T

    def __call__(self, images: Float[Tensor, "N 3 h w"]) -> Float[Tensor, ""]:
        """The weighted mean distance."""
        return self.of_features(self.features(images))

    def of_features(self, features: Float[Tensor, "N E"]) -> Float[Tensor, ""]:
        """The weighted mean distance of pictures with these features: several prompts can share them."""
        cosine = F.normalize(features, dim=-1) @ self.target.T
        # 2 asin(chord / 2)^2 with chord^2 = 2 - 2 cos; the square root has no slope at 0, where the pictures fit
        half = ((1 - cosine) / 2).clamp(min=1e-12).sqrt()
        value = -cosine if self.distance == "cosine" else 2 * half.asin().square()
        value = value * math.copysign(1.0, self.weight)
        # Below `stop` the value still counts, and its gradient does not: that prompt is satisfied.
        return abs(self.weight) * replace_grad(value, value.clamp(min=self.stop)).mean()


def clip_prompt(
    model: ImageTextModel,
    target: str | Sequence[str] | Tensor,
    *,
    weight: float = 1.0,
    stop: float = -math.inf,
    distance: PromptDistanceKind = "spherical",
    normalise_input: bool = True,
) -> PromptDistance:
    """The distance of a drawing from prompts, as an objective of `ImageOptimisation`.

    Args:
        model: scores; its weights do not change.
        target: a prompt or several (their mean counts), or features (E,) or (T, E) of texts or pictures.
        weight: of the mean distance over views and prompts; a negative one drives the picture away.
        stop: a distance (of a negative weight, its negative) below which a view and prompt give no gradient.
        distance: `cosine`, the negative cosine, or `spherical`, half the squared angle.
        normalise_input: whether colours are shifted and scaled as the model was trained; CLIPDraw's published
            pictures were made without.

    Raises:
        UsageError: no prompt, features of another width or that are not finite, or a setting out of range.

    Paper: CLIPDraw (arXiv 2106.14843), cosine; VQGAN-CLIP (arXiv 2204.08583), spherical.
    """
    refuse_bare_module(model, "clip_prompt")
    check_number("weight", weight)
    check_number("stop", stop, below=math.inf, infinite=True)
    check_choice("distance", distance, ("cosine", "spherical"))
    if isinstance(target, Tensor):
        rows = target.detach().reshape(-1, target.shape[-1]) if target.ndim in (1, 2) else target.detach()
        if rows.ndim != 2 or not len(rows) or rows.shape[1] != model.embed_dim or not bool(rows.isfinite().all()):
            raise UsageError(f"target must be finite features (T, {model.embed_dim}), got {tuple(target.shape)}")
    else:
        prompts = [target] if isinstance(target, str) else list(target)
        if not prompts or not all(prompt.strip() for prompt in prompts):
            raise UsageError("target must be a prompt or several, none of them empty")
        with torch.no_grad():
            rows = model.encode_text(prompts)
    return PromptDistance(model, F.normalize(rows.to(model.device), dim=-1), weight, stop, distance, normalise_input)

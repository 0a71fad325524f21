"""Teach the prompt side of a segmenter one way of pointing; what sees the picture and what decodes stay as they are."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import fit
from binderclip.segment.clicks.point_prompts import point_prompts
from binderclip.segment.promptable import HfSegmenter, ImageState, PromptModel

__all__ = ["mask_loss", "prompt_parameters", "tune_prompts"]


def prompt_parameters(segmenter: PromptModel | HfSegmenter) -> list[nn.Parameter]:
    """The weights that see prompts alone: SAM's prompt encoder; in the bundled network labels and drawn prompts.

    Raises:
        NotSupported: another kind of segmenter.
    """
    if isinstance(segmenter, HfSegmenter):
        return list(segmenter.model.prompt_encoder.parameters())
    if isinstance(segmenter, PromptModel):
        network = segmenter.backbone
        return [p for module in (network.labels, network.drawn, network.prior) for p in module.parameters()]
    raise NotSupported(
        f"the prompt side of {type(segmenter).__name__} is unknown: take a PromptModel or an HfSegmenter"
    )


def mask_loss(logits: Float[Tensor, "P H W"], truth: Bool[Tensor, "P H W"]) -> Float[Tensor, ""]:
    """Dice loss with squared terms in its denominator plus binary cross-entropy, both means over masks."""
    target, probs = truth.to(logits), logits.sigmoid()
    intersection = (probs * target).sum((1, 2))
    dice = 1 - (2 * intersection + 1e-5) / (probs.square().sum((1, 2)) + target.sum((1, 2)) + 1e-5)
    return dice.mean() + functional.binary_cross_entropy_with_logits(logits, target)


def tune_prompts(
    segmenter: PromptModel | HfSegmenter,
    samples: Sequence[tuple[Float[Tensor, "3 H W"], Bool[Tensor, "M H W"]]],
    strategy: str,
    *,
    inclusion: int = 4,
    exclusion: int = 2,
    steps: int = 200,
    lr: float = 1e-3,
    seed: int = 0,
) -> Any:
    """A copy of a segmenter whose prompt side has learned the points of one strategy, by Adam; a step is a picture.

    Only the prompt side learns (`prompt_parameters`; 13 of 244 parameters of `small-sam`). In the copy everything
    requires a gradient again that does in the segmenter, so that it can be trained further.

    Args:
        segmenter: stays as it is.
        samples: (picture in [0, 1], masks); pictures are encoded once.
        strategy: of `sample_points`, drawn anew at every step.
        inclusion, exclusion: number of points.
        steps, lr: of Adam.
        seed: of the points and the order.

    Raises:
        UsageError: no sample with a mask, or an unknown strategy.
        NotSupported: another kind of segmenter.
    """
    tuned = copy.deepcopy(segmenter)
    parameters = prompt_parameters(tuned)
    model: Any = tuned.model if isinstance(tuned, HfSegmenter) else tuned
    states: list[tuple[ImageState, Tensor, Tensor]] = []
    for image, masks in samples:
        there = masks[masks.flatten(1).any(1)].bool()
        if len(there):
            states.append((tuned.encode(image), image, there))
    if not states:
        raise UsageError("there is no object with pixels to learn from")
    learnable = [parameter.requires_grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)

    def batches() -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(seed)
        for number in range(steps):
            yield number, int(torch.randint(len(states), (1,), generator=generator))

    def step(batch: tuple[int, int]) -> Tensor:
        number, row = batch
        state, image, masks = states[row]
        prompts = point_prompts(
            image, masks, strategy, inclusion=inclusion, exclusion=exclusion, seed=seed + 7919 * number
        )  # fmt: skip
        logits = tuned.predict(state, prompts, multimask=False).logits[:, 0]
        return mask_loss(logits, masks.to(logits.device))

    fit(step, parameters, list(batches()), steps=steps, optimizer="adam", lr=lr, schedule="constant")
    for parameter, before in zip(model.parameters(), learnable, strict=True):
        parameter.requires_grad_(before)
    return tuned

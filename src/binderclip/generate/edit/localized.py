"""Score distillation whose updates have a place and a size: a mask from attention, and a scheduled deviation."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.distillation import DistillationStep, distill_score
from binderclip.numeric import check_number, check_whole

__all__ = ["LUSD", "attention_edit_mask", "direction_std_schedule"]


def direction_std_schedule(
    num_steps: int, *, high: float = 0.15, low: float = 0.01, speed: float = 5.0
) -> Float[Tensor, " {num_steps}"]:
    """The standard deviation of each update: a sigmoid that falls from `high` to `low`, half way at half time.

    Args:
        num_steps: updates.
        high, low: deviations at the start and at the end.
        speed: the sigmoid runs from -speed to speed.

    Raises:
        UsageError: no step, or numbers out of range.

    Paper: LUSD: Localized Update Score Distillation for Text-Guided Image Editing (arXiv 2503.11054).
    """
    check_whole("num_steps", num_steps, least=1)
    check_number("low", low, above=0)
    check_number("high", high, least=low)
    check_number("speed", speed, above=0)
    return (1 - torch.linspace(-speed, speed, num_steps).sigmoid()) * (high - low) + low


def attention_edit_mask(
    cross: Sequence[Float[Tensor, "_ Q L"]],
    own: Sequence[Float[Tensor, "_ P P"]],
    tokens: Sequence[int],
    size: tuple[int, int],
) -> Float[Tensor, "1 1 H W"]:
    """Where a denoiser's attention says that an edit belongs, in [0, 1].

    Cross-attention to the words that change, averaged over heads and layers, resized to the grid of self-attention and
    spread along it, `S @ c`; then resized to the picture and stretched from 0 to 1. Where it is the same everywhere the
    mask is 1.

    Args:
        cross: cross-attention probabilities of layers of one square grid, from places to tokens.
        own: self-attention probabilities of layers of one square grid, which may be another.
        tokens: positions of the words that change.
        size: (H, W) of the mask.

    Raises:
        UsageError: no layer or token, a token that is none, or places that are no square grid.

    Paper: LUSD: Localized Update Score Distillation for Text-Guided Image Editing (arXiv 2503.11054).
    """
    if not cross or not own or not tokens:
        raise UsageError("cross, own and tokens must not be empty: without words that change there is no mask")
    across, among = (torch.stack([layer.mean(0) for layer in layers]).mean(0) for layers in (cross, own))
    if not all(0 <= token < across.shape[1] for token in tokens):
        raise UsageError(f"tokens must be from 0 to {across.shape[1] - 1}, got {list(tokens)}")
    places = across[:, list(tokens)].mean(1)
    side, own_side = (round(len(values) ** 0.5) for values in (places, among))
    if side**2 != len(places) or own_side**2 != len(among):
        raise UsageError(f"{len(places)} and {len(among)} places are no square grids")
    grid = F.interpolate(places.reshape(1, 1, side, side), (own_side, own_side), mode="bicubic", align_corners=False)
    spread = (among @ grid.flatten()).reshape(1, 1, own_side, own_side)
    mask = F.interpolate(spread, size, mode="bicubic", align_corners=False)
    least, most = mask.min(), mask.max()
    flat = most - least <= 1e-6 * most.abs()
    return torch.where(flat, torch.ones_like(mask), (mask - least) / torch.where(flat, 1.0, most - least))


@dataclass(frozen=True)
class LUSD:
    """Edits a picture by `eps(target) - eps(source)` at one noise, with updates of a scheduled size and place.

    A direction whose standard deviation is small is drawn again. An accepted one is masked, more and more as the edit
    goes on, pulled to the source picture everywhere, and scaled to the step's deviation
    (`direction_std_schedule`). Deviations are those of all elements of a picture. One setting is for all pictures, and
    there is no guidance scale.

    Args:
        target: the condition that the picture shall fit.
        source: the condition that the source fits, or the one that stands for none.
        mask: from a step to where the edit belongs, in [0, 1], broadcasting with the picture (`attention_edit_mask`);
            asked from the second step on, about all pictures and with accepted draws alone; what it needs of the
            denoiser it predicts itself, as the last forward may be of some pictures only. Default: everywhere.
        pull: weight of the pull to the source picture.
        threshold: deviation below which a direction is drawn again.
        threshold_decay: of the threshold, at each refusal in a step.
        momentum: of the mask's moving average.
        std_high, std_low, std_speed: of `direction_std_schedule`.

    Raises:
        UsageError: a setting out of range, or one condition for both with a threshold above 0.

    Paper: LUSD: Localized Update Score Distillation for Text-Guided Image Editing (arXiv 2503.11054).
    """

    target: Hashable
    source: Hashable = None
    mask: Callable[[DistillationStep], Tensor] | None = None
    pull: float = 0.02
    threshold: float = 0.01
    threshold_decay: float = 0.99
    momentum: float = 0.1
    std_high: float = 0.15
    std_low: float = 0.01
    std_speed: float = 5.0

    def __post_init__(self) -> None:
        for name in ("pull", "momentum"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_number("threshold", self.threshold, least=0)
        if self.target == self.source and self.threshold > 0:  # every draw would be refused
            raise UsageError(f"target and source are both {self.target!r}: there is no direction between them")
        check_number("threshold_decay", self.threshold_decay, above=0, below=1)
        direction_std_schedule(1, high=self.std_high, low=self.std_low, speed=self.std_speed)

    def direction(self, step: DistillationStep) -> Tensor:
        """`eps(z_t, target) - eps(z_t, source)`, by one forward."""
        target, source = step.epsilons([(step.image, self.target), (step.image, self.source)])
        return target - source

    def accept(self, direction: Float[Tensor, "B *shape"], refused: int) -> Bool[Tensor, " B"]:
        """Whether each picture's direction deviates by the threshold, which falls with each refusal."""
        return _deviation(direction) >= self.threshold * self.threshold_decay**refused

    def edit(
        self,
        denoiser: Denoiser,
        source: Float[Tensor, "B *shape"],
        *,
        num_steps: int = 300,
        learning_rate: float = 0.49,
        times: tuple[int, int] = (50, 949),
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B *shape"]:
        """The picture after `distill_score` with this direction, filter and update, and its arguments.

        The published setting for latents of 64 x 64, SGD with rate 1 on 2,000 times a mean over places, is a learning
        rate of 0.49 here, whatever the size.
        """
        return distill_score(
            denoiser,
            source,
            self.direction,
            num_steps=num_steps,
            learning_rate=learning_rate,
            times=times,
            accept=self.accept,
            update=_Update(self, num_steps),
            generator=generator,
        )


class _Update:
    """The masked, pulled and scaled direction; keeps the mask's moving average of one edit."""

    def __init__(self, settings: LUSD, num_steps: int) -> None:
        self.settings = settings
        self.deviations = direction_std_schedule(
            num_steps, high=settings.std_high, low=settings.std_low, speed=settings.std_speed
        ).tolist()
        self.average: Tensor | None = None

    def __call__(self, step: DistillationStep, direction: Tensor) -> Tensor:
        settings = self.settings
        if settings.mask is not None and step.i > 0:
            mask = settings.mask(step)
            m = settings.momentum
            self.average = mask if self.average is None else (1 - m) * self.average + m * mask
            narrowed = step.i / max(step.n - 1, 1)  # everywhere at first, within the mask at the end
            direction = direction * (narrowed * self.average + 1 - narrowed)
        pulled = (1 - settings.pull) * direction + settings.pull * (step.image - step.source)
        deviation = _deviation(pulled).reshape(-1, *[1] * (pulled.ndim - 1))
        scaled = pulled / torch.where(deviation > 0, deviation, 1.0) * self.deviations[step.i]
        return torch.where(deviation > 0, scaled, torch.zeros_like(scaled))


def _deviation(x: Tensor) -> Tensor:
    """Unbiased standard deviation of each picture."""
    return x.flatten(1).std(1)

"""A picture, or a network that makes it, moved by what a denoiser says of it with noise on: no sampling."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.numeric import check_number, check_whole

__all__ = ["DistillationStep", "distill_score", "distillation_loss"]


@dataclass(frozen=True)
class DistillationStep:
    """A picture, its source, and one draw of time and noise for all of a step's predictions.

    Attributes:
        denoiser: predicts the noise.
        image: the picture that is moved, without a graph.
        source: the picture that it started from.
        t: a time for each picture.
        noise: standard normal.
        i, n: number of the step, and of how many.
    """

    denoiser: Denoiser
    image: Float[Tensor, "B *shape"]
    source: Float[Tensor, "B *shape"]
    t: Int[Tensor, " B"]
    noise: Float[Tensor, "B *shape"]
    i: int
    n: int

    @torch.no_grad()
    def epsilons(self, asked: Sequence[tuple[Float[Tensor, "B *shape"], Hashable]]) -> list[Float[Tensor, "B *shape"]]:
        """The noise predicted in pictures with the step's noise on, by one batched forward.

        Args:
            asked: clean pictures, each with a condition.
        """
        noisy = [self.denoiser.schedule.add_noise(image, self.noise, self.t) for image, _ in asked]
        conditions = [condition for _, condition in asked]
        return list(self.denoiser(torch.cat(noisy), self.t.repeat(len(asked)), conditions).chunk(len(asked)))


MOST_REFUSALS = 1000
"""Draws of a step that may be refused in a row: a threshold that falls by 1 % each is 4e-5 of itself then."""
Direction = Callable[[DistillationStep], Tensor]
"""What a picture is moved against, of its shape."""


@torch.no_grad()
def distill_score(
    denoiser: Denoiser,
    source: Float[Tensor, "B *shape"],
    direction: Direction,
    *,
    num_steps: int = 200,
    learning_rate: float = 0.05,
    times: tuple[int, int] = (50, 949),
    accept: Callable[[Tensor, int], bool | Tensor] | None = None,
    update: Callable[[DistillationStep, Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B *shape"]:
    """A picture moved step by step against a direction that a denoiser gives, starting from the picture itself.

    Each step draws a time for each picture, uniformly, and noise; the denoiser is never differentiated.

    Args:
        denoiser: predicts the noise.
        source: the pictures, which stay as they are.
        direction: from a step to what is descended.
        num_steps: steps.
        learning_rate: the picture moves by so much of the direction in a step.
        times: the first time that is drawn, and the one after the last.
        accept: from a direction and how many were refused in this step to whether it is taken, all of it or each
            picture of it (B,); for those that are refused, time and noise are drawn again, and `direction` is asked
            about them alone. Default: all are.
        update: what becomes of an accepted direction; default the direction itself.
        generator: of times and noise, on the CPU or the pictures' device; default torch's.

    Raises:
        UsageError: an empty batch, a picture that is not finite, or a setting out of range.
        DataError: a result that is not finite, or a step of which a thousand directions were refused.
    """
    if source.ndim < 2 or not len(source) or not bool(source.isfinite().all()):
        raise UsageError(f"source must be a batch of finite pictures, got shape {tuple(source.shape)}")
    check_whole("num_steps", num_steps, least=1)
    check_number("learning_rate", learning_rate, above=0)
    low, high = times
    if not 0 <= low < high <= len(denoiser.schedule):
        raise UsageError(f"times must be two rising times of {len(denoiser.schedule)}, got {times}")
    image = source.clone()
    for i in range(num_steps):
        step, moved = _accepted(denoiser, image, source, direction, times, accept, i, num_steps, generator)
        image = image - learning_rate * (moved if update is None else update(step, moved))
    if not bool(image.isfinite().all()):  # once, at the end: each look waits for the device
        raise DataError(
            f"the edited picture is not finite: the denoiser gave no numbers, or the learning rate of "
            f"{learning_rate:g} is too large"
        )
    return image


def _accepted(
    denoiser: Denoiser,
    image: Float[Tensor, "B *shape"],
    source: Float[Tensor, "B *shape"],
    direction: Direction,
    times: tuple[int, int],
    accept: Callable[[Tensor, int], bool | Tensor] | None,
    i: int,
    n: int,
    generator: torch.Generator | None,
) -> tuple[DistillationStep, Float[Tensor, "B *shape"]]:
    """Draw times and noises until each picture's direction is accepted; the step of these draws, and the directions."""
    open_rows = torch.arange(len(source), device=source.device)
    ts = torch.zeros(len(source), dtype=torch.long, device=source.device)
    noises, directions = torch.empty_like(source), torch.empty_like(source)
    for refused in range(MOST_REFUSALS):
        t = torch.randint(*times, (len(open_rows),), generator=generator, device=source.device)
        shape = (len(open_rows), *source.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=source.dtype, device=source.device)
        step = DistillationStep(denoiser, image[open_rows], source[open_rows], t, noise, i, n)
        drawn = direction(step)
        if accept is None:
            return step, drawn
        ts[open_rows], noises[open_rows], directions[open_rows] = t, noise, drawn
        taken = torch.as_tensor(accept(drawn, refused), device=source.device).expand(len(open_rows))
        open_rows = open_rows[~taken]
        if not len(open_rows):
            return DistillationStep(denoiser, image, source, ts, noises, i, n), directions
        if not bool(drawn.isfinite().all()):  # no threshold would ever take it
            raise DataError(f"the direction of step {i + 1} of {n} is not finite")
    raise DataError(f"step {i + 1} of {n} has refused {MOST_REFUSALS} directions, one after the other")


def distillation_loss(image: Float[Tensor, "B C H W"], direction: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """A loss whose gradient with respect to the image is the direction over H W, to train what makes the image.

    Args:
        image: with a graph.
        direction: held fixed.

    Raises:
        UsageError: shapes that differ.

    Paper: Delta Denoising Score (arXiv 2304.07090).
    """
    if image.shape != direction.shape or image.ndim != 4:
        raise UsageError(f"image and direction must share a shape (B, C, H, W): {image.shape}, {direction.shape}")
    return (direction.detach() * image).sum() / (image.shape[-2] * image.shape[-1])

"""New content inside a mask, the rest of the picture as it is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import GuidanceTerm, SamplingHook, StepContext
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.sampling import sample
from binderclip.numeric import check_whole
from binderclip.vision import erode

__all__ = ["KnownRegion", "inpaint", "outline_inpaint"]

PAPER_SIDE = 512  # pixels of the side for which p120 gives its structuring element


class KnownRegion(SamplingHook):
    """Replaces what is known by the given picture with the noise of the step, after every step.

    This is how a denoiser without inpainting channels fills in; `sample(..., resamples=...)` lets what is new and what
    is known agree, as in RePaint (arXiv 2201.09865).

    Args:
        known: clean states of the picture.
        mask: 1 where new content belongs; broadcasts with the states.
        generator: of the noise; default torch's.
    """

    def __init__(
        self, known: Float[Tensor, "B *shape"], mask: Float[Tensor, "..."], generator: torch.Generator | None = None
    ) -> None:
        self.known, self.mask, self.generator = known, mask, generator

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype, device=x.device)
        signal, deviation = step.schedule.coefficients(step.target, x)
        return self.mask * x + (1 - self.mask) * (signal * self.known + deviation * noise)


def inpaint(
    denoiser: LatentDenoiser,
    images: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"],
    condition: Hashable = None,
    *,
    terms: Sequence[GuidanceTerm] = (),
    hooks: Sequence[SamplingHook] = (),
    num_inference_steps: int = 50,
    resamples: int = 1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B 3 H W"]:
    """Paint new content into a mask; outside of it the pixels stay exactly as they are.

    A network with inpainting channels is told what is known; any other has the known part replaced in every step.

    Args:
        denoiser: predicts noise in latents.
        images: in [0, 1].
        mask: 1 where new content belongs.
        condition: what belongs there: a text, a `Prompt`, or None.
        terms: guidance.
        hooks: further changes of the states.
        num_inference_steps: steps.
        resamples: how often every step is taken, see `sample`.
        generator: of all noise; default torch's.

    Raises:
        UsageError: a mask of another size, one that is not finite, or sides that do not fit the network.
    """
    check_inpainting_mask(images, mask)
    binary = (mask >= 0.5).to(images)
    height, width = images.shape[-2:]
    x = denoiser.noise(len(images), (height, width), generator)
    used: list[SamplingHook] = [*hooks]
    if denoiser.inpaints:
        network = denoiser.inpainting(images, binary)
    else:
        network = denoiser
        with torch.no_grad():
            known = denoiser.encode(images)
        used.append(KnownRegion(known, functional.max_pool2d(binary, denoiser.factor), generator))
    latents = sample(
        network, x, condition, terms=terms, hooks=used, num_inference_steps=num_inference_steps, resamples=resamples,
        generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        return binary * denoiser.decode(latents) + (1 - binary) * images


def outline_inpaint(
    denoiser: LatentDenoiser,
    images: Float[Tensor, "B 3 H W"],
    mask: Float[Tensor, "B 1 H W"] | Bool[Tensor, "B 1 H W"],
    condition: Hashable = None,
    *,
    erosion: int | None = None,
    least: float = 0.1,
    terms: Sequence[GuidanceTerm] = (),
    hooks: Sequence[SamplingHook] = (),
    num_inference_steps: int = 50,
    resamples: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B 3 H W"], Bool[Tensor, " B"]]:
    """Repaint the inside of objects whose outline stays, so that each new object has the old one's mask.

    More labelled pictures for instance segmentation: the rim tells the network what to paint, so no text is needed.

    Args:
        denoiser: predicts noise in latents.
        images: in [0, 1].
        mask: of one instance a picture, 1 inside.
        condition: default no text.
        erosion: side in pixels of the square that shrinks the mask; half of it is the rim's width. Default the paper's
            12 px at 512 px, at least 2.
        least: part of the mask that must be left; an instance of less is not repainted.
        terms, hooks, num_inference_steps, resamples, generator: as of `inpaint`.

    Returns:
        The pictures, and which of them were repainted; the others are as they were.

    Raises:
        UsageError: a mask of another size, or settings out of range.

    Paper: Outline-Guided Object Inpainting with Diffusion Models (arXiv 2402.16421).
    """
    check_inpainting_mask(images, mask)
    if not 0 <= least <= 1:
        raise UsageError(f"least must lie in [0, 1], got {least}")
    if erosion is not None:
        check_whole("erosion", erosion, least=0)
    size = max(2, round(12 * min(images.shape[-2:]) / PAPER_SIDE)) if erosion is None else erosion
    whole = (mask.float() >= 0.5).float()
    inside = erode(whole, size)
    area = inside.sum((1, 2, 3))
    repainted = (area > 0) & (area >= least * whole.sum((1, 2, 3)))
    out = images.clone()
    rows = repainted.nonzero()[:, 0]
    if len(rows):
        out[rows] = inpaint(
            denoiser, images[rows], inside[rows], condition, terms=terms, hooks=hooks,
            num_inference_steps=num_inference_steps, resamples=resamples, generator=generator,
        )  # fmt: skip
    return out, repainted


def check_inpainting_mask(images: Tensor, mask: Tensor) -> None:
    """Refuse a mask that is not (B, 1, H, W) of the pictures, or not finite."""
    if mask.shape != (len(images), 1, *images.shape[-2:]):
        expected = (len(images), 1, *images.shape[-2:])
        raise UsageError(f"mask must have shape {expected} as the pictures have, got {tuple(mask.shape)}")
    if mask.is_floating_point() and not bool(mask.isfinite().all()):
        raise UsageError("mask has a value that is not finite")

"""Editing by the prompt without inversion: anchored to the picture, guided by an image direction, noisy in a mask."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.denoisers.attention import AttentionControl, AttentionSite
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.prompts import PromptEncoder
from binderclip.generate.edit.pairs import PromptPair, edit_pair, grid_of, pair_blocks
from binderclip.generate.edit.prompt_to_prompt import (
    AttentionRefine,
    AttentionReplace,
    blend_pair,
    prompt_positions,
    word_attention,
)
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["PropagatedBlend", "SourceAnchor", "ViMAEdit", "edited_image_embedding", "propagate_attention"]


def edited_image_embedding(
    image: Float[Tensor, " E"], source: Float[Tensor, " E"], target: Float[Tensor, " E"]
) -> Float[Tensor, " E"]:
    """The CLIP embedding of a picture, moved by the difference of two prompts' embeddings of the picture's length.

    Args:
        image: raw embedding of the picture.
        source, target: raw embeddings of the prompts.

    Raises:
        UsageError: an embedding that is zero or not finite.

    Paper: Vision-guided and Mask-enhanced Adaptive Denoising for Prompt-based Image Editing (arXiv 2410.10496).
    """
    for name, embedding in (("image", image), ("source", source), ("target", target)):
        if not bool(embedding.isfinite().all()) or not bool(embedding.any()):
            raise UsageError(f"the embedding of {name} must be finite and not zero")
    length = image.norm()
    return image + length * (target / target.norm() - source / source.norm())


def propagate_attention(
    maps: Float[Tensor, "B Q"], self_attention: Float[Tensor, "B Q Q"], *, order: int = 5, gamma: float = 0.5
) -> Float[Tensor, "B Q"]:
    """Attention to a word, spread along self-attention: `order` times `m <- gamma m + (1 - gamma) S m`.

    Args:
        maps: attention of places to a word.
        self_attention: S; its rows are queries and add up to 1.
        order: how often; 0 leaves the maps as they are.
        gamma: what stays in each.

    Raises:
        UsageError: an order below 0, or gamma outside [0, 1].

    Paper: Vision-guided and Mask-enhanced Adaptive Denoising for Prompt-based Image Editing (arXiv 2410.10496).
    """
    check_whole("order", order, least=0)
    check_number("gamma", gamma, least=0, most=1)
    for _ in range(order):
        maps = gamma * maps + (1 - gamma) * (self_attention @ maps[..., None])[..., 0]
    return maps


class SourceAnchor(SamplingHook):
    """Pins the pictures of `edit_pair` to the true ones: `x0 <- x_true + x0 - x0(picture)`, edits alike.

    What the denoiser gets wrong of the picture is taken out of the edit as well, so that no inversion is needed.

    Args:
        source: the true pictures, latents of a `LatentDenoiser`.

    Raises:
        UsageError: when it is called, states of another shape.

    Paper: Vision-guided and Mask-enhanced Adaptive Denoising for Prompt-based Image Editing (arXiv 2410.10496).
    """

    def __init__(self, source: Float[Tensor, "B *shape"]) -> None:
        self.source = source

    def on_x0(self, step: StepContext, x0: Tensor) -> Tensor:
        """The anchored pictures and edits."""
        pictures, edits = x0.chunk(2)
        if pictures.shape != self.source.shape:
            raise UsageError(f"pictures of {tuple(self.source.shape)} do not fit states of {tuple(pictures.shape)}")
        return torch.cat([self.source, self.source + edits - pictures])


class PropagatedBlend(SamplingHook):
    """Edits where words look, spread along self-attention: fresh noise inside, the picture's state outside.

    Attention to the words (layers of 16 x 16 in Stable Diffusion) is resized to the grid of self-attention (32 x 32),
    spread by `propagate_attention`, summed over the steps, scaled to [0, 1] and cut twice. A control and a hook in one;
    it comes after the controls that change attention. The noise inside is the same for picture and edit.

    Args:
        words: positions of the words' tokens, of the picture and of the edit; None with a `mask`.
        mask: where the edit belongs, in [0, 1], in the latents' size; default that of the attention.
        eta: noise inside the mask, in units of DDPM's.
        thresholds: of the blend, and of the noise.
        order, gamma: of `propagate_attention`.
        start: part of the steps that goes by before attention is summed and used.
        largest: attention of more queries than this is left out.

    Raises:
        UsageError: a number out of range; when it is called, a mask of another size.

    Paper: Vision-guided and Mask-enhanced Adaptive Denoising for Prompt-based Image Editing (arXiv 2410.10496).
    """

    def __init__(
        self,
        words: tuple[list[int], list[int]] | None = None,
        *,
        mask: Float[Tensor, "_ 1 h w"] | None = None,
        eta: float = 1.0,
        thresholds: tuple[float, float] = (0.5, 0.8),
        order: int = 5,
        gamma: float = 0.5,
        start: float = 0.2,
        largest: int = 32 * 32,
    ) -> None:
        if (words is None) == (mask is None):
            raise UsageError("give words or a mask, and not both")
        if mask is not None and not bool(((mask >= 0) & (mask <= 1)).all()):  # NaN is neither
            raise UsageError("mask must lie in [0, 1]")
        for name, value in (("thresholds", thresholds[0]), ("thresholds", thresholds[1]), ("start", start)):
            check_number(name, value, least=0, most=1)
        check_number("eta", eta, least=0, most=1)
        self.words, self.given, self.amount, self.thresholds = words, mask, eta, thresholds
        self.order, self.gamma, self.start, self.largest = order, gamma, start, largest
        self.total: Float[Tensor, "C Q"] | None = None  # on `grid`, of all steps so far; rows: pictures, then edits
        self.grid = (1, 1)
        self.texts: dict[tuple[int, int], list[Tensor]] = {}
        self.selves: dict[tuple[int, int], list[Tensor]] = {}

    def before(self, step: StepContext) -> Tensor:
        """Forgets the last step's attention, and in the first step all."""
        if step.i == 0:
            self.total = None
        self.texts, self.selves = {}, {}
        return step.x

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        """The same attention, taken note of."""
        if self.words is not None and probabilities.shape[2] <= self.largest:
            if site.kind == "text":
                self.texts.setdefault(site.size, []).append(word_attention(probabilities, site, self.words))
            elif site.kind == "self":
                rows = torch.cat(pair_blocks(probabilities.detach(), site)[:2]).mean(1)
                self.selves.setdefault(site.size, []).append(rows)
        return probabilities

    def mask(self, step: StepContext, threshold: float) -> Bool[Tensor, "B 1 h w"] | None:
        """Where picture or edit lie above a threshold; None before the mask's first step."""
        size = tuple(step.x.shape[-2:])
        if self.given is not None:
            if self.given.shape[-2:] != size or len(self.given) not in (1, len(step.x) // 2):
                raise UsageError(f"mask has shape {tuple(self.given.shape)}, the latents are {tuple(step.x.shape)[1:]}")
            return (self.given > threshold).expand(len(step.x) // 2, -1, -1, -1)
        if self.total is None:
            return None
        maps = F.interpolate(self.total.unflatten(1, self.grid)[:, None], size)  # nearest, as published
        least, most = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        source, target = (maps - least > threshold * (most - least)).chunk(2)  # a map without contrast is empty
        return source | target

    def eta(self, step: StepContext, eta: float | Tensor) -> float | Tensor:
        """The step's noise, inside the mask alone; here the attention of the step is summed up."""
        self._accumulate(step)
        mask = self.mask(step, self.thresholds[1])
        return eta if mask is None or self.amount == 0 else self.amount * mask.to(step.x).repeat(2, 1, 1, 1)

    def noise(self, step: StepContext, noise: Tensor) -> Tensor:
        """One noise for a picture and its edit: their difference has none."""
        return noise.chunk(2)[0].repeat(2, *[1] * (noise.ndim - 1))

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The edits' states, outside of the mask the pictures'."""
        mask = self.mask(step, self.thresholds[0])
        return x if mask is None else blend_pair(x, mask)

    def _accumulate(self, step: StepContext) -> None:
        # as published: the step at `start` is counted from 1, and its own attention enters its own mask
        if self.words is None or step.i + 1 < int(self.start * step.n):
            return
        size = (int(step.x.shape[-2]), int(step.x.shape[-1]))
        self.grid = grid_of(list(self.selves), size, 2)
        among = torch.stack(self.selves[self.grid]).mean(0)
        coarse = grid_of(list(self.texts), size, 4)
        across = torch.stack(self.texts[coarse]).mean(0).unflatten(1, coarse)[:, None]
        spread = propagate_attention(
            F.interpolate(across, self.grid).flatten(1), among, order=self.order, gamma=self.gamma
        )
        self.total = spread if self.total is None else self.total + spread


@dataclass(frozen=True)
class ViMAEdit:
    """Edits a picture by a pair of prompts, a CLIP image direction and a mask from attention; nothing is inverted.

    Picture and edit start from the picture with one noise on, and run side by side in one forward of four rows a step.
    The picture is pinned to the true one (`SourceAnchor`), attention is Prompt-to-Prompt's (`AttentionRefine`, or
    `AttentionReplace`), image tokens of the picture and of `edited_image_embedding` condition both (all need a
    network with image attention), and `PropagatedBlend` adds noise inside the mask and keeps the picture outside.

    Args:
        source, target: prompts.
        source_word, target_word: whose place is edited; None, for both, for everywhere, without noise.
        guidance_scale: of the edit; the picture follows the conditional prediction alone.
        image_scale: of the attention to image tokens.
        swap: `refine` for added words, `replace` for prompts of as many words.
        cross_replace_steps, self_replace_steps, image_replace_steps: as of `AttentionEdit`.
        eta, thresholds, order, gamma, start: as of `PropagatedBlend`.

    Raises:
        UsageError: a number out of range, or one word without the other.

    Paper: Vision-guided and Mask-enhanced Adaptive Denoising for Prompt-based Image Editing (arXiv 2410.10496).
    """

    source: str
    target: str
    source_word: str | None = None
    target_word: str | None = None
    guidance_scale: float = 7.5
    image_scale: float = 0.4
    swap: str = "refine"
    cross_replace_steps: float = 0.4
    self_replace_steps: float = 0.6
    image_replace_steps: float = 0.1
    eta: float = 1.0
    thresholds: tuple[float, float] = (0.5, 0.8)
    order: int = 5
    gamma: float = 0.5
    start: float = 0.2

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.guidance_scale)
        check_number("image_scale", self.image_scale, least=0)
        check_choice("swap", self.swap, ("refine", "replace"))
        if (self.source_word is None) != (self.target_word is None):
            raise UsageError("give source_word and target_word, or neither")
        for name in ("cross_replace_steps", "self_replace_steps", "image_replace_steps", "eta", "gamma", "start"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_whole("order", self.order, least=0)

    def edit(
        self,
        denoiser: LatentDenoiser,
        latents: Float[Tensor, "B C h w"],
        *,
        embeddings: tuple[Float[Tensor, " E"], Float[Tensor, " E"], Float[Tensor, " E"]] | None = None,
        mask: Float[Tensor, "_ 1 h w"] | None = None,
        num_inference_steps: int = 50,
        hooks: Sequence[SamplingHook] = (),
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B C h w"]:
        """The edited latents.

        Args:
            denoiser: with attention.
            latents: of the pictures, `LatentDenoiser.encode`.
            embeddings: raw CLIP embeddings of one picture and of both prompts; None for no image direction.
            mask: where the edit belongs, in the latents' size, in the place of the words'.
            num_inference_steps: steps, 2 at least.
            hooks: that follow the sampling of pictures and edits, after they are anchored.
            generator: of the start and of the noise in the mask.

        Raises:
            UsageError: a prompt without its word, a mask of another size, latents that are empty or not finite,
                embeddings with several pictures.
            NotSupported: embeddings for a network without image attention.
        """
        check_whole("num_inference_steps", num_inference_steps, least=2)
        if not len(latents) or not bool(latents.isfinite().all()):
            raise UsageError("latents must be a batch of finite pictures")
        pair, null = PromptPair(self.source, self.target), None
        if embeddings is not None:
            if len(latents) != 1:
                raise UsageError(f"embeddings are of one picture, and there are {len(latents)}")
            pair, null = self._with_images(denoiser, embeddings)
        noise = torch.randn(latents.shape, generator=generator, dtype=latents.dtype, device=latents.device)
        t = int(denoiser.schedule.timesteps(num_inference_steps)[0])
        _, edited = edit_pair(
            denoiser,
            denoiser.schedule.add_noise(latents, noise, t),
            pair,
            controls=self._controls(denoiser.text, mask),
            hooks=[SourceAnchor(latents), *hooks],
            guidance_scale=self.guidance_scale,
            source_guidance_scale=1.0,
            null=null,
            num_inference_steps=num_inference_steps,
            generator=generator,
        )
        return edited

    def _controls(self, text: PromptEncoder, mask: Tensor | None) -> list[AttentionControl]:
        kind = AttentionRefine if self.swap == "refine" else AttentionReplace
        controls: list[AttentionControl] = [
            kind(
                text,
                self.source,
                self.target,
                cross_replace_steps=self.cross_replace_steps,
                self_replace_steps=self.self_replace_steps,
                image_replace_steps=self.image_replace_steps,
            )
        ]
        words = None
        if self.source_word is not None and self.target_word is not None and mask is None:
            words = (
                prompt_positions(text, self.source, self.source_word),
                prompt_positions(text, self.target, self.target_word),
            )
        if words is not None or mask is not None:
            blend = PropagatedBlend(
                words, mask=mask, eta=self.eta, thresholds=self.thresholds, order=self.order, gamma=self.gamma,
                start=self.start,
            )  # fmt: skip
            controls.append(blend)
        return controls

    def _with_images(
        self, denoiser: LatentDenoiser, embeddings: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[PromptPair, Hashable]:
        image = embeddings[0]
        with torch.no_grad():
            # zeros, not no tokens, stand for no picture: the projection's bias and norm act on them too
            rows = torch.stack([image, edited_image_embedding(*embeddings), torch.zeros_like(image)])
            tokens = denoiser.image_tokens(rows)
        source, target, null = (
            replace(denoiser.prompt(text), image_tokens=token, image_scale=self.image_scale)
            for text, token in zip((self.source, self.target, None), tokens, strict=True)
        )
        return PromptPair(source, target), null

"""A picture and its edit, sampled side by side: each has its own prompt, and one forward a step serves both."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.generate.denoisers.attention import AttentionControl, AttentionSite
from binderclip.generate.denoisers.context import GuidanceTerm, SamplingHook, StepContext
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.sampling import sample
from binderclip.numeric import check_number, check_whole

__all__ = ["PairedDenoiser", "PairedGuidance", "PromptPair", "edit_pair"]


@dataclass(frozen=True)
class PromptPair:
    """The condition of pictures and of their edits, which are the first and the second half of a batch.

    Args:
        source: condition of the pictures.
        target: condition of the edits.
    """

    source: Hashable
    target: Hashable


class PairedDenoiser(Denoiser):
    """A denoiser whose batches are pictures and their edits, each half under its own condition of a `PromptPair`.

    Any other condition is that of both halves.

    Args:
        denoiser: predicts the noise.

    Raises:
        UsageError: when it is called, a batch that has no two halves.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.schedule)
        self.denoiser = denoiser

    def forward(
        self, x: Float[Tensor, "R *shape"], t: Int[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        if len(x) % (2 * len(conditions)):
            raise UsageError(f"{len(x)} rows are no pictures and as many edits, under each of {len(conditions)}")
        halves = [
            (condition.source, condition.target) if isinstance(condition, PromptPair) else (condition, condition)
            for condition in conditions
        ]
        return self.denoiser(x, t, [half for pair in halves for half in pair])


@dataclass(frozen=True)
class PairedGuidance(GuidanceTerm):
    """Classifier-free guidance of pictures and edits, each half with its own scale.

    Args:
        guidance_scale: of the edits.
        source_guidance_scale: of the pictures; 1 follows the conditional prediction alone.
        null: the condition that stands for none.

    Raises:
        UsageError: a scale that is not finite.

    Paper: Ho and Salimans, Classifier-Free Diffusion Guidance (arXiv 2207.12598).
    """

    guidance_scale: float = 7.5
    source_guidance_scale: float = 7.5
    null: Hashable = None

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.guidance_scale)
        check_number("source_guidance_scale", self.source_guidance_scale)

    @property
    def needs(self) -> Sequence[Hashable]:
        """The null condition, unless neither half is guided."""
        return () if self.guidance_scale == self.source_guidance_scale == 1 else (self.null,)

    def __call__(self, step: StepContext) -> Tensor:
        """The increment of eps."""
        if not self.needs:
            return torch.zeros_like(step.x)
        pictures, edits = (step.epsilon(step.condition) - step.epsilon(self.null)).chunk(2)
        return torch.cat([(self.source_guidance_scale - 1) * pictures, (self.guidance_scale - 1) * edits])


class _ControlChain:
    """Several controls, one after the other."""

    def __init__(self, controls: Sequence[AttentionControl]) -> None:
        self.controls = controls

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        for control in self.controls:
            probabilities = control(probabilities, site)
        return probabilities


def edit_pair(
    denoiser: Denoiser,
    x: Float[Tensor, "B *shape"],
    pair: PromptPair,
    *,
    controls: Sequence[AttentionControl] = (),
    hooks: Sequence[SamplingHook] = (),
    guidance_scale: float = 7.5,
    source_guidance_scale: float | None = None,
    null: Hashable = None,
    num_inference_steps: int = 50,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "B *shape"], Float[Tensor, "B *shape"]]:
    """Pictures and their edits out of one noise: DDIM with both prompts side by side, one forward of four rows a step.

    Args:
        denoiser: predicts the noise.
        x: the state at the noisiest time, from which both start: standard normal noise, or an inverted picture.
        pair: the prompts.
        controls: change the attention, in their order; those that are `SamplingHook`s too follow the steps.
        hooks: further hooks, before those of the controls.
        guidance_scale: of the edits.
        source_guidance_scale: of the pictures; default as of the edits.
        null: the condition that stands for none.
        num_inference_steps: steps, 2 at least: a single one starts at the least noisy time, where nothing is edited.
        generator: of noise that a hook asks for.

    Returns:
        The pictures of the source prompt, and the edits.

    Raises:
        UsageError: an empty batch, a state that is not finite, or a setting out of range.
        NotSupported: controls for a denoiser without attention.

    Paper: Prompt-to-Prompt Image Editing with Cross Attention Control (arXiv 2208.01626), algorithm 1.
    """
    check_whole("num_inference_steps", num_inference_steps, least=2)
    if controls:
        if not isinstance(denoiser, LatentDenoiser):
            raise NotSupported(f"{type(denoiser).__name__} has no attention to be controlled: give a LatentDenoiser")
        denoiser = denoiser.controlled(_ControlChain(controls))
    source_scale = guidance_scale if source_guidance_scale is None else source_guidance_scale
    states = sample(
        PairedDenoiser(denoiser),
        torch.cat([x, x]),
        pair,
        terms=[PairedGuidance(guidance_scale, source_scale, null)],
        hooks=[*hooks, *(control for control in controls if isinstance(control, SamplingHook))],
        num_inference_steps=num_inference_steps,
        generator=generator,
    )
    pictures, edits = states.chunk(2)
    return pictures, edits


def pair_blocks(probabilities: Tensor, site: AttentionSite) -> list[Tensor]:
    """Attention of pictures, of edits, and so on for the conditions after the pair (null pictures, null edits).

    Raises:
        UsageError: the denoiser is not asked about pairs.
    """
    if len(site.conditions) % 2:
        raise UsageError("this control is for pictures and edits side by side: sample them with `edit_pair`")
    return list(probabilities.chunk(len(site.conditions)))


def grid_of(sizes: Sequence[tuple[int, int]], latents: tuple[int, int], part: int) -> tuple[int, int]:
    """The coarsest grid that has at least a part of the latents' height, else the finest there is.

    In Stable Diffusion, part 4 is 16 x 16 and part 2 is 32 x 32 of 64 x 64.

    Raises:
        NotSupported: no grid.
    """
    if not sizes:
        raise NotSupported("the network has no attention from which a mask could be made")
    fine = [size for size in sizes if part * size[0] >= latents[0]]
    return min(fine) if fine else max(sizes)

"""A prompt's subject inside a reference picture: outside of what depends on its words, the picture's state is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.gradient.attention_scores import attention_gradient_scores
from binderclip.generate.denoisers.attention import AttentionSite
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.edit.prompt_to_prompt import prompt_positions
from binderclip.numeric import check_number, check_whole

__all__ = ["AbsGradSAM"]

SIGMA = 6.0  # of the 3 x 3 Gaussian, in latent places


class _AttentionLeaf:
    """Makes the attention of one layer to words a leaf of the graph, so that gradients go back to it and no further."""

    def __init__(self, layer: int) -> None:
        self.layer = layer
        self.weights: Tensor | None = None

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        if site.kind != "text" or site.layer != self.layer:
            return probabilities.detach()
        self.weights = probabilities.detach().requires_grad_()
        return self.weights


class AbsGradSAM(SamplingHook):
    """At some steps, puts a reference picture, noised alike, wherever the prediction does not depend on the subject.

    At these steps the conditional prediction is made once more, and each of its elements scored by its gradients with
    respect to the last layer's attention to the subject's words (`attention_gradient_scores`). The largest of the
    words' scores is blurred (3 x 3 Gaussian), widened (maximum of 3 x 3, thrice) and cut at `mean + spread std` of its
    channel; outside of it the state becomes `a' reference + s' noise`.

    Args:
        reference: latents of the reference picture, or of one for each picture.
        words: the subject's, all of which the sampled prompt must hold.
        steps: numbers of the steps, from 0, after which it acts; default the released code's, of 50: those that lead to
            positions 5, 18 and 28 of the 40 that its strength of 0.8 leaves (`first_step=10` of `sample`).
        spread: standard deviations above the mean at which scores are cut; -inf keeps all that is sampled.
        pooled: scores the means of so many by so many parts of the prediction, which is cheaper; None for each element.
        joint: one mask for all channels, their mean, as pictures without an encoder need.
        released: as in the released code, `W relu(gradient)` without blur and widening but a sum of 3 x 3.
        noise: standard normal, of the reference's shape; default drawn from `generator`, once.
        generator: of the noise; default torch's.

    Raises:
        UsageError: no step or word, a setting out of range; when it samples, a prompt without a word, a reference of
            another size, or a step that sampling does not have.
        NotSupported: a denoiser without attention.

    Paper: Enhancing Conditional Image Generation with Explainable Latent Space Manipulation (arXiv 2408.16232).
    """

    def __init__(
        self,
        reference: Float[Tensor, "_ C h w"],
        words: str | Sequence[str],
        *,
        steps: Sequence[int] = (14, 27, 37),
        spread: float = 0.5,
        pooled: int | None = None,
        joint: bool = False,
        released: bool = False,
        noise: Float[Tensor, "_ C h w"] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not bool(reference.isfinite().all()):
            raise UsageError("reference has a value that is not finite")
        if not words or not steps:
            raise UsageError("name at least one word and one step")
        for step in steps:
            check_whole("steps", step, least=0)
        if pooled is not None:
            check_whole("pooled", pooled, least=1)
        check_number("spread", spread, infinite=True)
        if noise is not None and noise.shape != reference.shape:
            raise UsageError(f"noise has shape {tuple(noise.shape)}, the reference {tuple(reference.shape)}")
        self.reference, self.words, self.steps = reference, words, frozenset(steps)
        self.spread, self.pooled, self.joint, self.released = spread, pooled, joint, released
        drawn = torch.randn(
            reference.shape, generator=generator, dtype=reference.dtype, device=reference.device
        )  # fmt: skip
        self.noised = drawn if noise is None else noise

    def before(self, step: StepContext) -> Tensor:
        """Refuses what could not be done later; sampling may leave its first steps out."""
        _check(step, self.reference, max(self.steps))
        self._tokens(step)
        return step.x

    def after(self, step: StepContext, x: Tensor) -> Tensor:
        """The state; outside of the subject the reference's."""
        if step.i not in self.steps:
            return x
        # noised as the state is after the step, not before
        reference = step.schedule.add_noise(self.reference, self.noised, step.target)
        return torch.where(self.mask(step), x, reference)

    def mask(self, step: StepContext) -> Bool[Tensor, "B C h w"]:
        """Where the subject is, for each channel."""
        scores = self.scores(step)
        if self.joint:
            scores = scores.mean(1, keepdim=True).expand_as(scores)
        if self.released:
            scores = 9 * F.avg_pool2d(scores, 3, stride=1, padding=1)  # zeros around, counted: a sum
        else:
            scores = _blurred(scores)
            for _ in range(3):
                scores = F.max_pool2d(scores, 3, stride=1, padding=1)
        level = scores.mean((2, 3), keepdim=True)
        if self.spread != 0:
            deviation = scores.std((2, 3), keepdim=True)
            level = level + self.spread * deviation if abs(self.spread) < float("inf") else level * 0 + self.spread
        return scores > level

    def scores(self, step: StepContext) -> Float[Tensor, "B C h w"]:
        """The subject's score of every element of the conditional prediction: the largest of its tokens'."""
        denoiser, tokens = _latent(step), self._tokens(step)
        leaf = _AttentionLeaf(_last_text_layer(denoiser))
        with torch.enable_grad():
            epsilon = denoiser.controlled(leaf).predict(step.x.detach(), step.t, [step.condition])[0]
            grid = epsilon if self.pooled is None else F.adaptive_avg_pool2d(epsilon, self.pooled)
            if leaf.weights is None:
                raise NotSupported("the network has no attention to words")
            kind: Any = "positive" if self.released else "absolute"
            scores = attention_gradient_scores(grid, leaf.weights, tokens, kind=kind).amax(0)
        return scores if self.pooled is None else F.interpolate(scores, step.x.shape[-2:])

    def _tokens(self, step: StepContext) -> list[int]:
        denoiser = _latent(step)
        return prompt_positions(denoiser.text, denoiser.prompt(step.condition).text, self.words)


def _latent(step: StepContext) -> LatentDenoiser:
    if not isinstance(step.denoiser, LatentDenoiser):
        raise NotSupported(f"{type(step.denoiser).__name__} has no attention: give a LatentDenoiser")
    return step.denoiser


def _check(step: StepContext, reference: Tensor, last: int) -> None:
    if reference.shape[1:] != step.x.shape[1:] or len(reference) not in (1, len(step.x)):
        raise UsageError(f"reference has shape {tuple(reference.shape)}, the states {tuple(step.x.shape)}")
    if last >= step.n:
        raise UsageError(f"steps: sampling has {step.n} steps, from 0 to {step.n - 1}, and no step {last}")


def _last_text_layer(denoiser: LatentDenoiser) -> int:
    return max(processor.layer for processor in denoiser.unet.attn_processors.values() if processor.kind == "text")


def _blurred(scores: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
    """A Gaussian of 3 x 3, edges repeated."""
    side = torch.exp(-0.5 * torch.tensor([1.0, 0.0, 1.0], dtype=scores.dtype, device=scores.device) / SIGMA**2)
    kernel = side[:, None] * side / side.sum() ** 2
    channels = scores.shape[1]
    padded = F.pad(scores, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernel.expand(channels, 1, 3, 3), groups=channels)

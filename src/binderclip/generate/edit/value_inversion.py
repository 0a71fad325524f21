"""A picture inverted into the values of its prompt: keys, and so attention, stay those of the words."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.generate.denoisers.attention import AttentionControl, AttentionSite
from binderclip.generate.denoisers.context import SamplingHook, StepContext
from binderclip.generate.denoisers.latent import LatentDenoiser
from binderclip.generate.denoisers.prompts import Prompt
from binderclip.generate.denoisers.sampling import invert, sample
from binderclip.generate.edit.pairs import PromptPair, edit_pair, grid_of
from binderclip.generate.edit.prompt_to_prompt import AttentionRefine
from binderclip.generate.guidance.classifier_free import ClassifierFreeGuidance
from binderclip.numeric import check_number, check_whole

__all__ = ["PromptEmbeddingInversion", "StyleDiffusion", "ValueMapping"]

TOLERANCE_RISE = 2e-5  # of the loss at which a step ends, from one step to the next


class ValueMapping(nn.Module):
    """From the tokens of a picture to a scale and a shift for every token of a prompt.

    Convolutions of width 1 over the token axis, with batch norm over the width (of the one picture, always in training
    mode) and leaky ReLU; the features' width is matched to the prompt's by a linear layer where it is another.

    Args:
        features: (tokens, width) of the picture's features.
        states: (L, D) of the prompt's states.
        num_blocks: of convolution, norm and activation.

    Paper: StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing (arXiv 2303.15649).
    """

    def __init__(self, features: tuple[int, int], states: tuple[int, int], num_blocks: int = 1) -> None:
        super().__init__()
        check_whole("num_blocks", num_blocks, least=0)
        channels = 2 * states[0]
        self.match = nn.Identity() if features[1] == states[1] else nn.Linear(features[1], states[1])
        self.first = nn.Conv1d(features[0], channels, 1)
        self.blocks = nn.Sequential()
        for _ in range(num_blocks):
            norm = nn.BatchNorm1d(channels, track_running_stats=False)
            self.blocks.extend([nn.Conv1d(channels, channels, 1), norm, nn.LeakyReLU()])
        self.last = nn.Conv1d(channels, channels, 1)

    def forward(self, features: Float[Tensor, "N W"]) -> tuple[Float[Tensor, "L D"], Float[Tensor, "L D"]]:
        """Scale and shift."""
        out = self.last(self.blocks(self.first(self.match(features)[None])))[0]
        scale, shift = out.chunk(2)
        return scale, shift


class _AttentionRecord:
    """Keeps the attention to words of every forward, heads and graph included."""

    def __init__(self, largest: int = 32 * 32) -> None:
        self.largest = largest
        self.forwards: list[dict[int, tuple[tuple[int, int], Tensor]]] = []

    def __call__(
        self, probabilities: Float[Tensor, "R heads Q K"], site: AttentionSite
    ) -> Float[Tensor, "R heads Q K"]:
        if site.kind == "self" and site.layer == 0:  # the first attention of a forward
            self.forwards.append({})
        if site.kind == "text" and probabilities.shape[2] <= self.largest:
            self.forwards[-1][site.layer] = (site.size, probabilities)
        return probabilities


@dataclass(frozen=True)
class PromptEmbeddingInversion:
    """Finds, step by step, the values of a prompt that lead guided sampling along a picture's DDIM inversion.

    For every step a `ValueMapping` is trained, from the one before: `mse(z', z of the inversion) + mse(attention,
    attention of the inversion)`, the latter over layers of 16 x 16 in Stable Diffusion. Keys stay the prompt's.

    Args:
        guidance_scale: under which the picture shall come back.
        num_inference_steps: steps, 2 at least.
        inner_steps: at most `ceil(inner_steps exp(-decay i))` updates in step i.
        decay: of these.
        learning_rate: Adam's, falling by a hundredth of it a step.
        attention_weight: of the second loss; 0 leaves it out.
        tolerance: a step ends when its loss is below `tolerance + 2e-5 i`.
        num_blocks: of the mapping.
        seed: of the first mapping's weights.

    Raises:
        UsageError: a setting out of range.

    Paper: StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing (arXiv 2303.15649).
    """

    guidance_scale: float = 7.5
    num_inference_steps: int = 30
    inner_steps: int = 100
    decay: float = 0.1
    learning_rate: float = 1e-2
    attention_weight: float = 1.0
    tolerance: float = 1e-5
    num_blocks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.guidance_scale)
        check_whole("num_inference_steps", self.num_inference_steps, least=2)
        check_whole("inner_steps", self.inner_steps, least=0)
        check_number("learning_rate", self.learning_rate, above=0)
        for name in ("decay", "attention_weight", "tolerance"):
            check_number(name, getattr(self, name), least=0)

    def updates(self) -> list[int]:
        """The most updates of each step."""
        return [math.ceil(self.inner_steps * math.exp(-self.decay * i)) for i in range(self.num_inference_steps)]

    def fit(
        self, denoiser: LatentDenoiser, latents: Float[Tensor, "1 C h w"], prompt: str, features: Float[Tensor, "N W"]
    ) -> StyleDiffusion:
        """Invert one picture. An update is one forward and one backward; a step has one forward more.

        Args:
            denoiser: its weights stay as they are.
            latents: of the picture, `LatentDenoiser.encode`.
            prompt: that describes it.
            features: CLIP tokens of the picture, not pooled.

        Raises:
            UsageError: several pictures, or values that are not finite.
            DataError: a loss that is not finite.
        """
        if len(latents) != 1:
            raise UsageError(f"one picture is inverted at a time, got {len(latents)}")
        if not bool(features.isfinite().all()):
            raise UsageError("features has a value that is not finite")
        record = _AttentionRecord()
        n = self.num_inference_steps
        states = invert(denoiser.controlled(record), latents, prompt, num_inference_steps=n)
        # attention of the inversion by the state it was predicted at; the last state is predicted at by none
        recorded = [*record.forwards, record.forwards[-1]]
        words = denoiser.prompt(prompt)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            sizes = (len(features), features.shape[1]), (len(words.keys), words.keys.shape[1])
            mapping = ValueMapping(*sizes, self.num_blocks).to(features)
        z, scales, shifts = states[-1], [], []
        times = denoiser.schedule.timesteps(n).tolist()
        for i, (t, lower) in enumerate(zip(times, [*times[1:], None], strict=True)):
            step = _Step(denoiser, words, z, t, lower, states[n - i - 1], recorded[n - i])
            z, scale, shift = self._train(step, mapping, features, i)
            scales.append(scale)
            shifts.append(shift)
        return StyleDiffusion(prompt, states, torch.stack(scales), torch.stack(shifts), self.guidance_scale)

    def _train(self, step: _Step, mapping: ValueMapping, features: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Trains the mapping of one step; the state after it, scale and shift."""
        weights = list(mapping.parameters())
        optimizer = torch.optim.Adam(weights, lr=self.learning_rate * (1 - i / 100))
        with torch.no_grad():
            null = step.denoiser.predict(step.z, step.t, [None])[0]
        for _ in range(self.updates()[i]):
            with torch.enable_grad():
                scale, shift = mapping(features)
                z, attention = step.next_state(null, scale, shift, self.guidance_scale, self.attention_weight > 0)
                loss = F.mse_loss(z, step.goal) + self.attention_weight * attention
                gradients = torch.autograd.grad(loss, weights)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient
            optimizer.step()
            reached = loss.item()
            if not math.isfinite(reached):
                raise DataError(f"the loss of step {i + 1} is not finite: lower the learning rate")
            if reached < self.tolerance + i * TOLERANCE_RISE:
                break
        with torch.no_grad():
            scale, shift = mapping(features)
            z, _ = step.next_state(null, scale, shift, self.guidance_scale, False)
        return z, scale, shift


@dataclass(frozen=True)
class _Step:
    """One step of the guided path, and where the inversion was."""

    denoiser: LatentDenoiser
    words: Prompt
    z: Tensor
    t: int
    lower: int | None
    goal: Tensor
    attention: dict[int, tuple[tuple[int, int], Tensor]]

    def next_state(
        self, null: Tensor, scale: Tensor, shift: Tensor, guidance_scale: float, watched: bool
    ) -> tuple[Tensor, Tensor | float]:
        """The state after the step, and the distance of attention from the inversion's, summed over layers."""
        prompt = replace(self.words, values=self.words.keys * scale + shift)
        record = _AttentionRecord()
        denoiser = self.denoiser.controlled(record) if watched else self.denoiser
        epsilon = null + guidance_scale * (denoiser.predict(self.z, self.t, [prompt])[0] - null)
        z = self.denoiser.schedule.step(epsilon, self.z, self.t, self.lower)
        if not watched:
            return z, 0.0
        grid = grid_of([size for size, _ in self.attention.values()], (z.shape[-2], z.shape[-1]), 4)
        now = record.forwards[-1]
        distances = [F.mse_loss(now[k][1], goal) for k, (size, goal) in self.attention.items() if size == grid]
        return z, torch.stack(distances).sum()


class _StepValues(SamplingHook):
    """Gives each step's prompts its own values: the picture's always, the edit's for the first steps."""

    def __init__(self, result: StyleDiffusion, denoiser: LatentDenoiser, value_steps: float = 1.0) -> None:
        self.result, self.denoiser, self.value_steps = result, denoiser, value_steps

    def condition(self, step: StepContext) -> Hashable:
        given = step.condition
        if not isinstance(given, PromptPair):
            return self._valued(given, step.i)
        target = self._valued(given.target, step.i) if step.i < self.value_steps * step.n else given.target
        return PromptPair(self._valued(given.source, step.i), target)

    def _valued(self, condition: Hashable, i: int) -> Prompt:
        prompt = self.denoiser.prompt(condition)
        return replace(prompt, values=prompt.keys * self.result.scales[i] + self.result.shifts[i])


@dataclass(frozen=True, eq=False)
class StyleDiffusion:
    """A picture inverted by `PromptEmbeddingInversion`: it comes back under guidance, and can be edited by its prompt.

    Args:
        prompt: of the picture.
        states: of the DDIM inversion, the picture first and the noisiest last.
        scales, shifts: of the prompt's values in each step, the noisiest first.
        guidance_scale: under which they were found.

    Raises:
        UsageError: scales or shifts that do not fit the states, or are not finite.

    Paper: StyleDiffusion: Prompt-Embedding Inversion for Text-Based Editing (arXiv 2303.15649).
    """

    prompt: str
    states: Sequence[Float[Tensor, "1 C h w"]]
    scales: Float[Tensor, "N L D"]
    shifts: Float[Tensor, "N L D"]
    guidance_scale: float = 7.5

    def __post_init__(self) -> None:
        if len(self.states) != len(self.scales) + 1 or self.scales.shape != self.shifts.shape:
            raise UsageError(f"{len(self.states)} states need as many scales and shifts less one: {len(self.scales)}")
        if not bool(self.scales.isfinite().all() and self.shifts.isfinite().all()):
            raise UsageError("scales and shifts must be finite")

    def reconstruct(self, denoiser: LatentDenoiser) -> Float[Tensor, "1 C h w"]:
        """The picture's latents, by guided sampling with its values."""
        return sample(
            denoiser,
            self.states[-1],
            self.prompt,
            terms=[ClassifierFreeGuidance(self.guidance_scale)],
            hooks=[_StepValues(self, denoiser)],
            num_inference_steps=len(self.scales),
        )

    def edit(
        self,
        denoiser: LatentDenoiser,
        target: str,
        *,
        controls: Sequence[AttentionControl] | None = None,
        value_steps: float = 0.6,
        hooks: Sequence[SamplingHook] = (),
    ) -> tuple[Float[Tensor, "1 C h w"], Float[Tensor, "1 C h w"]]:
        """The picture and its edit, latents of both; one forward of four rows a step.

        Args:
            denoiser: that of the inversion.
            target: prompt of the edit.
            controls: of attention; default the published `AttentionRefine` (cross 0.6, self 0.8, unconditional self
                0.5 of the steps).
            value_steps: until which part of the steps the edit's values are the picture's scale and shift of its own
                words; those of the picture always are.
            hooks: that follow the sampling of both.

        Raises:
            UsageError: a part outside [0, 1].
        """
        check_number("value_steps", value_steps, least=0, most=1)
        if controls is None:
            controls = [
                AttentionRefine(
                    denoiser.text, self.prompt, target, cross_replace_steps=0.6, self_replace_steps=0.8,
                    null_self_replace_steps=0.5,
                )
            ]  # fmt: skip
        return edit_pair(
            denoiser,
            self.states[-1],
            PromptPair(self.prompt, target),
            controls=controls,
            hooks=[_StepValues(self, denoiser, value_steps), *hooks],
            guidance_scale=self.guidance_scale,
            num_inference_steps=len(self.scales),
        )

"""A classifier and its denoiser, adapted to each other on pictures that the denoiser makes of the class names."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.errors import UsageError
from binderclip.fit import FitResult, fit
from binderclip.generate.denoisers.denoiser import Denoiser
from binderclip.generate.denoisers.sampling import sample
from binderclip.generate.guidance.classifier_free import ClassifierFreeGuidance
from binderclip.numeric import check_number, check_whole

__all__ = ["SelfAdaptation"]


@dataclass(frozen=True)
class SelfAdaptation:
    """Makes a classifier robust without a picture of its task: the diffusion model paints what it is trained on.

    Three stages: `synthesise` makes pictures of every class; `personalise` tunes the denoiser on them, with the
    classifier's loss on what it denoises; `adapt` tunes the classifier on the same pictures, noised at random times and
    denoised in one step. Then `RandomizedSmoothing` with `OneStepDenoising` certifies.

    Args:
        denoiser: a diffusion model of pictures in [-1, 1].
        predictor: pictures in [0, 1] to logits (B, K).
        conditions: of the classes in the order of the logits, such as "This is a photo of a cat".

    Raises:
        UsageError: no condition.

    Paper: Adversarial Robustification via Text-to-Image Diffusion Models (arXiv 2407.18658), section 3.2.
    """

    denoiser: Denoiser
    predictor: Callable[[Tensor], Tensor]
    conditions: Sequence[Hashable]

    def __post_init__(self) -> None:
        if not self.conditions:
            raise UsageError("conditions is empty: give one for each class")

    def synthesise(
        self,
        shape: Sequence[int],
        *,
        per_class: int = 1,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "N C H W"], Int[Tensor, " N"]]:
        """Pictures of every class in [0, 1], and their labels.

        Args:
            shape: (C, H, W) of a picture.
            per_class: pictures of each; the paper takes one.
            guidance_scale: of classifier-free guidance against the condition None; 1 is none.
            num_inference_steps, eta: of the sampling.
            generator: of the noise; default torch's.

        Raises:
            UsageError: a setting out of range.
        """
        check_whole("per_class", per_class, least=1)
        terms = [] if guidance_scale == 1 else [ClassifierFreeGuidance(guidance_scale)]
        pictures = []
        for condition in self.conditions:
            noise = torch.randn((per_class, *shape), generator=generator)
            pictures.append(
                sample(
                    self.denoiser, noise, condition, terms=terms, num_inference_steps=num_inference_steps, eta=eta,
                    generator=generator,
                )
            )  # fmt: skip
        labels = torch.arange(len(self.conditions)).repeat_interleave(per_class)
        return ((torch.cat(pictures) + 1) / 2).clamp(0, 1), labels

    def personalise(
        self,
        parameters: nn.Module | Iterable[nn.Parameter],
        images: Float[Tensor, "N C H W"],
        labels: Int[Tensor, " N"],
        *,
        steps: int = 500,
        batch_size: int = 6,
        lr: float = 1e-4,
        weight: float = 0.01,
        seed: int = 0,
        **settings: Any,
    ) -> FitResult:
        """Tune the denoiser: mean |eps - eps_hat|^2 + weight CE(predictor(x0_hat), class), AdamW and cosine.

        Args:
            parameters: of the denoiser that are trained; the paper's are low-rank adapters.
            images, labels: of `synthesise`.
            steps, batch_size, lr: of the training.
            weight: of the classifier's loss.
            seed: of rows, times and noise.
            **settings: further ones of `fit`.

        Raises:
            UsageError: a setting out of range, or pictures and labels that do not fit.
        """
        check_number("weight", weight, least=0)

        def step(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
            pictures, classes, t, noise = batch
            state = self.denoiser.schedule.add_noise(pictures, noise, t)
            epsilon = self._of_classes(state, t, classes)
            loss = functional.mse_loss(epsilon, noise)
            x0 = self.denoiser.schedule.from_epsilon(epsilon, state, t, "sample")
            logits = self.predictor((x0.clamp(-1, 1) + 1) / 2)
            return loss + weight * functional.cross_entropy(logits, classes)

        batches = self._batches(images, labels, batch_size, seed)
        return fit(step, parameters, batches, steps=steps, lr=lr, **settings)

    def adapt(
        self,
        parameters: nn.Module | Iterable[nn.Parameter],
        images: Float[Tensor, "N C H W"],
        labels: Int[Tensor, " N"],
        *,
        steps: int = 10,
        batch_size: int = 256,
        lr: float = 5e-7,
        times: tuple[int, int] | None = None,
        condition: Hashable = None,
        seed: int = 0,
        **settings: Any,
    ) -> FitResult:
        """Tune the classifier: cross-entropy of what one step makes of the pictures with noise of random times.

        Args:
            parameters: of the predictor that are trained; they need gradients, and predictors that encode texts make
                them anew in every call.
            images, labels: of `synthesise`.
            steps: the paper's are ten epochs, a batch each where there are no more classes than 256.
            batch_size, lr: of AdamW without weight decay, by a cosine.
            times: the first time that is drawn and the one after the last; default all.
            condition: of the denoising; default none, as when certifying.
            seed: of rows, times and noise.
            **settings: further ones of `fit`.

        Raises:
            UsageError: a setting out of range, or pictures and labels that do not fit.
        """

        def step(batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
            pictures, classes, t, noise = batch
            with torch.no_grad():
                state = self.denoiser.schedule.add_noise(pictures, noise, t)
                epsilon = self.denoiser(state, t, [condition])
                x0 = self.denoiser.schedule.from_epsilon(epsilon, state, t, "sample")
            return functional.cross_entropy(self.predictor((x0.clamp(-1, 1) + 1) / 2), classes)

        batches = self._batches(images, labels, batch_size, seed, times)
        settings = {"optimizer": {"name": "adamw", "weight_decay": 0.0}, **settings}
        return fit(step, parameters, batches, steps=steps, lr=lr, **settings)

    def _of_classes(self, state: Tensor, t: Tensor, classes: Int[Tensor, " B"]) -> Tensor:
        """The noise in states, each under the condition of its class."""
        epsilon = torch.empty_like(state)
        for label in classes.unique().tolist():
            rows = classes == label
            epsilon[rows] = self.denoiser(state[rows], t[rows], [self.conditions[label]])
        return epsilon

    def _batches(
        self, images: Tensor, labels: Tensor, size: int, seed: int, times: tuple[int, int] | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Endless batches: pictures in [-1, 1], labels, times, noise."""
        if len(images) != len(labels) or not len(images):
            raise UsageError(f"{len(images)} images and {len(labels)} labels do not go together")
        if int(labels.min()) < 0 or int(labels.max()) >= len(self.conditions):
            raise UsageError(f"labels must lie in 0..{len(self.conditions) - 1}")
        check_whole("batch_size", size, least=1)
        low, high = (0, len(self.denoiser.schedule)) if times is None else times
        if not 0 <= low < high <= len(self.denoiser.schedule):
            raise UsageError(f"times must be two rising times of {len(self.denoiser.schedule)}, got {times}")
        return self._drawn(images, labels, size, seed, low, high)

    @staticmethod
    def _drawn(
        images: Tensor, labels: Tensor, size: int, seed: int, low: int, high: int
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            for rows in torch.randperm(len(images), generator=generator).split(size):
                noise = torch.randn(images[rows].shape, generator=generator)
                t = torch.randint(low, high, (len(rows),), generator=generator)
                yield 2 * images[rows] - 1, labels[rows], t, noise

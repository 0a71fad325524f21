"""A one-step generator's noise, optimised by rewards of what it makes: pictures, or latents that are never decoded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.latent_clip import LatentCLIP
from binderclip.numeric import check_number, check_whole

__all__ = ["ClipReward", "ConceptReward", "NoiseOptimizer", "OptimisedNoise", "noise_regulariser"]

Reward = Callable[[Tensor, str], Tensor]
"""From what a generator made, (B, ...), and the prompt to a number for each, (B,), which is made small."""


def noise_regulariser(noise: Float[Tensor, "B *shape"]) -> Float[Tensor, " B"]:
    """|e|^2 / 2 - (D - 1) ln |e|: minus the log density of the length of D standard normal numbers, to a constant.

    Its least value lies at |e|^2 = D - 1. In float32 at least: squares of half precision overflow.

    Args:
        noise: rows that are not all 0.

    Paper: ReNO: Enhancing One-step Text-to-Image Models through Reward-based Noise Optimization (arXiv 2406.04312).
    """
    rows = noise.flatten(1)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    length = rows.norm(dim=1)
    return 0.5 * length.square() - (rows.shape[1] - 1) * length.log()


class ClipReward:
    """`100 - scale * cos(picture, prompt)`: small where what was made fits the prompt.

    Args:
        model: a `LatentCLIP`, which is given latents as the generator makes them, or an image-text model, which is
            given pictures in [0, 1]. Its weights do not change.
        scale: of the cosine; the factor of released models.
        autoencoder: of the generator, or its identity: a `LatentCLIP` of another one is refused.

    Raises:
        UsageError: a scale that is not above 0, or another autoencoder.

    Paper: Controlling Latent Diffusion Using Latent CLIP (arXiv 2503.08455).
    """

    def __init__(
        self,
        model: LatentCLIP | ImageTextModel,
        scale: float = 100.0,
        *,
        autoencoder: torch.nn.Module | str | None = None,
    ) -> None:
        refuse_bare_module(model, "ClipReward")
        check_number("scale", scale, above=0)
        if autoencoder is not None and isinstance(model, LatentCLIP):
            model.check_autoencoder(autoencoder)
        self.model, self.scale = model, scale
        self._texts: dict[str, Tensor] = {}

    def text(self, prompt: str) -> Float[Tensor, " E"]:
        """The unit vector of a prompt, kept.

        Raises:
            UsageError: an empty prompt.
        """
        if not prompt.strip():
            raise UsageError("prompt is empty: a reward compares with a text")
        if prompt not in self._texts:
            with torch.no_grad():
                self._texts[prompt] = self.model.encode_text([prompt], normalize=True)[0]
        return self._texts[prompt]

    def features(self, made: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E"]:
        """Unit vectors of what was made; differentiable."""
        if isinstance(self.model, LatentCLIP):
            return self.model.encode_latents(made, normalize=True)
        return self.model.encode_image(made, normalize=True)

    def __call__(self, made: Float[Tensor, "B C h w"], prompt: str) -> Float[Tensor, " B"]:
        """The loss of each.

        Args:
            made: latents or pictures.
            prompt: what they should show.
        """
        return 100.0 - self.scale * self.features(made) @ self.text(prompt)


class ConceptReward(ClipReward):
    """The probability that something shows a concept, against that it does not: minimised, the concept goes away.

    `softmax(scale * [cos(made, "an image of X"), cos(made, "an image of no X")])`, its first entry; the generator's
    prompt does not matter.

    Args:
        model, scale, autoencoder: as of `ClipReward`.
        concept: X.

    Raises:
        UsageError: an empty concept, or as `ClipReward`.

    Paper: Controlling Latent Diffusion Using Latent CLIP (arXiv 2503.08455).
    """

    def __init__(
        self,
        model: LatentCLIP | ImageTextModel,
        concept: str,
        scale: float = 100.0,
        *,
        autoencoder: torch.nn.Module | str | None = None,
    ) -> None:
        refuse_bare_module(model, "ConceptReward")
        super().__init__(model, scale, autoencoder=autoencoder)
        if not concept.strip():
            raise UsageError("concept is empty: name what shall go away")
        self.pair = (f"an image of {concept}", f"an image of no {concept}")

    def __call__(self, made: Float[Tensor, "B C h w"], prompt: str = "") -> Float[Tensor, " B"]:
        """The probability of each.

        Args:
            made: latents or pictures.
            prompt: not used.
        """
        texts = torch.stack([self.text(text) for text in self.pair])
        return (self.scale * self.features(made) @ texts.mT).softmax(-1)[:, 0]


@dataclass(frozen=True)
class OptimisedNoise:
    """The best of all iterates, for each row by itself.

    Attributes:
        noise: it.
        made: what the generator makes of it.
        reward: its weighted sum of rewards, without the regulariser.
        step: the iterate that it is, from 0.
        rewards: of every iterate.
        norms: |e| of every iterate.
    """

    noise: Float[Tensor, "B *shape"]
    made: Float[Tensor, "B *made"]
    reward: Float[Tensor, " B"]
    step: Int[Tensor, " B"]
    rewards: Float[Tensor, "steps B"]
    norms: Float[Tensor, "steps B"]


@dataclass(frozen=True)
class NoiseOptimizer:
    """Optimises the noise of a one-step generator, so that what it makes has small rewards and the noise stays normal.

    Gradient descent with Nesterov's momentum on `sum_k w_k R_k + reg * noise_regulariser`; each row's gradient is
    clipped by its norm. `steps` iterates are looked at, after the last there is no update, and the one of the least
    rewards is the result. Rows do not see each other; generator and rewards get no gradients.

    Args:
        generator: from noise (B, ...) and a prompt to pictures or latents, differentiable.
        rewards: by name, each with its weight; what is rewarded is made small, so a negative weight drives away. The
            paper's weight of `ClipReward` is 0.01.
        steps: iterates.
        lr: learning rate.
        momentum: of Nesterov's, 0 for none.
        clip: the largest norm of a row's gradient.
        reg: weight of the regulariser.

    Raises:
        UsageError: no reward, or a setting out of range.

    Paper: ReNO (arXiv 2406.04312), as in Controlling Latent Diffusion Using Latent CLIP (arXiv 2503.08455).

    Examples:
        >>> reward = lambda made, prompt: (made - 1).square().sum(1)
        >>> rewards = {"distance": (reward, 1.0)}
        >>> optimizer = NoiseOptimizer(lambda noise, prompt: noise, rewards, reg=0.0, clip=10, lr=0.1)
        >>> bool((optimizer.run("ones", torch.randn(2, 3)).made - 1).abs().max() < 0.1)
        True
    """

    generator: Callable[[Tensor, str], Tensor]
    rewards: Mapping[str, tuple[Reward, float]]
    steps: int = 50
    lr: float = 5.0
    momentum: float = 0.9
    clip: float = 0.1
    reg: float = 0.01

    def __post_init__(self) -> None:
        if not self.rewards and self.reg == 0:
            raise UsageError("rewards is empty and reg is 0: there is nothing to optimise")
        for name, (_, weight) in self.rewards.items():
            check_number(f"the weight of {name}", weight)
        check_whole("steps", self.steps, least=1)
        check_number("lr", self.lr, above=0)
        check_number("momentum", self.momentum, least=0, below=1)
        check_number("clip", self.clip, above=0)
        check_number("reg", self.reg, least=0)

    def run(self, prompt: str, noise: Float[Tensor, "B *shape"]) -> OptimisedNoise:
        """The noise of the least rewards, and what it makes.

        Args:
            prompt: for generator and rewards.
            noise: to start from, which stays as it is.

        Raises:
            UsageError: no row, one that is not finite or all 0, or a reward of another shape than (B,).
            DataError: rewards or gradients of the start that are not finite; later ones end the run with a warning.
        """
        rows = noise.flatten(1)
        if noise.ndim < 2 or not len(noise) or not bool(rows.isfinite().all()) or not bool((rows != 0).any(1).all()):
            raise UsageError(f"noise must be finite rows that are not all 0, got shape {tuple(noise.shape)}")
        current, velocity = noise.detach().clone(), torch.zeros_like(noise)
        best: OptimisedNoise | None = None
        rewards: list[Tensor] = []
        norms: list[Tensor] = []
        for step in range(self.steps):
            made, reward, gradient = self._evaluate(prompt, current, last=step == self.steps - 1)
            if not bool(reward.isfinite().all()) or not bool(gradient.isfinite().all()):
                if best is None:
                    raise DataError("the start's rewards or gradients are not finite: nothing can be optimised")
                warnings.warn(f"iterate {step} is not finite: the best of those before is kept", stacklevel=2)
                break
            rewards.append(reward)
            norms.append(current.flatten(1).float().norm(dim=1))
            best = _better(best, current, made, reward, step)
            velocity = self.momentum * velocity + gradient
            current = current - self.lr * (gradient + self.momentum * velocity)  # Nesterov, as in torch's SGD
        assert best is not None
        trace = {"rewards": torch.stack(rewards), "norms": torch.stack(norms)}
        return OptimisedNoise(best.noise, best.made, best.reward, best.step, **trace)

    def _evaluate(self, prompt: str, noise: Tensor, *, last: bool) -> tuple[Tensor, Tensor, Tensor]:
        """What is made, its rewards, and the clipped gradient: zeros after the last iterate, which nothing follows."""
        with torch.set_grad_enabled(not last):
            leaf = noise.detach().requires_grad_(not last)
            made = self.generator(leaf, prompt)
            total = torch.zeros(len(leaf), device=leaf.device)
            for name, (reward, weight) in self.rewards.items():
                value = reward(made, prompt)
                if value.shape != (len(leaf),):
                    raise UsageError(f"the reward {name} gave {tuple(value.shape)}, not one number for each row")
                total = total + weight * value
            if last:
                return made, total, torch.zeros_like(noise)
            objective = total + self.reg * noise_regulariser(leaf)
            (gradient,) = torch.autograd.grad(objective.sum(), leaf)
        length = gradient.flatten(1).float().norm(dim=1)
        factor = (self.clip / (length + 1e-6)).clamp(max=1)  # as torch.nn.utils.clip_grad_norm_, of each row
        shape = (-1, *[1] * (noise.ndim - 1))
        return made.detach(), total.detach(), gradient * factor.to(gradient).reshape(shape)


def _better(best: OptimisedNoise | None, noise: Tensor, made: Tensor, reward: Tensor, step: int) -> OptimisedNoise:
    """Of each row the better of the best so far and this iterate."""
    steps = torch.full((len(noise),), step, device=noise.device)
    empty = reward.new_zeros(0, len(reward))
    if best is None:
        return OptimisedNoise(noise, made, reward, steps, empty, empty)
    taken = reward < best.reward

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(taken.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    return OptimisedNoise(
        chosen(noise, best.noise), chosen(made, best.made), chosen(reward, best.reward), chosen(steps, best.step),
        empty, empty,
    )  # fmt: skip

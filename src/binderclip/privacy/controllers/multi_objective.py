"""The clip norm as a variable: a gradient step on model loss plus the price of noise and of clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import CheckpointError, UsageError
from binderclip.privacy.accounting.ledger import Ledger
from binderclip.privacy.accounting.statistic import PrivateBatch, Statistic
from binderclip.privacy.controllers.controller import Controller, PublicStats, Setting
from binderclip.settings import check_choice

__all__ = ["MultiObjectiveClip", "clip_loss", "clip_loss_slope", "model_loss_slope"]


def clip_loss(
    clip_norm: float, norms: Float[Tensor, "B"], *, noise_scale: float, distortion_scale: float, omega: float = 0.5
) -> float:
    """L_clip: the noise's cost C^2 and the mean squared part of the norms that is cut off, each over its own scale.

    Args:
        clip_norm: C.
        norms: of per-sample gradients.
        noise_scale: what C^2 is divided by.
        distortion_scale: what the mean squared excess is divided by.
        omega: weight of the noise.
    """
    excess = (norms - clip_norm).clamp(min=0).square().mean()
    return omega * clip_norm**2 / noise_scale + (1 - omega) * float(excess) / distortion_scale


def clip_loss_slope(
    clip_norm: float, mean_excess: float, *, noise_scale: float, distortion_scale: float, omega: float = 0.5
) -> float:
    """dL_clip/dC = 2 omega C / noise_scale - 2 (1 - omega) mean_excess / distortion_scale.

    Args:
        clip_norm: C.
        mean_excess: mean of max(0, norm - C), which is all that the slope needs of the data.
        noise_scale, distortion_scale, omega: as for `clip_loss`.
    """
    return 2 * omega * clip_norm / noise_scale - 2 * (1 - omega) * mean_excess / distortion_scale


def model_loss_slope(following: Float[Tensor, "P"], direction: Float[Tensor, "P"], lr: float) -> float:
    """dL_model/dC = -lr <grad L(w'), u>: what a little more C in this step would do to the loss after it.

    Args:
        following: gradient at the weights after the step.
        direction: u = (1/B) sum of g_i / ||g_i|| over the samples that the step clipped: d(step) / dC.
        lr: of the step.
    """
    return -lr * float(following.flatten() @ direction.flatten())


class MultiObjectiveClip(Controller):
    """Moves the clip norm by gradient steps on `L_model + kappa L_clip`.

    Clipping too hard hurts the model, a large C costs noise. `C <- clip(C - lr_c (dL_model/dC + kappa dL_clip/dC))`,
    with the one-step hyper-gradient of `model_loss_slope` and the slope of `clip_loss`. Both need sums over private
    samples (u, and the mean excess); these are released with `statistics_ratio` times the gradient's noise and enter
    the ledger. The exact form of L_clip is this library's reading of the paper. Since the noise is sigma C, epsilon
    does not depend on C.

    Args:
        c0: initial C.
        lr_c: rate of C, about .01 to .1 of c0; 0 keeps C and asks for no statistics.
        kappa: weight of the clipping loss.
        lr: of the model's own steps, which the hyper-gradient needs.
        omega: share of the noise in the clipping loss.
        bounds: of C; excesses are cut off at the upper one, which bounds their sensitivity.
        statistics_ratio: noise multiplier of each statistic over that of the gradient.
        every: steps after which C moves; None leaves it to `update`, which `FederatedAverage` calls after each round.
        scales: "initial": both parts of L_clip are divided by their own initial values, as published; "joint": both are
            squared errors of the mean gradient (sigma^2 C^2 d / B^2, and the excess) and share one divisor, so that the
            best C does not depend on c0.
        step: "linear", as published; "log" (not the paper's): C is multiplied by `exp(-lr_c s)`, s the slope over the
            sum of the sizes of its three parts (model, noise, excess), so in [-1, 1]. It comes to rest where the linear
            step does, and leaves a small c0 as fast as a large one.
        account_for_statistics: False releases them without noise, as if they were public; the optimizer warns.

    Attributes:
        clip_norm: C. history: C after each move.

    Raises:
        UsageError: values out of range.

    Paper: Multi-Objective Optimization for Privacy-Utility Balance in Differentially Private Federated Learning
    (arXiv 2503.21159).
    """

    def __init__(
        self,
        c0: float = 1.0,
        lr_c: float = 0.1,
        kappa: float = 0.5,
        *,
        lr: float = 0.1,
        omega: float = 0.5,
        bounds: tuple[float, float] = (0.1, 10.0),
        statistics_ratio: float = 10.0,
        every: int | None = None,
        scales: Literal["initial", "joint"] = "initial",
        step: Literal["linear", "log"] = "linear",
        account_for_statistics: bool = True,
    ) -> None:
        if not 0 < bounds[0] <= c0 <= bounds[1] < math.inf:
            raise UsageError(f"c0 {c0} must lie within bounds {bounds}, which must be positive and finite")
        if not (lr_c >= 0 and kappa >= 0 and lr >= 0 and 0 <= omega <= 1 and statistics_ratio > 0):
            raise UsageError(
                "lr_c, kappa and lr must be at least 0, omega in [0, 1], statistics_ratio above 0; got "
                f"{lr_c}, {kappa}, {lr}, {omega}, {statistics_ratio}"
            )
        if (every is not None and every < 1) or scales not in ("initial", "joint"):
            raise UsageError(f"every must be at least 1 and scales 'initial' or 'joint', got {every} and {scales!r}")
        check_choice("step", step, ("linear", "log"))
        self.c0, self.lr_c, self.kappa, self.lr, self.omega = float(c0), lr_c, kappa, lr, omega
        self.bounds, self.statistics_ratio, self.every, self.scales = bounds, statistics_ratio, every, scales
        self.step = step
        self.account_for_statistics = account_for_statistics
        self.clip_norm = float(c0)
        self.history: list[float] = [self.clip_norm]
        self._distortion: float | None = None
        self._first: list[float] = []
        # Model, noise and excess, whose sum is the slope.
        self._slopes: list[tuple[float, float, float]] = []
        # The direction of the last step, and whose step it was: clients take turns under one controller.
        self._direction: Tensor | None = None
        self._ledger: Ledger | None = None
        self._step = -1

    @property
    def inflation(self) -> float:
        """Noise multiplier of the gradient over that of the whole step, statistics included."""
        return 1.0 if self.lr_c == 0 else math.sqrt(1 + 2 / self.statistics_ratio**2)

    def statistics(self, stats: PublicStats) -> tuple[Statistic, ...]:
        """The direction u, the excess, and until the first move the squared excess that scales it."""
        # The first step has no update yet that tells the parameters' shapes.
        if self.lr_c == 0 or not stats.update:
            return ()
        multiplier = self.statistics_ratio * (stats.noise_multiplier or 1.0)
        size = sum(value.numel() for value in stats.update)
        room = self.bounds[1] - self.clip_norm
        statistics = []
        if self._distortion is None and room > 0:
            statistics.append(
                Statistic("squared excess", lambda b: _excess(b, room).square().sum(), room**2, multiplier)
            )
        elif room > 0:
            statistics.append(Statistic("excess", lambda b: _excess(b, room).sum(), room, multiplier))
        return (*statistics, Statistic("direction", _direction, 1.0, multiplier, (size,)))

    def before_step(self, stats: PublicStats) -> Setting:
        """Take in what the last step released, move C where it is time, and set it."""
        if stats.released and stats.update:
            self._learn(stats)
        if self.every is not None and stats.step and stats.step % self.every == 0:
            self.update()
        return Setting(clip_norms=(self.clip_norm,))

    def _learn(self, stats: PublicStats) -> None:
        batch = stats.expected_batch_size
        model = noise = excess = 0.0
        if self._distortion is None:
            self._first.append(float(stats.released.get("squared excess", torch.zeros(()))) / batch)
        else:
            mean_excess = max(float(stats.released.get("excess", torch.zeros(()))) / batch, 0.0)
            noise_scale, distortion_scale = self._scales(stats)
            scales = {"noise_scale": noise_scale, "distortion_scale": distortion_scale, "omega": self.omega}
            noise = self.kappa * clip_loss_slope(stats.clip_norms[0], 0.0, **scales)
            excess = self.kappa * clip_loss_slope(0.0, mean_excess, **scales)
        update = torch.cat([value.flatten() for value in stats.update])
        same = (self._ledger is None or self._ledger is stats.ledger) and stats.step == self._step + 1
        if same and self._direction is not None:
            model = model_loss_slope(update, self._direction.to(update), self.lr)
        direction = stats.released.get("direction")
        self._direction = None if direction is None else direction / batch
        self._ledger, self._step = stats.ledger, stats.step
        self._slopes.append((model, noise, excess))

    def _scales(self, stats: PublicStats) -> tuple[float, float]:
        """Divisors of C^2 and of the squared excess."""
        assert self._distortion is not None
        if self.scales == "initial":
            return self.c0**2, self._distortion
        size = sum(value.numel() for value in stats.update)
        unit = stats.noise_multiplier**2 * size / stats.expected_batch_size**2
        total = unit * self.c0**2 + self._distortion
        return total / unit, total

    def update(self) -> float:
        """Move C along the mean of the slopes since the last move; returns C."""
        if self._distortion is None and self._first:
            # One noised value may be anything, so the mean until the first move sets the scale. A floor, because a
            # large c0 clips nothing at the start.
            self._distortion = max(sum(self._first) / len(self._first), (0.1 * self.c0) ** 2)
        if self._slopes and self.lr_c > 0:
            parts = [sum(part) / len(self._slopes) for part in zip(*self._slopes, strict=True)]
            slope, size = sum(parts), sum(map(abs, parts))
            if self.step == "linear":
                moved = self.clip_norm - self.lr_c * slope
            else:
                moved = self.clip_norm * math.exp(-self.lr_c * slope / size) if size else self.clip_norm
            self.clip_norm = min(max(moved, self.bounds[0]), self.bounds[1])
        self._slopes = []
        self.history.append(self.clip_norm)
        return self.clip_norm

    def end_round(self) -> None:
        """Move C unless it moves by steps."""
        if self.every is None:
            self.update()

    def state_dict(self) -> dict[str, Any]:
        """C, its history, the running sums and the direction that waits for the next step."""
        return {
            "clip_norm": self.clip_norm,
            "history": list(self.history),
            "distortion": self._distortion,
            "first": list(self._first),
            "slopes": list(self._slopes),
            "direction": self._direction,
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave, also that of version 0.2.0, which kept each slope as one sum.

        Raises:
            CheckpointError: a state of 0.2.0 in the middle of a round for `step="log"`, which needs the parts.
        """
        whole = [slope for slope in state["slopes"] if isinstance(slope, (int, float))]
        if whole and self.step == "log":
            raise CheckpointError(
                "a state of version 0.2.0 holds slopes without the parts that step='log' weighs: go on with "
                "step='linear', which that version had"
            )
        self.clip_norm, self.history = float(state["clip_norm"]), list(state["history"])
        self._distortion = state["distortion"]
        # The linear step looks at sums alone, so a whole slope may stand for any of its parts.
        parts = [(slope, 0.0, 0.0) if isinstance(slope, (int, float)) else tuple(slope) for slope in state["slopes"]]
        self._slopes = [(float(model), float(noise), float(excess)) for model, noise, excess in parts]
        self._first = list(state["first"])
        self._direction, self._step, self._ledger = state["direction"], int(state["step"]), None


def _excess(batch: PrivateBatch, room: float) -> Tensor:
    """max(0, norm - C) of each sample, cut off so that one sample counts at most `room`."""
    excess = batch.norms[:, 0] - batch.clip_norms[0]
    return torch.nan_to_num(excess, nan=0.0, posinf=0.0).clamp(0, room)


def _direction(batch: PrivateBatch) -> Tensor:
    """Sum of the unit gradients of the clipped samples, flat."""
    norms = batch.norms[:, 0]
    cut = norms.isfinite() & (norms > batch.clip_norms[0])
    weights = torch.where(cut, norms.reciprocal(), torch.zeros_like(norms))
    return torch.cat([part.flatten() for part in batch.weighted_sum(weights)])

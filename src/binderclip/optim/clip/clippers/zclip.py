"""ZClip: a norm is clipped when it is an outlier among the recent ones, the further the more extreme it is."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.combine import Min
from binderclip.optim.clip.threshold import Constant, Memory, Reading, Threshold

__all__ = ["ZClip", "ZScore"]

MODES = ("zscore", "percentile")
OPTIONS = ("adaptive_scaling", "mean")


class ZScore(Threshold):
    """A limit for outliers only, by a one-sided z-test against a moving mean and variance.

    During the warm-up mean and variance (the population's) are those of all norms so far, and nothing is limited.
    Afterwards both move exponentially; of an outlier they see the limit it was brought down to, not its size.

    Args:
        alpha: decay of the moving mean and variance, in [0, 1].
        z_thresh: z-score from which a norm is an outlier, above 0.
        eps: added to the standard deviation in the z-score.
        warmup_steps: finite steps before the first test, at least 1.
        mode: "zscore" lowers the limit the more extreme the outlier is; "percentile" limits to mean + z_thresh * std.
        clip_option: with "zscore", "adaptive_scaling" or "mean", which limits to the mean itself.
        clip_factor: multiplies the limit of "adaptive_scaling".
        skip_update_on_spike: leave the statistics as they are at an outlier.

    Raises:
        UsageError: a value outside its range.

    Paper: ZClip, arXiv 2504.02507.
    """

    def __init__(
        self,
        alpha: float = 0.97,
        z_thresh: float = 2.5,
        *,
        eps: float = 1e-6,
        warmup_steps: int = 25,
        mode: Literal["zscore", "percentile"] = "zscore",
        clip_option: Literal["adaptive_scaling", "mean"] = "adaptive_scaling",
        clip_factor: float = 1.0,
        skip_update_on_spike: bool = False,
    ) -> None:
        check_number("alpha", alpha, least=0, most=1)
        check_number("z_thresh", z_thresh, above=0, infinite=True)
        check_number("warmup_steps", warmup_steps, least=1)
        if mode not in MODES or clip_option not in OPTIONS:
            raise UsageError(f"mode is one of {', '.join(MODES)} and clip_option one of {', '.join(OPTIONS)}")
        check_number("clip_factor", clip_factor, above=0, infinite=True)
        self.alpha, self.z_thresh, self.eps, self.warmup_steps = alpha, z_thresh, eps, warmup_steps
        self.mode, self.clip_option, self.clip_factor = mode, clip_option, clip_factor
        self.skip_update_on_spike = skip_update_on_spike
        self.mean, self.var, self.count = Memory(), Memory(), Memory(dtype=torch.int64)

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """The target of an outlier, +inf for anything else."""
        return self._target(reading)[0]

    def _target(self, reading: Reading) -> tuple[Float[Tensor, "blocks"], Bool[Tensor, "blocks"]]:
        """The limit, and which blocks are outliers."""
        mean, std = self.mean.read(reading), self.var.read(reading).sqrt()
        edge = mean + self.z_thresh * std
        if self.mode == "percentile":
            outlier, target = reading.stat > edge, edge
        else:
            z = (reading.stat - mean) / (std + self.eps)
            outlier = z > self.z_thresh
            # eta = z / z_thresh; the limit falls from mean + z_thresh * std towards the mean
            shrunk = self.clip_factor * (mean + self.z_thresh * std * (self.z_thresh / z))
            target = mean if self.clip_option == "mean" else shrunk
        outlier = outlier & (self.count.read(reading) >= self.warmup_steps)
        return torch.where(outlier, target, torch.inf), outlier

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Move the statistics; `clipped` is not used, because another rule may have lowered it further."""
        target, outlier = self._target(reading)
        mean, var, count = self.mean.read(reading), self.var.read(reading), self.count.read(reading)
        seen = torch.where(outlier, target, reading.stat)
        number = count + 1
        averaged = mean + (seen - mean) / number
        spread = var + ((seen - mean) * (seen - averaged) - var) / number
        moved = self.alpha * mean + (1 - self.alpha) * seen
        moved_var = self.alpha * var + (1 - self.alpha) * (seen - moved) ** 2
        warming = count < self.warmup_steps
        keep = outlier if self.skip_update_on_spike else None
        self.mean.write(reading, torch.where(warming, averaged, moved), keep)
        self.var.write(reading, torch.where(warming, spread, moved_var), keep)
        # the number of steps matters in the warm-up alone
        self.count.write(reading, torch.where(warming, number, count))

    def state_dict(self) -> dict[str, Any]:
        """Mean, variance and number of steps per block."""
        return {"mean": self.mean.state_dict(), "var": self.var.state_dict(), "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved statistics, also from the middle of a warm-up."""
        for name in ("mean", "var", "count"):
            getattr(self, name).load_state_dict(state[name])

    def __repr__(self) -> str:
        return f"ZScore(alpha={self.alpha:g}, z_thresh={self.z_thresh:g}, warmup_steps={self.warmup_steps})"


class ZClip(Clip):
    """Clip the gradient's norm where it is an outlier among the recent norms; ordinary steps are not touched.

    The limit comes from a moving mean and variance of the (clipped) norms and gets lower the more extreme the outlier
    is. Mind `max_grad_norm`: its published default of 1 is a constant clip on top, which decides everything where
    norms are usually larger than 1; None takes it away.

    Args:
        alpha, z_thresh, eps, warmup_steps, mode, clip_option, clip_factor, skip_update_on_spike: see `ZScore`.
        max_grad_norm: constant upper limit, also during the warm-up; None for none. The statistics do not see it.
        settings: further arguments of `Clip` (`nonfinite`, `observe`, `exclude`, `granularity`, ...).

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> clip = ZClip(max_grad_norm=None, warmup_steps=3)
        >>> for size in (1.0, 1.1, 0.9, 50.0):
        ...     weight.grad = torch.tensor([size, 0.0])
        ...     report = clip([weight])
        >>> round(float(report.limit), 3)
        1.001

    Paper: ZClip: Adaptive Spike Mitigation for LLM Pre-Training, arXiv 2504.02507.
    """

    def __init__(
        self,
        alpha: float = 0.97,
        z_thresh: float = 2.5,
        max_grad_norm: float | None = 1.0,
        eps: float = 1e-6,
        warmup_steps: int = 25,
        mode: Literal["zscore", "percentile"] = "zscore",
        clip_option: Literal["adaptive_scaling", "mean"] = "adaptive_scaling",
        clip_factor: float = 1.0,
        skip_update_on_spike: bool = False,
        **settings: Any,
    ) -> None:
        rule: Threshold = ZScore(
            alpha,
            z_thresh,
            eps=eps,
            warmup_steps=warmup_steps,
            mode=mode,
            clip_option=clip_option,
            clip_factor=clip_factor,
            skip_update_on_spike=skip_update_on_spike,
        )
        if max_grad_norm is not None:
            rule = Min(rule, Constant(max_grad_norm))
        super().__init__(rule, **{"eps": 1e-6} | settings)

"""Stable-SPAM: Adam behind two guards against spikes, with moments that start afresh now and then."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.optim.clip.actions import coefficient, rescale_
from binderclip.optim.clip.clippers.max_ema import MaxEMA, start_correction
from binderclip.optim.clip.threshold import Memory, Reading, Threshold
from binderclip.optim.gradients.measure import accumulation_dtype, local_shard
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, may_look, reading_of, scaled, settings_of
from binderclip.settings import check_choice

__all__ = ["NormStabilizer", "SpamReport", "StableSPAM"]


class NormStabilizer(Threshold):
    """A target length near 1: the moving mean of the norms over the root of the moving mean of their squares.

    Stable-SPAM's AdaGN. A norm that jumps is brought to a target that hardly moves:
    `Clip(NormStabilizer(), granularity="tensor", action="renormalise")`.

    Args:
        gamma1: decay of the mean, in [0, 1).
        gamma2: decay of the mean square, in [0, 1).
        eps: added to the root.

    Raises:
        UsageError: a value outside its range.

    Paper: Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, arXiv 2502.17055.
    """

    def __init__(self, gamma1: float = 0.7, gamma2: float = 0.9, eps: float = 1e-8) -> None:
        for name, value in (("gamma1", gamma1), ("gamma2", gamma2)):
            if not 0 <= value < 1:
                raise UsageError(f"{name} must lie in [0, 1), got {value}")
        check_number("eps", eps, least=0)
        self.gamma1, self.gamma2, self.eps = gamma1, gamma2, eps
        self.mean, self.square, self.count = Memory(), Memory(), Memory()

    def _moved(self, reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
        mean = self.gamma1 * self.mean.read(reading) + (1 - self.gamma1) * reading.stat
        square = self.gamma2 * self.square.read(reading) + (1 - self.gamma2) * reading.stat**2
        return mean, square, self.count.read(reading) + 1

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """The target length of each block."""
        mean, square, count = self._moved(reading)
        root = (square / start_correction(self.gamma2, count)).sqrt()
        return mean / start_correction(self.gamma1, count) / (root + self.eps)

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Move both averages by the norm before it was changed."""
        for memory, value in zip((self.mean, self.square, self.count), self._moved(reading), strict=True):
            memory.write(reading, value)

    def state_dict(self) -> dict[str, Any]:
        """Averages and counts."""
        return {name: getattr(self, name).state_dict() for name in ("mean", "square", "count")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved averages."""
        for name in ("mean", "square", "count"):
            getattr(self, name).load_state_dict(state[name])

    def __repr__(self) -> str:
        return f"NormStabilizer({self.gamma1:g}, {self.gamma2:g})"


class SpamReport(NamedTuple):
    """What the guards did in one step, one value per parameter that had a gradient.

    Args:
        largest: largest absolute entry.
        limit: what entries were brought down to.
        spiked: whether an entry exceeded it.
        norm: after that.
        target: the norm that reached the moments.
    """

    largest: Float[Tensor, "params"]
    limit: Float[Tensor, "params"]
    spiked: Bool[Tensor, "params"]
    norm: Float[Tensor, "params"]
    target: Float[Tensor, "params"]


class StableSPAM(GuardedOptimizer):
    """Adam whose gradient passes two guards first, and whose moments are reset every few hundred steps.

    Per tensor: entries above a moving average of the largest entry are scaled back to it (`MaxEMA`), then the tensor
    is brought to a length near 1 (`NormStabilizer`). Made for low-bit training, where both spike. `optimizer.report`
    says what the guards did, `active_fraction()` how often the first one acted.

    Args:
        params: parameters or param groups.
        lr: step size.
        betas: Adam's decays.
        eps: of Adam and of the norm's root.
        weight_decay: decoupled, applied before the step.
        gamma1: decay of the mean norm; -1 takes beta1.
        gamma2: decay of the mean square norm.
        theta: decay of the largest entry.
        total_T: length of the run in steps, over which beta1 and gamma1 fall on a cosine to `eta_min` of themselves
            (and stay there); None keeps them.
        eta_min: see `total_T`, in [0, 1].
        update_proj_gap: steps between two resets of the moments; 0 for never.
        reset: "clean" zeroes the moments before the step uses them, and Adam's step count alone starts again.
            "literal" is the authors' program: the step on which a reset falls still moves along the old moments, its
            gradient is lost to the new ones, and the guards' step counts start again too, which switches the first
            guard off for a few hundred steps.
        maximize, nonfinite, foreach: see `GuardedOptimizer`.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(3))
        >>> optimizer = StableSPAM([weight], lr=0.1)
        >>> for size in (1.0, 1.0, 1.0, 1000.0):
        ...     weight.grad = torch.tensor([size, 1.0, -1.0])
        ...     optimizer.step()
        >>> bool(optimizer.report.spiked), round(float(optimizer.report.limit))
        (True, 251)

    Paper: Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam, arXiv 2502.17055.
    """

    shared = ("total_T", "eta_min", "update_proj_gap", "reset")
    wide = ("guard",)
    report: SpamReport | None = None

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        gamma1: float = 0.7,
        gamma2: float = 0.9,
        theta: float = 0.999,
        total_T: int | None = None,
        eta_min: float = 0.5,
        update_proj_gap: int = 1000,
        reset: Literal["clean", "literal"] = "clean",
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        settings["gamma1"] = betas[0] if gamma1 == -1 else gamma1
        check_choice("reset", reset, ("clean", "literal"))
        if update_proj_gap < 0:
            raise UsageError(f"update_proj_gap must be at least 0 steps, got {update_proj_gap}")
        if total_T is not None and total_T < 1:
            raise UsageError(f"total_T must be at least 1 step, or None, got {total_T}")
        check_number("eta_min", eta_min, least=0, most=1)
        self.check(settings)
        super().__init__(params, {**settings, "total_step": 0})

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges of the decays and of eps."""
        if len(settings["betas"]) != 2 or not all(0 <= beta < 1 for beta in settings["betas"]):
            raise UsageError(f"betas must be two numbers in [0, 1), got {settings['betas']}")
        MaxEMA(settings["theta"])
        NormStabilizer(settings["gamma1"], settings["gamma2"], settings["eps"])

    def read(self, shares: Sequence[GroupShare]) -> None:
        """The largest entry of each gradient."""
        for share in shares:
            share.stat = self.norms(share, share.grads, math.inf)

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Decay, guard, reset, Adam."""
        now = self.common("total_step") + 1
        for group in self.param_groups:
            group["total_step"] = now
        scale = self._scale(now)
        gap = self.common("update_proj_gap")
        batched = self.common("foreach") is not False
        reports = []
        for share in shares:
            states = self.states(share, self._start)
            guarded, report = self._guard(share, states, scale)
            reports.append(report)
            self.count(states, report.spiked)
            lr, decay = float(share.group["lr"]), share.group["weight_decay"]
            if decay:
                torch._foreach_mul_(share.weights, 1 - lr * decay)
            for part, some, grads in share.parts(batched, states, guarded):
                self._adam(part, some, grads, scale, reset=gap > 0 and now % gap == 0)
        device = reports[0].norm.device
        self.report = SpamReport(
            *(torch.cat([value.to(device) for value in column]) for column in zip(*reports, strict=True))
        )

    def _scale(self, now: int) -> float:
        """The multiplier of beta1 and gamma1 at the 1-based step."""
        length, least = self.common("total_T"), self.common("eta_min")
        if length is None:
            return 1.0
        progress = min(1.0, now / (length + 1))
        return least + (1 - least) * (1 + math.cos(math.pi * progress)) / 2

    def _start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        dtype = accumulation_dtype(param.dtype)
        return {
            "exp_avg": torch.zeros_like(param),
            "exp_avg_sq": torch.zeros_like(param),
            "moment_step": torch.zeros((), dtype=torch.float32),
            # steps seen, average of the largest entry, of the norm, of its square
            "guard": torch.zeros(4, dtype=dtype, device=param.device),
        }

    def _guard(
        self, share: GroupShare, states: Sequence[dict[str, Any]], scale: float
    ) -> tuple[list[Tensor], SpamReport]:
        """Gradients as the moments shall see them, in new tensors."""
        group, largest = share.group, share.stat
        guards = [state["guard"] for state in states]
        past = torch.stack([guard.to(largest) for guard in guards])
        entries = MaxEMA(group["theta"])
        entries.load_state_dict({"average": past[:, 1], "count": past[:, 0].long()})
        reading = reading_of(largest)
        limit = entries.limit(reading)
        factors = coefficient(largest, limit)
        entries.observe(reading, largest * factors)
        grads = _rescaled(share.grads, limit, factors)

        stabilizer = NormStabilizer(group["gamma1"] * scale, group["gamma2"], group["eps"])
        stabilizer.load_state_dict({"mean": past[:, 2], "square": past[:, 3], "count": past[:, 0]})
        norm = self.norms(share, grads, 2.0)
        reading = reading_of(norm, finite=reading.finite)
        target = stabilizer.limit(reading)
        stretch = coefficient(norm, target, upwards=True)
        stabilizer.observe(reading, target)
        grads = scaled(grads, stretch)

        saved = stabilizer.state_dict()
        columns = [saved["count"], entries.state_dict()["average"], saved["mean"], saved["square"]]
        torch._foreach_copy_(guards, list(torch.stack(columns, dim=1).unbind()))
        return grads, SpamReport(largest, limit, largest > limit, norm, target)

    def _adam(
        self, share: GroupShare, states: Sequence[dict[str, Any]], grads: list[Tensor], scale: float, *, reset: bool
    ) -> None:
        group = share.group
        first, second = group["betas"][0] * scale, group["betas"][1]
        moments = [local_shard(state["exp_avg"]) for state in states]
        squares = [local_shard(state["exp_avg_sq"]) for state in states]
        counts = [state["moment_step"] for state in states]
        literal = self.common("reset") == "literal"
        if reset and not literal:
            torch._foreach_zero_([*moments, *squares, *counts])
        torch._foreach_add_(counts, 1)
        if reset and literal:
            for state in states:
                state["moment_step"].fill_(1)
                state["guard"][0] = 1
        torch._foreach_lerp_(moments, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, 1 - second)
        steps = [float(count) for count in counts]
        roots = list(torch._foreach_sqrt(squares))
        torch._foreach_div_(roots, [math.sqrt(1 - second**step) for step in steps])
        torch._foreach_add_(roots, group["eps"])
        rates = [-float(group["lr"]) / (1 - first**step) for step in steps]
        torch._foreach_addcdiv_(share.weights, moments, roots, rates)
        if reset and literal:
            torch._foreach_zero_([*moments, *squares])


def _rescaled(grads: list[Tensor], limit: Tensor, factors: Tensor) -> list[Tensor]:
    """Copies with the offending entries scaled back; a gradient without any is itself, where the host may know."""
    spiked = (factors < 1).tolist() if may_look(grads) else [True] * len(grads)
    result = [grad.clone() if hit else grad for grad, hit in zip(grads, spiked, strict=True)]
    chosen = [i for i, hit in enumerate(spiked) if hit]
    rescale_([result[i] for i in chosen], [limit[i] for i in chosen], [factors[i] for i in chosen])
    return result

"""AdaGC: every tensor is clipped relative to a moving average of its own past norms."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.threshold import Memory, Reading, Threshold

__all__ = ["AdaGC", "RelativeEMA"]


class RelativeEMA(Threshold):
    """A limit a little above the moving average of the block's past CLIPPED statistics.

    Before step `warmup_steps` (steps count from 1, so there are `warmup_steps - 1` of them) the whole gradient is
    limited to `lambda_abs` instead, and the average is the running minimum of what is left. A block that is first seen
    later starts with its first statistic, unclipped. A statistic of exactly zero counts as not seen: with a running
    minimum, a layer behind one that starts at zero would otherwise be limited to zero for ever.

    Args:
        lambda_rel: limit over moving average, above 0; inf for no limit.
        lambda_abs: limit of the whole gradient in the warm-up, above 0; inf for none.
        beta: decay of the moving average, in [0, 1].
        warmup_steps: the first step of the relative rule, at least 1.
        eps: added to the whole gradient's norm in the warm-up.

    Raises:
        UsageError: a value outside its range.

    Paper: AdaGC, arXiv 2502.11034.
    """

    def __init__(
        self,
        lambda_rel: float = 1.05,
        lambda_abs: float = 1.0,
        beta: float = 0.98,
        warmup_steps: int = 100,
        *,
        eps: float = 1e-8,
    ) -> None:
        if not lambda_rel > 0 or not lambda_abs > 0:
            raise UsageError(f"lambda_rel and lambda_abs must be above 0, got {lambda_rel} and {lambda_abs}")
        check_number("beta", beta, least=0, most=1)
        check_number("warmup_steps", warmup_steps, least=1)
        self.lambda_rel, self.lambda_abs, self.beta = lambda_rel, lambda_abs, beta
        self.warmup_steps, self.eps = warmup_steps, eps
        self.average = Memory(math.inf)
        self._step = torch.zeros((), dtype=torch.int64)

    def _warming(self, reading: Reading) -> Tensor:
        if self._step.device != reading.stat.device:
            self._step = self._step.to(reading.stat.device)
        return self._step + 1 < self.warmup_steps

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """`lambda_rel` times the average; in the warm-up the block's share of a global limit."""
        shared = reading.stat * (self.lambda_abs / (reading.norm + self.eps)).clamp(max=1.0)
        average = self.average.read(reading)
        relative = torch.full_like(average, math.inf) if math.isinf(self.lambda_rel) else self.lambda_rel * average
        return torch.where(self._warming(reading), shared, relative)

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Let the average follow what is left after clipping."""
        average = self.average.read(reading)
        moved = torch.where(average.isinf(), clipped, self.beta * average + (1 - self.beta) * clipped)
        new = torch.where(self._warming(reading), torch.minimum(average, clipped), moved)
        self.average.write(reading, new, keep=reading.stat == 0)
        self._step = self._step + reading.finite

    def state_dict(self) -> dict[str, Any]:
        """The averages and the number of finite steps."""
        return {"average": self.average.state_dict(), "step": self._step.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved averages, also from the middle of a warm-up."""
        self.average.load_state_dict(state["average"])
        self._step = state["step"].clone()

    def __repr__(self) -> str:
        return f"RelativeEMA({self.lambda_rel:g}, {self.lambda_abs:g}, {self.beta:g}, {self.warmup_steps})"


class AdaGC(Clip):
    """Clip every tensor whose norm exceeds a small multiple of the moving average of its own clipped norms.

    A spike in one tensor leaves the others alone and cannot raise its own limit: the average grows at most by the
    factor beta + (1 - beta) * lambda_rel a step. That also holds back a gradient that really grows; on small models
    1.2 to 1.5 for `lambda_rel` shrinks ordinary steps less than the published 1.05.

    Args:
        lambda_rel, lambda_abs, beta, warmup_steps: see `RelativeEMA`.
        settings: further arguments of `Clip` (`nonfinite`, `observe`, `exclude`, `granularity`, ...).

    Raises:
        UsageError: a value outside its range.

    Paper: AdaGC: Improving Training Stability for Large Language Model Pretraining, arXiv 2502.11034.
    """

    def __init__(
        self,
        lambda_rel: float = 1.05,
        lambda_abs: float = 1.0,
        beta: float = 0.98,
        warmup_steps: int = 100,
        **settings: Any,
    ) -> None:
        rule = RelativeEMA(lambda_rel, lambda_abs, beta, warmup_steps)
        super().__init__(rule, **{"granularity": "tensor"} | settings)

"""How much one sample may add to the summed gradient: clipping flat, by groups, or at a private quantile."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.privacy.accounting.statistic import PrivateBatch, Statistic
from binderclip.settings import check_choice

__all__ = ["AdaptiveClip", "FlatClip", "GroupClip", "SensitivityRule", "as_rule"]


class SensitivityRule:
    """From per-sample gradient norms to weights, such that one sample moves the weighted sum by at most `sensitivity`.

    The parameters fall into J groups; sample i's gradient in group j is multiplied by min(1, C_j / norm_ij). Neighbours
    differ by one added or removed record; for replaced records the sensitivity is twice as large.

    Args:
        clip_norms: C_j of each group, above 0; infinity (no clipping) goes with no noise only.

    Raises:
        UsageError: a norm that is not above 0.
    """

    def __init__(self, clip_norms: Sequence[float]) -> None:
        self._clip_norms: tuple[float, ...] = ()
        self.clip_norms = tuple(clip_norms)

    @property
    def clip_norms(self) -> tuple[float, ...]:
        """C_j of each group."""
        return self._clip_norms

    @clip_norms.setter
    def clip_norms(self, values: Sequence[float]) -> None:
        values = tuple(float(value) for value in values)
        if not values or not all(value > 0 for value in values):
            raise UsageError(f"clip norms must be above 0, got {values}")
        if self._clip_norms and len(values) != len(self._clip_norms):
            raise UsageError(f"{len(self._clip_norms)} clip norms are needed, one a group, got {len(values)}")
        self._clip_norms = values

    @property
    def groups(self) -> int:
        """J."""
        return len(self._clip_norms)

    @property
    def sensitivity(self) -> float:
        """Largest L2 norm of one sample's share of the sum: (sum of C_j^2)^(1/2)."""
        return math.hypot(*self._clip_norms)

    def assign(self, names: Sequence[str]) -> list[int]:
        """The group of each parameter."""
        return [0] * len(names)

    def scales(self, norms: Float[Tensor, "B *J"]) -> Float[Tensor, "B *J"]:
        """Weights min(1, C_j / norm) of each sample.

        Args:
            norms: (B,) for one group, else (B, J). A norm that is not finite gets weight 0.
        """
        limits = norms.new_tensor(self._clip_norms)
        limits = limits[0] if norms.ndim == 1 else limits
        weights = (limits / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp(max=1.0)
        return torch.where(norms.isfinite(), weights, torch.zeros_like(weights))

    def noise_stds(self, noise_multiplier: float) -> tuple[float, ...]:
        """Standard deviation of the noise on the SUM, for each group.

        Raises:
            UsageError: noise without clipping.
        """
        if noise_multiplier == 0:
            return (0.0,) * self.groups
        if math.isinf(self.sensitivity):
            raise UsageError("a clip norm of infinity bounds nothing: no amount of noise makes it private")
        return self._stds(noise_multiplier)

    def _stds(self, noise_multiplier: float) -> tuple[float, ...]:
        return (noise_multiplier * self.sensitivity,) * self.groups

    def multiplier(self, noise_multiplier: float) -> float:
        """The one multiplier that the noise of `noise_stds` on all groups amounts to: (sum (std_j/C_j)^-2)^(-1/2)."""
        return noise_multiplier

    def statistics(self, noise_multiplier: float) -> tuple[Statistic, ...]:
        """What the rule itself wants to learn from each batch."""
        return ()

    def update(self, released: Mapping[str, Tensor], expected_batch_size: float) -> None:
        """Take the noised statistics of the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"clip_norms": list(self._clip_norms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.clip_norms = state["clip_norms"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(clip_norms={self._clip_norms})"


class FlatClip(SensitivityRule):
    """One norm over all parameters: Abadi et al., "Deep Learning with Differential Privacy", CCS 2016.

    Args:
        max_grad_norm: C.
    """

    def __init__(self, max_grad_norm: float = 1.0) -> None:
        super().__init__([max_grad_norm])


class GroupClip(SensitivityRule):
    """A norm of its own for each group of parameters, such as the two matrices of a LoRA pair.

    Args:
        max_grad_norms: shell pattern of parameter names -> C_j; a parameter goes to the first that fits it.
        noise_scaling: "joint": group j gets noise sigma * C_j * sqrt(J), so that the step costs what sigma costs in
            flat clipping; "per_group": sigma * C_j, and the step is accounted with sigma / sqrt(J); "flat": the same
            sigma * (sum C_j^2)^(1/2) everywhere, as Opacus's per-layer clipping does.

    Raises:
        UsageError: no group, an unknown scaling, or (in `assign`) a parameter that fits no pattern.
    """

    def __init__(
        self,
        max_grad_norms: Mapping[str, float],
        *,
        noise_scaling: Literal["joint", "per_group", "flat"] = "joint",
    ) -> None:
        check_choice("noise_scaling", noise_scaling, ("joint", "per_group", "flat"))
        super().__init__(list(max_grad_norms.values()))
        self.patterns = tuple(max_grad_norms)
        self.noise_scaling = noise_scaling

    @classmethod
    def per_tensor(
        cls, names: Iterable[str], max_grad_norm: float | Sequence[float], *, noise_scaling: Any = "flat"
    ) -> GroupClip:
        """Every parameter a group; a single norm is shared out so that the sensitivity is that of flat clipping.

        Args:
            names: of the parameters.
            max_grad_norm: C, of which each gets C / sqrt(J); or one norm for each.
            noise_scaling: see the class.
        """
        names = list(names)
        if isinstance(max_grad_norm, Sequence):
            norms = list(max_grad_norm)
        else:
            norms = [max_grad_norm / math.sqrt(max(len(names), 1))] * len(names)
        if len(norms) != len(names):
            raise UsageError(f"max_grad_norm has {len(norms)} values for {len(names)} trainable parameters")
        return cls(dict(zip(names, norms, strict=True)), noise_scaling=noise_scaling)

    def assign(self, names: Sequence[str]) -> list[int]:
        """The group of each parameter: a name that is a key itself, else the first pattern that fits."""
        exact = {pattern: index for index, pattern in enumerate(self.patterns)}
        groups = []
        for name in names:
            fitting = (i for i, pattern in enumerate(self.patterns) if fnmatch.fnmatchcase(name, pattern))
            index = exact.get(name, next(fitting, None))
            if index is None:
                raise UsageError(f"parameter {name!r} fits none of the groups {', '.join(self.patterns)}")
            groups.append(index)
        unused = sorted(set(range(self.groups)) - set(groups))
        if unused:
            raise UsageError(f"no trainable parameter fits the group {self.patterns[unused[0]]!r}")
        return groups

    def _stds(self, noise_multiplier: float) -> tuple[float, ...]:
        if self.noise_scaling == "flat":
            return super()._stds(noise_multiplier)
        scale = math.sqrt(self.groups) if self.noise_scaling == "joint" else 1.0
        return tuple(noise_multiplier * scale * norm for norm in self.clip_norms)

    def multiplier(self, noise_multiplier: float) -> float:
        """Sigma, or sigma / sqrt(J) for "per_group"."""
        if self.noise_scaling == "per_group":
            return noise_multiplier / math.sqrt(self.groups)
        return noise_multiplier


class AdaptiveClip(SensitivityRule):
    """A flat norm that follows a private quantile of the gradient norms: C <- C * exp(-lr * (b - q)).

    b is the noisy share of samples that were not clipped. The count is released from the same batch as the gradient;
    the gradient's noise is raised so that both together cost what `noise_multiplier` costs. Each sample counts as +1/2
    or -1/2, so the count's sensitivity is 1/2. Andrew et al., "Differentially Private Learning with Adaptive Clipping",
    NeurIPS 2021; Opacus's `AdaClipDPOptimizer`, with the expected batch size where that divides by the actual one,
    which Poisson sampling keeps secret.

    Args:
        max_grad_norm: C to start from.
        target_unclipped_quantile: q.
        clipbound_learning_rate: lr.
        max_clipbound, min_clipbound: C stays between them.
        unclipped_num_std: noise on the count, in samples; above half the noise multiplier.

    Raises:
        UsageError: values out of range.
    """

    def __init__(
        self,
        max_grad_norm: float = 1.0,
        *,
        target_unclipped_quantile: float = 0.5,
        clipbound_learning_rate: float = 0.2,
        max_clipbound: float = math.inf,
        min_clipbound: float = 1e-6,
        unclipped_num_std: float = 10.0,
    ) -> None:
        super().__init__([max_grad_norm])
        check_number("target_unclipped_quantile", target_unclipped_quantile, least=0, most=1)
        if not 0 < min_clipbound <= max_grad_norm <= max_clipbound:
            raise UsageError(
                f"max_grad_norm {max_grad_norm} must lie between min_clipbound {min_clipbound} and max_clipbound "
                f"{max_clipbound}"
            )
        check_number("unclipped_num_std", unclipped_num_std, above=0)
        self.target_unclipped_quantile = target_unclipped_quantile
        self.clipbound_learning_rate = clipbound_learning_rate
        self.max_clipbound, self.min_clipbound = max_clipbound, min_clipbound
        self.unclipped_num_std = unclipped_num_std

    def _stds(self, noise_multiplier: float) -> tuple[float, ...]:
        left = noise_multiplier**-2 - (2 * self.unclipped_num_std) ** -2
        if left <= 0:
            raise UsageError(
                f"unclipped_num_std {self.unclipped_num_std} must exceed half the noise multiplier "
                f"{noise_multiplier}: the count alone would cost more than the step may"
            )
        return (left**-0.5 * self.sensitivity,)

    def multiplier(self, noise_multiplier: float) -> float:
        """The gradient's own multiplier, above the given one; with the count it comes back to that."""
        return self._stds(noise_multiplier)[0] / self.sensitivity if noise_multiplier else 0.0

    def statistics(self, noise_multiplier: float) -> tuple[Statistic, ...]:
        """The centred count of unclipped samples."""

        def centred(batch: PrivateBatch) -> Tensor:
            return (batch.norms[:, 0] <= batch.clip_norms[0]).to(batch.norms.dtype).sub(0.5).sum()

        return (Statistic("unclipped", centred, 0.5, 2 * self.unclipped_num_std),)

    def update(self, released: Mapping[str, Tensor], expected_batch_size: float) -> None:
        """Move C."""
        fraction = float(released["unclipped"]) / expected_batch_size + 0.5
        moved = self.clip_norms[0] * math.exp(
            -self.clipbound_learning_rate * (fraction - self.target_unclipped_quantile)
        )
        self.clip_norms = (min(max(moved, self.min_clipbound), self.max_clipbound),)


def as_rule(rule: SensitivityRule | float) -> SensitivityRule:
    """A rule, or the flat one of a number."""
    return rule if isinstance(rule, SensitivityRule) else FlatClip(float(rule))

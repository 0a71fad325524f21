"""SGD along the median of the gradients of a batch's samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.optim.gradients.collect import KeyedParameter, dense_grad
from binderclip.optim.gradients.measure import shard_dims
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, settings_of
from binderclip.optim.optimizers.median import geometric_median, middle

__all__ = ["SampleMedianSGD"]


class SampleMedianSGD(GuardedOptimizer):
    """SGD along the median, not the mean, of the gradients of a batch's samples or micro-batches.

    A minority of samples with wild gradients cannot carry the step off. Hand over gradients by `collect`, then step:

        for part in batch.split(8):
            loss(part).backward()
            optimizer.collect()
        optimizer.step()

    Args:
        params: parameters or param groups.
        lr: step size.
        estimator: "l2" (geometric median), "l1" (median of each coordinate) or "mean".
        method: how "l2" is computed: see `geometric_median`.
        granularity: "global" takes one median of all parameters together, as in the paper; "tensor" one for each.
            ("l1" and "mean" are the same either way.)
        weight_decay: coupled, added to the median.
        maximize: ascend.
        nonfinite: "raise" and "skip" give the whole step up, "zero" replaces the entries by 0, "drop" leaves out
            samples that are not finite.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = SampleMedianSGD([weight], lr=1.0)
        >>> optimizer.collect([torch.tensor([[1.0], [1.0], [-50.0]])])
        >>> optimizer.step()
        >>> weight.item()
        -1.0

    Paper: SGD with Clipping is Secretly Estimating the Median Gradient, arXiv 2402.12828.
    """

    shared = ("estimator", "method", "granularity")
    policies = ("raise", "skip", "zero", "drop")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        estimator: Literal["l2", "l1", "mean"] = "l2",
        *,
        method: Literal["weiszfeld", "proximal"] = "weiszfeld",
        granularity: Literal["global", "tensor"] = "global",
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "drop"] = "raise",
    ) -> None:
        settings = settings_of(locals())
        known = {
            "estimator": ("l2", "l1", "mean"),
            "method": ("weiszfeld", "proximal"),
            "granularity": ("global", "tensor"),
        }
        for name, choices in known.items():
            if settings[name] not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}, got {settings[name]!r}")
        self._samples: list[list[Tensor | None]] = []
        super().__init__(params, {**settings, "foreach": None})

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # gradients that were being collected do not travel with a copy
        self._samples = []

    def collect(self, samples: Sequence[Float[Tensor, "n ..."] | None] | None = None) -> None:
        """Take over gradients for the next step.

        Args:
            samples: for each parameter, in the order of the groups, the gradients of n samples, or None; as
                `torch.func.vmap(torch.func.grad(loss))` gives them. Without this, what backward left in `p.grad` counts
                as one sample and is cleared.

        Raises:
            UsageError: another number of tensors, other shapes, or different n.
            NotSupported: a sparse gradient, or a parameter that is sharded.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        if any(shard_dims(param) for param in params):
            raise NotSupported("SampleMedianSGD needs whole gradients: a parameter here is sharded over processes")
        if samples is None:
            if all(param.grad is None for param in params):
                raise UsageError("there is nothing to collect: no parameter has a gradient, call backward() first")
            taken: list[Tensor | None] = []
            for number, param in enumerate(params):
                taken.append(None if param.grad is None else dense_grad(KeyedParameter(str(number), param))[None])
            for param in params:
                param.grad = None
            self._samples.append(taken)
            return
        given = list(samples)
        if len(given) != len(params):
            raise UsageError(f"collect() takes one tensor per parameter: {len(params)} are needed, got {len(given)}")
        counts = set()
        for number, (sample, param) in enumerate(zip(given, params, strict=True)):
            if sample is None:
                continue
            if sample.shape[1:] != param.shape or sample.ndim != param.ndim + 1:
                raise UsageError(
                    f"parameter {number} needs gradients of shape (n, {', '.join(map(str, param.shape))}), got "
                    f"{tuple(sample.shape)}"
                )
            counts.add(len(sample))
        if len(counts) != 1 or 0 in counts:
            raise UsageError(
                f"collect() takes the same number of samples for every parameter, at least 1, got {counts}"
            )
        self._samples.append([None if sample is None else sample.detach() for sample in given])

    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:  # type: ignore[override]
        """One step along the median of what was collected since the last one.

        Args:
            closure: computes the loss again and collects.

        Returns:
            The closure's loss, or None.

        Raises:
            UsageError: nothing was collected.
            NonFiniteGradient: with `nonfinite="raise"`; nothing was changed.
        """
        try:
            return super().step(closure)  # type: ignore[arg-type]
        finally:
            self._samples = []

    def active_fraction(self) -> float:
        """Refused: this optimizer has no bound.

        Raises:
            NotSupported: always.
        """
        raise NotSupported("SampleMedianSGD bounds nothing, so there is no fraction of steps at which a bound acted")

    def _share(self, numbered: tuple[int, dict[str, Any]]) -> GroupShare:
        if not self._samples:
            raise UsageError("SampleMedianSGD steps along collected gradients: call collect() after each backward()")
        first, group = numbered
        sizes = [next(len(part) for part in call if part is not None) for call in self._samples]
        params, keys, grads = [], [], []
        for place, param in enumerate(group["params"]):
            parts = [call[first + place] for call in self._samples]
            if all(part is None for part in parts):
                continue
            params.append(param)
            keys.append(str(first + place))
            grads.append(
                torch.cat([
                    param.new_zeros(size, *param.shape) if part is None else part
                    for part, size in zip(parts, sizes, strict=True)
                ])
            )  # fmt: skip
        return GroupShare(group, params, keys, list(params), grads, torch.zeros(0))

    def read(self, shares: Sequence[GroupShare]) -> None:
        """Whether all samples are finite, as 0 or NaN."""
        if self.common("nonfinite") == "drop":
            self._drop(shares)
        for share in shares:
            fine = torch.stack([grad.isfinite().all().to(share.grads[0].device) for grad in share.grads])
            share.stat = torch.where(fine, 0.0, torch.nan)

    def _drop(self, shares: Sequence[GroupShare]) -> None:
        """Leave out samples that are not finite in some parameter."""
        device = shares[0].grads[0].device
        flags = [grad.reshape(len(grad), -1).isfinite().all(1).to(device) for share in shares for grad in share.grads]
        keep = torch.stack(flags).all(0)
        if not bool(keep.all()):
            for share in shares:
                share.grads = [grad[keep.to(grad.device)] for grad in share.grads]

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Medians, then the step; none where every sample was dropped."""
        if not len(shares[0].grads[0]):
            self.skipped_steps += 1
            return
        centres = self._centres([grad for share in shares for grad in share.grads])
        for share in shares:
            states, group = self.states(share, lambda param, group: {}), share.group
            self.count(states, torch.zeros(len(states), dtype=torch.bool))
            for weight in share.weights:
                step = next(centres).to(weight.dtype)
                step = -step if group["maximize"] else step
                weight.sub_(step.add(weight, alpha=group["weight_decay"]), alpha=float(group["lr"]))

    def _centres(self, samples: list[Tensor]) -> Any:
        """The centre of each parameter's samples, in order."""
        estimator = self.common("estimator")
        if estimator == "mean":
            return (sample.mean(0) for sample in samples)
        if estimator == "l1":
            return (middle(sample.reshape(len(sample), -1)).reshape(sample.shape[1:]) for sample in samples)
        method = self.common("method")
        if self.common("granularity") == "tensor":
            return (geometric_median(sample, method=method) for sample in samples)
        device = samples[0].device
        flat = torch.cat([sample.reshape(len(sample), -1).to(device) for sample in samples], dim=1)
        parts = geometric_median(flat, method=method).split([sample[0].numel() for sample in samples])
        return (part.reshape(sample.shape[1:]).to(sample.device) for part, sample in zip(parts, samples, strict=True))

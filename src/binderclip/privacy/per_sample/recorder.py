"""Watching where parameters meet the batch, so that one backward pass is enough for private clipping.

Inside `PerSampleRecorder.recording()` every operation that takes a watched parameter is run with a detached copy:
autograd computes no weight gradient at all. The operation's input is kept, a hook keeps the gradient of its output, and
from the two come per-sample norms and weighted sums (`contributions`). A use that cannot be handled raises; none is
missed: one that went past the recorder would leave a `.grad`, which is checked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from binderclip.errors import NotSupported, UsageError
from binderclip.privacy.per_sample.contributions import Contribution, Direct, squared_norms
from binderclip.privacy.per_sample.operations import run_operation
from binderclip.privacy.per_sample.recorded import RecordedPass
from binderclip.privacy.per_sample.refusals import COUPLED, refuse_modules
from binderclip.privacy.per_sample.sources import Source

__all__ = [
    "PerSampleRecorder",
]


class PerSampleRecorder(RecordedPass, TorchFunctionMode):
    """Keeps what per-sample gradients need during one forward and one backward pass.

    Args:
        model: its other parameters are treated as frozen.
        params: what to watch, by name; default: all that require a gradient.

    Raises:
        NotSupported: the model holds layers that mix samples, or that cannot be watched.
        UsageError: nothing to watch.
    """

    def __init__(self, model: nn.Module, params: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        refuse_modules(model)
        named = {n: p for n, p in model.named_parameters() if p.requires_grad} if params is None else dict(params)
        if not named:
            raise UsageError("no parameter requires a gradient: there is nothing to train")
        self.model, self.names, self.params = model, list(named), list(named.values())

    # -- forward -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(self) -> Iterator[PerSampleRecorder]:
        """Record the forward passes inside; what an earlier one left is dropped."""
        self.clear()
        self._watch()
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in self.sources]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            with self:
                yield self
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _watch(self) -> None:
        for name, parameter in zip(self.names, self.params, strict=True):
            parameter.grad = None
            leaf = parameter.detach().requires_grad_()
            self.sources[id(parameter)] = Source(parameter, name, leaf=leaf)
        for tensor in [*self.model.parameters(), *self.model.buffers()]:
            if id(tensor) not in self.sources:
                self.constants[id(tensor)] = tensor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return run_operation(self, func, args, kwargs or {})

    # -- backward ----------------------------------------------------------------------------------------------------

    def backward(self, losses: Float[Tensor, "B"], *, check: bool = False) -> None:
        """The one backward pass.

        Args:
            losses: one a sample, each a function of that sample alone.
            check: first go back from half of the losses, and verify that the other half's samples get no gradient.

        Raises:
            UsageError: losses of another shape, or none of what was recorded led to them.
            NotSupported: samples are coupled, or a parameter was used where the recorder does not see it.
        """
        if losses.ndim != 1:
            raise UsageError(
                f"private training needs one loss a sample, shape (B,), got {tuple(losses.shape)}: use "
                f"reduction='none' and do not average. {COUPLED}"
            )
        if not self.uses and len(losses):
            raise UsageError("no watched parameter met data: run the model's forward pass inside recording()")
        self._batch = len(losses)
        if losses.requires_grad:
            if check and len(losses) > 1:
                self._check(losses)
            losses.sum().backward()
        for name, parameter in zip(self.names, self.params, strict=True):
            if parameter.grad is not None:
                parameter.grad = None
                raise NotSupported(
                    f"parameter {name!r} is used where it cannot be watched (scripted code, or gradient checkpointing "
                    "with use_reentrant=True)"
                )
        for use in self.uses:
            if use.lifted is not None and use.lifted.grad is not None:
                grad, use.lifted = use.lifted.grad, None
                self._keep(use, Direct(grad.reshape(grad.shape[0], *use.source.value.shape)))
        self._spread()

    def _check(self, losses: Tensor) -> None:
        self._first_half = len(losses) // 2
        try:
            losses[: self._first_half].sum().backward(retain_graph=True)
            for use in self.uses:
                if use.lifted is not None and use.lifted.grad is not None:
                    self._check_rows(use.lifted.grad, use)
                    use.lifted.grad = None
        finally:
            self._first_half = None

    def _spread(self) -> None:
        """Turn gradients of computed tensors into those of the parameters they were computed from."""
        for source in list(self.sources.values()):
            kept = [use.kept for use in source.uses if use.kept is not None]
            if source.leaf is not None or not kept:
                continue
            grad = sum(contribution.full() for contribution in kept)
            leaves = [other for other in self.sources.values() if other.leaf is not None]
            gradients = torch.autograd.grad(
                source.tensor,
                [other.leaf for other in leaves],  # type: ignore[arg-type]
                grad_outputs=grad,  # type: ignore[arg-type]
                is_grads_batched=True,
                retain_graph=True,
                allow_unused=True,
            )
            for leaf, value in zip(leaves, gradients, strict=True):
                if value is not None:
                    leaf.square = None
                    self.use(leaf, f"a function of it ({source.name})").kept = Direct(value)

    # -- results -----------------------------------------------------------------------------------------------------

    def _kept(self, parameter: Tensor) -> list[Contribution]:
        source = self.sources.get(id(parameter))
        return [use.kept for use in source.uses if use.kept is not None] if source is not None else []

    def squares(self, groups: Sequence[int], count: int) -> Float[Tensor, "B J"]:
        """Squared per-sample gradient norms of each group.

        Args:
            groups: of each parameter. count: J.
        """
        dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.params) else torch.float32
        total = torch.zeros(self.batch, count, dtype=dtype, device=self.params[0].device)
        for parameter, group in zip(self.params, groups, strict=True):
            kept = self._kept(parameter)
            if kept:
                ready = self.sources[id(parameter)].square
                total[:, group] += (squared_norms(kept) if ready is None else ready).to(dtype)
        return total

    def weighted_sum(
        self, weights: Float[Tensor, "B J"], groups: Sequence[int], bad: Tensor | None = None
    ) -> list[Tensor]:
        """Sum over samples of weight times gradient, for each parameter.

        Args:
            weights: of each sample in each group. groups: of each parameter. bad: samples to leave out.
        """
        sums = []
        for parameter, group in zip(self.params, groups, strict=True):
            total: Tensor | None = None
            for contribution in self._kept(parameter):
                part = contribution.weighted(weights[:, group], bad)
                total = part if total is None else total + part
            sums.append(torch.zeros_like(parameter) if total is None else total.to(parameter.dtype))
        return sums

    def full(self) -> dict[str, Float[Tensor, "B ..."]]:
        """Every per-sample gradient in full."""
        gradients = {}
        for name, parameter in zip(self.names, self.params, strict=True):
            kept = self._kept(parameter)
            zeros = parameter.new_zeros(self.batch, *parameter.shape)
            gradients[name] = sum((contribution.full() for contribution in kept), zeros).view_as(zeros)
        return gradients

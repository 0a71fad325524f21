"""Sharpness-aware minimisation: descend by the gradient at the worst near point instead of the one at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from binderclip.errors import UsageError

__all__ = ["SAM"]


class SAM(Optimizer):
    """Wraps an optimizer so that it gets the gradient at `w + rho g / |g|`, one linearised ascent step away.

    In a loop of one's own: backward, `first_step()`, backward again, `second_step()`; or `step(closure)` after a first
    backward, as in the usual ports. In `fit` pass `sam.around(step)` and `optimizer=sam`. Every step costs two forward
    and backward passes.

    Args:
        params: parameters or groups.
        base_optimizer: class of the optimizer that descends, such as `torch.optim.SGD`.
        rho: radius in the units of the weights, over all parameters together. 0.05 is usual; 0.3 ("large-neighbourhood
            SAM" of arXiv 2304.02688) makes surrogates whose adversarial examples transfer.
        adaptive: measure in units of each weight's size (ASAM): `w + rho T^2 g / |T g|` with `T = |w| + eta`.
        eta: of `adaptive`.
        options: of the base optimizer, such as `lr` and `momentum`.

    Raises:
        UsageError: a negative radius, or steps in the wrong order.

    Examples:
        >>> sam = SAM(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)     # doctest: +SKIP
        >>> fit(sam.around(step), net, batches, steps=100, optimizer=sam)      # doctest: +SKIP

    Paper: Sharpness-Aware Minimization for Efficiently Improving Generalization (arXiv 2010.01412); adaptive: ASAM
    (arXiv 2102.11600).
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        **options: Any,
    ) -> None:
        if not rho >= 0:
            raise UsageError(f"rho, the radius in the units of the weights, must be at least 0, got {rho}")
        super().__init__(params, {"rho": rho, "adaptive": adaptive, "eta": eta})
        self.base = base_optimizer(self.param_groups, **options)
        # One list of groups and one state, so that schedules and state dicts reach the base optimizer.
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self._before: list[tuple[Tensor, Tensor]] = []

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, for the base optimizer as well."""
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state

    def _moved(self) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        for group in self.param_groups:
            yield from ((group, p, p.grad) for p in group["params"] if p.grad is not None)

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Climb to the worst near point; weights are remembered.

        Args:
            zero_grad: forget the gradients then.

        Raises:
            UsageError: it stands there already.
        """
        if self._before:
            raise UsageError("SAM.first_step was called twice: call second_step between them")
        scaled = [(group, p, g, _scale(group, p)) for group, p, g in self._moved()]
        if scaled:
            parts = [torch.linalg.vector_norm(scale * g) for *_, g, scale in scaled]
            norm = torch.linalg.vector_norm(torch.stack([part.to(parts[0].device) for part in parts]))
            for group, p, g, scale in scaled:
                self._before.append((p, p.clone()))
                p.add_(scale * scale * g * (group["rho"] / (norm + 1e-12)).to(p))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Back to the weights before `first_step`, bit for bit."""
        for p, value in self._before:
            p.copy_(value)
        self._before = []

    def second_step(self, zero_grad: bool = False) -> None:
        """Back to the weights before `first_step`, and a step of the base optimizer by the gradients at hand.

        Args:
            zero_grad: forget the gradients then.
        """
        self.restore()
        self.base.step()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """With a closure (forward and backward) both steps; without one a step of the base optimizer.

        Args:
            closure: evaluates the loss at the worst near point; the gradients at hand say where that is.
        """
        if closure is None:
            return self.base.step()
        self.first_step(zero_grad=True)
        with torch.enable_grad():
            loss = closure()
        self.second_step()
        return loss

    def around(self, step: Callable[[Any], Any], module: nn.Module | None = None) -> Callable[..., Any]:
        """A step for `fit` that leaves the gradients at the worst near point of the batch.

        With `accumulate` every batch has a worst point of its own. It returns what `step` gave at the weights
        themselves.

        Args:
            step: batch -> loss, as `fit` takes it.
            module: whose batch statistics are not to be moved by the second pass.
        """

        def both(batch: Any, *, backward: Callable[[Tensor], None]) -> Any:
            earlier = [(p, p.grad) for group in self.param_groups for p in group["params"]]
            self.zero_grad()
            result = step(batch)
            backward(_loss(result))
            self.first_step(zero_grad=True)
            with _statistics_kept(module):
                backward(_loss(step(batch)))
            self.restore()
            for p, grad in earlier:
                if grad is not None:
                    p.grad = grad if p.grad is None else p.grad.add_(grad)
            return result

        return both


def _scale(group: dict[str, Any], p: Tensor) -> Tensor:
    """T of ASAM, or one."""
    return p.abs() + group["eta"] if group["adaptive"] else p.new_ones(())


def _loss(result: Any) -> Tensor:
    """The loss out of what a step gives to `fit`."""
    if isinstance(result, tuple):
        return result[0]
    return getattr(result, "total", result)


@contextmanager
def _statistics_kept(module: nn.Module | None) -> Iterator[None]:
    """Running statistics of batch norms stand still; the batch's own are used all the same."""
    layers = [] if module is None else [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    counts = [None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone() for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum, count in zip(layers, momenta, counts, strict=True):
            layer.momentum = momentum
            if count is not None and layer.num_batches_tracked is not None:
                layer.num_batches_tracked.copy_(count)

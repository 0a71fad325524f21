"""Sharpness-aware minimisation: descend by the gradient at the worst near point instead of the one at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.optim.perturbation import ascent_direction

__all__ = ["SAM"]


class SAM(Optimizer):
    """Wraps an optimizer so that it gets the gradient at `w + rho g / |g|`, one linearised ascent step away.

    In a loop of one's own: backward, `first_step()`, backward again, `second_step()`; or `step(closure)` after a first
    backward, as in the usual ports. Where no gradient is at hand (Lightning's automatic optimisation) `step(closure)`
    runs the closure for both passes. In `fit` pass `sam.around(step)` and `optimizer=sam`. Every step costs two forward
    and backward passes.

    Args:
        params: parameters or groups.
        base_optimizer: class of the optimizer that descends, such as `torch.optim.SGD`; not an optimizer that was made.
        rho: radius in the units of the weights, over all parameters together. 0.05 is usual; 0.3 ("large-neighbourhood
            SAM" of arXiv 2304.02688) makes surrogates whose adversarial examples transfer.
        adaptive: measure in units of each weight's size (ASAM): `w + rho T^2 g / |T g|` with `T = |w| + eta`.
        eta: of `adaptive`.
        module: whose batch statistics are not to be moved by the second pass.
        options: of the base optimizer, such as `lr` and `momentum`.

    Raises:
        UsageError: a negative radius or eta, an optimizer in the place of its class, or steps in the wrong order.

    Examples:
        >>> sam = SAM(net.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)     # doctest: +SKIP
        >>> fit(sam.around(step), net, batches, steps=100, optimizer=sam)      # doctest: +SKIP

    Paper: Sharpness-Aware Minimization for Efficiently Improving Generalization (arXiv 2010.01412); adaptive: ASAM
    (arXiv 2102.11600).
    """

    keeps_gradient = False
    """Whether `adjust` reads the gradient at the weights themselves."""

    def __init__(
        self,
        params: Any,
        base_optimizer: Callable[..., Optimizer] = torch.optim.SGD,
        *,
        rho: float = 0.05,
        adaptive: bool = False,
        eta: float = 0.01,
        module: nn.Module | None = None,
        **options: Any,
    ) -> None:
        check_number("rho", rho, least=0)
        check_number("eta", eta, least=0)
        made = next((given for given in (params, base_optimizer) if isinstance(given, Optimizer)), None)
        if made is not None:
            kind = type(made).__name__
            raise UsageError(
                f"SAM makes the optimizer that it wraps, and got one that is made: SAM(model.parameters(), {kind}, "
                "rho=..., lr=...) with the class and its settings"
            )
        super().__init__(params, {"rho": rho, "adaptive": adaptive, "eta": eta})
        self.base = base_optimizer(self.param_groups, **options)
        # One list of groups and one state, so that schedules and state dicts reach the base optimizer.
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.module = module
        self._before: list[tuple[Tensor, Tensor]] = []
        self._here: dict[Tensor, Tensor] = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, for the base optimizer as well."""
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state

    @property
    def base_optimizer(self) -> Optimizer:
        """The optimizer that descends; an attached clip hooks its step."""
        return self.base

    @property
    def second_pass_due(self) -> bool:
        """Whether this step climbs and needs a second pass; always, but for `LookSAM`."""
        return True

    def radius(self, group: dict[str, Any]) -> float:
        """The radius of a group at this step."""
        return group["rho"]

    def adjust(self, here: Mapping[Tensor, Tensor]) -> None:
        """What is done with the gradients before the base optimizer descends by them; nothing here.

        Args:
            here: gradients at the weights themselves, by parameter (where `keeps_gradient`); those at the worst near
                point are in `.grad`. Empty where the step did not climb.
        """

    def _moved(self) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        for group in self.param_groups:
            yield from ((group, p, p.grad) for p in group["params"] if p.grad is not None)

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False) -> None:
        """Climb to the worst near point; weights are remembered. Nothing moves where no second pass is due.

        Args:
            zero_grad: forget the gradients then.

        Raises:
            UsageError: it stands there already.
        """
        if self._before:
            raise UsageError("SAM.first_step was called twice: call second_step between them")
        self._here = {}
        if self.second_pass_due:
            moved = list(self._moved())
            if self.keeps_gradient:
                self._here = {p: g if zero_grad else g.clone() for _, p, g in moved}
            scales = [_scale(group, p) for group, p, _ in moved]
            steps = ascent_direction([g for *_, g in moved], scales, radii=[self.radius(group) for group, *_ in moved])
            self._before = [(p, p.clone()) for _, p, _ in moved]
            for (_, p, _), step in zip(moved, steps, strict=True):
                p.add_(step)
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def restore(self) -> None:
        """Back to the weights before `first_step`, bit for bit."""
        for p, value in self._before:
            p.copy_(value)
        self._before = []

    @contextmanager
    def perturbed(self) -> Iterator[None]:
        """Inside, the weights are the worst near point and gradients are cleared; afterwards they are back.

        A backward pass inside, and `second_step` afterwards, are a step.
        """
        self.first_step(zero_grad=True)
        try:
            with _statistics_kept(self.module):
                yield
        finally:
            self.restore()

    def second_step(self, zero_grad: bool = False) -> None:
        """Back to the weights before `first_step`, and a step of the base optimizer by the gradients at hand.

        Args:
            zero_grad: forget the gradients then.
        """
        self.restore()
        self._adjust()
        self._descend()
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """With a closure (forward and backward) both steps; without one a step of the base optimizer.

        Args:
            closure: evaluates the loss at the worst near point; the gradients at hand say where that is. Where there
                are none it is called at the weights first, and gradients are cleared at the end. If a loop gathered
                them from several batches, the closure has to pass over all of these.

        Returns:
            What the closure gave, at the weights where it was called there; None where it was not called.

        Raises:
            NotSupported: Lightning's automatic optimisation gathers gradients of several batches, and its closure knows
                the last one alone.
        """
        if closure is None:
            return self._descend()
        loss, afresh = None, next(self._moved(), None) is None
        with torch.enable_grad():
            if afresh:
                loss = closure()
            elif _is_automatic(closure):
                raise NotSupported(
                    "SAM under Lightning's accumulate_grad_batches: the second pass needs all batches of a step; use "
                    "automatic_optimization = False, or larger batches"
                )
            if self.second_pass_due:
                with self.perturbed():
                    near = closure()
                loss = near if loss is None else loss
        self.second_step(zero_grad=afresh)
        return loss

    def around(
        self, step: Callable[[Any], Any], module: nn.Module | None = None, *, m: int | None = None
    ) -> Callable[..., Any]:
        """A step for `fit` that leaves the gradients at the worst near point of the batch.

        With `accumulate` every batch has a worst point of its own. It returns what `step` gave at the weights
        themselves.

        Args:
            step: batch -> loss, as `fit` takes it.
            module: whose batch statistics are not to be moved by the second pass; default the constructor's.
            m: rows of a micro-batch with a worst point of its own (m-SAM of the paper's section 4.2); the batch is a
                tensor, or tuples, lists and dictionaries of tensors of as many rows. The loss has to be a mean over
                rows: a contrastive loss sees the rows of its micro-batch alone. None for the whole batch.

        Raises:
            UsageError: `m` below 1, or a batch that cannot be cut, when it comes.
        """
        if m is not None:
            check_whole("m", m, least=1)
        frozen = self.module if module is None else module

        def both(batch: Any, *, backward: Callable[[Tensor], None]) -> Any:
            parts = [(batch, 1.0)] if m is None else _micro_batches(batch, m)
            results = [self._passes(step, part, weight, backward, frozen) for part, weight in parts]
            return results[0] if m is None else _mean_result(results, [weight for _, weight in parts])

        return both

    def _passes(
        self,
        step: Callable[[Any], Any],
        batch: Any,
        weight: float,
        backward: Callable[[Tensor], None],
        module: nn.Module | None,
    ) -> Any:
        """Both passes of a batch; weight times its gradient is added to what is in `.grad`."""
        earlier = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        self.zero_grad()
        result = step(batch)
        backward(_loss(result) if weight == 1 else weight * _loss(result))
        if self.second_pass_due:
            self.first_step(zero_grad=True)
            try:
                with _statistics_kept(module):
                    again = _loss(step(batch))
                    backward(again if weight == 1 else weight * again)
            finally:
                self.restore()
        self._adjust()
        for p, grad in earlier:
            if grad is not None:
                p.grad = grad if p.grad is None else p.grad.add_(grad)
        return result

    @torch.no_grad()
    def _adjust(self) -> None:
        self.adjust(self._here)
        self._here = {}

    def _descend(self) -> Any:
        return self.base.step()


def _scale(group: dict[str, Any], p: Tensor) -> Tensor:
    """T of ASAM, or one."""
    return p.abs() + group["eta"] if group["adaptive"] else p.new_ones(())


def _is_automatic(closure: Callable[[], Any]) -> bool:
    """Whether it is the closure of Lightning's automatic optimisation, which binds the module."""
    bound: tuple[Any, ...] = getattr(closure, "args", ())
    return bool(bound) and getattr(bound[0], "automatic_optimization", False) is True


def _micro_batches(batch: Any, m: int) -> list[tuple[Any, float]]:
    """Parts of m rows, the last one of the rest, and which part of all rows they are."""
    rows = _rows(batch)
    if len(rows) != 1 or 0 in rows:
        raise UsageError(f"m-SAM cuts batches of tensors of the same number of rows; got {sorted(rows) or 'no tensor'}")
    count = rows.pop()
    return [(_cut(batch, start, start + m), (min(start + m, count) - start) / count) for start in range(0, count, m)]


def _rows(batch: Any) -> set[int]:
    if isinstance(batch, Tensor):
        return {len(batch) if batch.ndim else 0}
    if isinstance(batch, Mapping):
        return set().union(*(_rows(value) for value in batch.values()))
    return set().union(*(_rows(value) for value in batch)) if isinstance(batch, (tuple, list)) else set()


def _cut(batch: Any, start: int, end: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:end]
    if isinstance(batch, Mapping):
        return {key: _cut(value, start, end) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        cut = [_cut(value, start, end) for value in batch]
        return type(batch)(*cut) if hasattr(batch, "_fields") else type(batch)(cut)
    return batch


def _mean_result(results: list[Any], weights: list[float]) -> Any:
    """Loss, or loss and metrics, over micro-batches."""
    loss = torch.stack([weight * _loss(r).detach() for r, weight in zip(results, weights, strict=True)]).sum()
    metrics = [r[1] if isinstance(r, tuple) else getattr(r, "metrics", {}) for r in results]
    means = {key: sum(w * m[key] for m, w in zip(metrics, weights, strict=True)) for key in metrics[0]}
    return (loss, means) if means else loss


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

"""Gradient rules: which gradient a step uses, where more than one was measured.

A rule is called in place of `loss.backward()`: `rule(closure, parameters) -> losses`. The closure computes named losses
of the present batch from the parameters as they are, and the rule calls it as often as it needs, sets every `.grad`,
and returns the losses of the first call. The optimizer step (momentum, weight decay) comes after, untouched. Nothing
here knows what the model is, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.optim.gradients.collect import Parameters, entries_of

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "GradientRule",
    "Losses",
    "NormalizedGradient",
    "ProjectConflicting",
    "SteerBySharpness",
    "project_conflicting",
    "steer_gradient",
]

Losses: TypeAlias = "Callable[[], Mapping[str, Tensor]]"
"""Computes the named scalar losses of one and the same batch, with their graph."""
GradientRule: TypeAlias = "Callable[[Losses, Sequence[Tensor]], Mapping[str, Tensor]]"
"""(closure, parameters) -> losses; sets `.grad`."""
Granularity = Literal["tensor", "global"]
Steering = Literal["steer", "project", "blend", "sam"]


def project_conflicting(
    gradients: Sequence[Float[Tensor, "..."]],
    reference: Sequence[Float[Tensor, "..."]],
    *,
    strength: float = 1.0,
    granularity: Granularity = "tensor",
) -> tuple[list[Tensor], Tensor]:
    """Take from a gradient what opposes a reference direction: g - strength * min(<g, u>, 0) u, u = r / |r|.

    Args:
        gradients: g, one tensor a parameter.
        reference: r, the gradient whose loss must not rise; only its direction counts.
        strength: 1 makes the result orthogonal to u where the two conflict, 0 changes nothing.
        granularity: `tensor` compares tensor by tensor, `global` all of them as one vector.

    Returns:
        The gradients, and the share of tensors in conflict (0 or 1 where `global`), 0-dim. Without conflict, or with a
        zero reference, a gradient comes back as it was.
    """
    along, directions = _along(gradients, reference, granularity)
    changed = [
        g - (strength * a.clamp(max=0)).to(g.dtype) * u for g, a, u in zip(gradients, along, directions, strict=True)
    ]
    return changed, torch.stack([(a < 0).float() for a in along]).mean()


def steer_gradient(
    gradients: Sequence[Float[Tensor, "..."]],
    stable: Sequence[Float[Tensor, "..."]],
    *,
    rule: Steering = "steer",
    strength: float = 0.5,
    keep_norm: bool = True,
    granularity: Granularity = "global",
) -> list[Tensor]:
    """Bend a gradient g towards a stable one s, measured elsewhere; u = s / |s|.

    Args:
        gradients: g, one tensor a parameter.
        stable: s.
        rule: `steer`: where <g, u> < 0, g - <g, u> u, else the part of g across u is multiplied by 1 - strength;
            `project`: the conflict case alone; `blend`: (1 - strength) g + strength s; `sam`: s.
        strength: in [0, 1].
        keep_norm: bring the result to the length of g (unless next to nothing is left of it).
        granularity: `global` takes all tensors as one vector, `tensor` each for itself.
    """
    if rule == "sam":
        changed = list(stable)
    elif rule == "blend":
        changed = [(1 - strength) * g + strength * s for g, s in zip(gradients, stable, strict=True)]
    else:
        across = strength if rule == "steer" else 0.0
        along, directions = _along(gradients, stable, granularity)
        changed = []
        for g, a, u in zip(gradients, along, directions, strict=True):
            a = a.to(g.dtype)
            # Conflict: g - a u. Agreement: a u + (1 - across)(g - a u) = g - across (g - a u).
            rest = g - a * u
            # A zero stable gradient has no direction: then g stays what it was.
            kept = torch.where(a > 0, g - across * rest, g)
            changed.append(torch.where(a < 0, rest, kept))
    if not keep_norm:
        return changed
    before, after = _norms(gradients, granularity), _norms(changed, granularity)
    # What is left after an exact conflict is rounding: no direction to be blown up to full length.
    factors = [torch.where(n > 1e-6 * b, b / n.clamp_min(_TINY), 1.0) for b, n in zip(before, after, strict=True)]
    return [g * f.to(g.dtype) for g, f in zip(changed, factors, strict=True)]


class ProjectConflicting:
    """Follow the task without going against what is known already.

    Two gradients are measured in one forward pass, that of the task and that of a reference loss; where they conflict,
    the task's component against the reference is removed (`project_conflicting`). The reference loss itself is not
    minimised.

    Args:
        strength: 1 as in the paper; 0 is the plain task gradient.
        granularity: `tensor`, as in the paper, or `global`.
        reference: name of the reference loss; all others together are the task.

    Attributes:
        conflict: share of tensors in conflict in the last step, 0-dim.
        conflict_rate: its mean over all steps so far, 0-dim.

    Raises:
        UsageError: a wrong argument; when called: no loss of that name, or no other.

    Paper: Prompt-aligned Gradient for Prompt Tuning (arXiv 2205.14865).

    Examples:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> losses = lambda: {"task": w[0] - w[1], "general": w[1]}
        >>> _ = ProjectConflicting()(losses, [w])
        >>> w.grad
        tensor([1., 0.])
    """

    def __init__(
        self, strength: float = 1.0, granularity: Granularity = "tensor", *, reference: str = "general"
    ) -> None:
        check_number("strength", strength, least=0)
        _one_of("granularity", granularity, Granularity)
        self.strength, self.granularity, self.reference = float(strength), granularity, reference
        self.conflict: Tensor = torch.zeros(())
        self._sum: Tensor = torch.zeros(())
        self._steps = 0

    @property
    def conflict_rate(self) -> Tensor:
        return self._sum / max(self._steps, 1)

    def __call__(self, closure: Losses, parameters: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Set the gradients of one batch."""
        with torch.enable_grad():
            losses = closure()
            task = [value for name, value in losses.items() if name != self.reference]
            if self.reference not in losses or not task:
                raise UsageError(
                    f"ProjectConflicting needs a loss {self.reference!r} and another, got {', '.join(losses) or 'none'}"
                )
            general = torch.autograd.grad(
                losses[self.reference], parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            task_gradients = torch.autograd.grad(
                torch.stack(task).sum(), parameters, allow_unused=True, materialize_grads=True
            )
        changed, self.conflict = project_conflicting(
            task_gradients, general, strength=self.strength, granularity=self.granularity
        )
        self._sum, self._steps = self._sum.to(self.conflict.device) + self.conflict, self._steps + 1
        _assign(parameters, changed)
        return losses


class SteerBySharpness:
    """Bend each gradient towards the one at a nearby, sharper point, so that training prefers flat solutions.

    One forward and backward pass at theta gives g, a second one, on the same batch and with the same dropout masks, at
    theta + rho g / |g| gives the stable gradient s; theta is put back exactly and `steer_gradient` combines the two.
    The rule `steer` is our reading of the paper, whose code is not published; `sam` is sharpness-aware minimisation.

    Args:
        rho: length of the step to the sharper point, over all parameters together.
        rule: `steer`, `project`, `blend` or `sam`, see `steer_gradient`.
        strength: how much; `steer` with 0 is the plain gradient wherever the two do not conflict.
        keep_norm: the result has the length of g.
        granularity: `global` or `tensor`, for the comparison of g and s.

    Attributes:
        cosine: between g and s, all parameters together, in the last step, 0-dim: near 1 there is little to steer by.
        mean_cosine: its mean over all steps so far, 0-dim.

    Raises:
        UsageError: a wrong argument.

    Paper: GLAD: Generalizable Tuning for Vision-Language Models (arXiv 2507.13089).

    Examples:
        >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> _ = SteerBySharpness(rho=1.0, rule="sam", keep_norm=False)(lambda: {"task": w.square().sum() / 2}, [w])
        >>> w.grad
        tensor([3.6000, 4.8000])
    """

    def __init__(
        self,
        rho: float = 0.05,
        rule: Steering = "steer",
        strength: float = 0.5,
        keep_norm: bool = True,
        *,
        granularity: Granularity = "global",
    ) -> None:
        check_number("rho", rho, least=0)
        check_number("strength", strength, least=0, most=1)
        _one_of("rule", rule, Steering)
        _one_of("granularity", granularity, Granularity)
        self.rho, self.rule, self.strength = float(rho), rule, float(strength)
        self.keep_norm, self.granularity = bool(keep_norm), granularity
        self.cosine: Tensor = torch.zeros(())
        self._sum: Tensor = torch.zeros(())
        self._steps = 0

    @property
    def mean_cosine(self) -> Tensor:
        return self._sum / max(self._steps, 1)

    def __call__(self, closure: Losses, parameters: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Set the gradients of one batch."""
        with _same_randomness(parameters) as again:
            losses, here = _gradients(closure, parameters)
            there = [p.detach().clone() for p in parameters]
            length = _norms(here, "global")[0]
            try:
                with torch.no_grad():
                    for p, g in zip(parameters, here, strict=True):
                        p.add_((self.rho / (length + 1e-12)).to(g.dtype) * g)
                again()
                _, stable = _gradients(closure, parameters)
            finally:
                with torch.no_grad():
                    for p, value in zip(parameters, there, strict=True):
                        p.copy_(value)
        along, _ = _along(here, stable, "global")
        self.cosine = along[0] / length.clamp_min(_TINY)
        self._sum, self._steps = self._sum.to(self.cosine.device) + self.cosine, self._steps + 1
        changed = steer_gradient(
            here, stable, rule=self.rule, strength=self.strength, keep_norm=self.keep_norm, granularity=self.granularity
        )
        _assign(parameters, changed)
        return losses


class NormalizedGradient:
    """Divide gradients by their length, in place: every step is equally long, however small the loss has become.

    Called with parameters between backward and step, such as `fit(..., grad_transform=NormalizedGradient())`. Where
    only a part of a tensor is trained, mask after it: the length is that of the whole tensor, as in the paper.

    Args:
        granularity: `tensor` divides each by its own L2 norm, `global` all by their common one.

    Raises:
        UsageError: an unknown granularity.

    Paper: Unleashing the Power of Visual Prompting At the Pixel Level (arXiv 2212.10556).

    Examples:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> (300 * w[0] + 400 * w[1]).backward()
        >>> NormalizedGradient()([w])
        >>> w.grad
        tensor([0.6000, 0.8000])
    """

    def __init__(self, granularity: Granularity = "tensor") -> None:
        _one_of("granularity", granularity, Granularity)
        self.granularity = granularity

    @torch.no_grad()
    def __call__(self, params: Parameters) -> None:
        """Change the gradients; a gradient of zero stays zero, parameters without one are passed over."""
        grads = [entry.parameter.grad for entry in entries_of(params)]
        gradients = [g for g in grads if g is not None]
        for g, length in zip(gradients, _norms(gradients, self.granularity), strict=True):
            g.div_(length.clamp_min(_TINY).to(g.dtype))


_TINY = torch.finfo(torch.float32).tiny


def _norms(tensors: Sequence[Tensor], granularity: str) -> list[Tensor]:
    """Lengths, one a tensor, in float32 or better."""
    if not tensors:
        return []
    norms = [torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32)) for t in tensors]
    if granularity == "tensor":
        return norms
    return [torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))] * len(norms)


def _along(
    gradients: Sequence[Tensor], reference: Sequence[Tensor], granularity: str
) -> tuple[list[Tensor], list[Tensor]]:
    """<g, u> and u for every tensor; for `global` the products are summed and shared."""
    lengths = _norms(reference, granularity)
    directions = [r / n.clamp_min(_TINY).to(r.dtype) for r, n in zip(reference, lengths, strict=True)]
    products = [(g * u).sum(dtype=n.dtype) for g, u, n in zip(gradients, directions, lengths, strict=True)]
    if granularity == "global":
        products = [torch.stack([p.to(products[0].device) for p in products]).sum()] * len(products)
    return products, directions


def _gradients(closure: Losses, parameters: Sequence[Tensor]) -> tuple[Mapping[str, Tensor], Sequence[Tensor]]:
    with torch.enable_grad():
        losses = closure()
        total = torch.stack(list(losses.values())).sum()
        return losses, torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)


def _assign(parameters: Iterable[Tensor], gradients: Iterable[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.to(parameter.dtype)


@contextmanager
def _same_randomness(parameters: Sequence[Tensor]) -> Iterator[Callable[[], None]]:
    """Gives a function that rewinds the random streams to the start; after the block they stand where one pass ends."""
    kinds = {p.device for p in parameters if p.device.type != "cpu"}
    modules = [(getattr(torch, device.type), device) for device in kinds]
    start = [torch.get_rng_state(), *(module.get_rng_state(device) for module, device in modules)]
    after: list[list[Tensor]] = []

    def put(states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        for (module, device), state in zip(modules, states[1:], strict=True):
            module.set_rng_state(state, device)

    def again() -> None:
        after.append([torch.get_rng_state(), *(module.get_rng_state(device) for module, device in modules)])
        put(start)

    try:
        yield again
    finally:
        if after:
            put(after[0])


def _one_of(name: str, value: str, kind: object) -> None:
    if value not in get_args(kind):
        raise UsageError(f"{name} {value!r} is unknown: one of {', '.join(get_args(kind))}")

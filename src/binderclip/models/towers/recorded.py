"""Values and gradients at chosen places of one forward pass, for any module.

Places that are asked for together share one backward, and what was found for a target is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError

Target: TypeAlias = Callable[[Any], Tensor] | Tensor


class Recorded:
    """The record of one forward pass.

    Args:
        values: tensors of the pass by place, as they took part in it.
        subject: what a callable target receives; None = the record itself.
    """

    def __init__(self, values: Mapping[Any, Tensor], subject: Any = None) -> None:
        self.values: dict[Hashable, Tensor] = dict(values)
        self._subject = self if subject is None else subject
        self._gradients: dict[int, tuple[Target, dict[Hashable, Tensor]]] = {}
        self._scores: dict[int, tuple[Target, Tensor]] = {}

    def site(self, place: Any) -> Hashable:
        """The key of a place, checked.

        Raises:
            UsageError: it was not recorded.
        """
        if place not in self.values:
            raise UsageError(f"{place} was not recorded; recorded: {', '.join(str(key) for key in self.values)}")
        return place

    def value(self, place: Any) -> Tensor:
        """The tensor at a place."""
        return self.values[self.site(place)]

    def score(self, target: Target) -> Tensor:
        """The target's value for each sample, evaluated once.

        Args:
            target: a callable on the record (for a trace: on the trace) or a tensor computed from its values.

        Raises:
            UsageError: it is not a tensor attached to this pass.
        """
        kept = self._scores.get(id(target))
        if kept is None:
            score = target if isinstance(target, Tensor) else target(self._subject)
            if not isinstance(score, Tensor):
                raise UsageError(f"a target must give a tensor with one number a sample, got {type(score).__name__}")
            kept = self._scores[id(target)] = (target, score)
        return kept[1]

    def grad(self, target: Target, sites: Any, *, create_graph: bool = False) -> Any:
        """Gradients of the SUM of the target over the batch: ONE backward for all places of the call, then cached.

        Samples do not interact, so row i is the gradient of sample i's score. Ask for early and late places together:
        the early ones pay for the late ones.

        Args:
            target: see `score`.
            sites: one place (returns a tensor) or a sequence of places (returns a list).
            create_graph: make the gradients differentiable; these are not cached. Fused attention cannot be
                differentiated twice: record `attn` in all blocks of a tower for this.

        Raises:
            UsageError: a place was not recorded, or the pass ran without gradients.
        """
        single = self._is_single(sites)
        keys = [self.site(place) for place in ([sites] if single else sites)]
        if create_graph:
            gradients = self._backward(self.score(target), keys, create_graph=True)
        else:
            # the target stays referenced, so its id cannot be taken by another one
            gradients = self._gradients.setdefault(id(target), (target, {}))[1]
            missing = [key for key in dict.fromkeys(keys) if key not in gradients]
            if missing:
                gradients.update(self._backward(self.score(target), missing))
        return gradients[keys[0]] if single else [gradients[key] for key in keys]

    def _backward(self, score: Tensor, keys: Sequence[Hashable], create_graph: bool = False) -> dict[Hashable, Tensor]:
        if not score.requires_grad:
            raise UsageError("the target is not attached to this pass: run it with gradients enabled, outside no_grad")
        inputs = [self.values[key] for key in keys]
        for key, value in zip(keys, inputs, strict=True):
            if not value.requires_grad:
                raise UsageError(f"{key} takes no part in differentiation (the pass ran without gradients)")
        gradients = torch.autograd.grad(
            score.sum(), inputs, retain_graph=True, create_graph=create_graph, allow_unused=True
        )
        return {
            key: torch.zeros_like(value) if gradient is None else gradient
            for key, value, gradient in zip(keys, inputs, gradients, strict=True)
        }

    def _is_single(self, sites: Any) -> bool:
        return isinstance(sites, str) or not isinstance(sites, list | tuple)


class Capture(Recorded):
    """What `capture` returns: `output` beside the recorded values (by module name, and "input").

    Attributes:
        output: whatever the module returned.
    """

    def __init__(self, values: Mapping[Any, Tensor], output: Any) -> None:
        super().__init__(values, output)
        self.output = output


def capture(module: nn.Module, x: Tensor | tuple[Any, ...], names: Iterable[str]) -> Capture:
    """Run a module once and keep the outputs of named submodules, with gradients on request.

    Args:
        module: any module; it is left as it was.
        x: its input, or a tuple of inputs; a floating one is made a leaf that takes gradients, recorded as "input".
        names: submodules as `module.named_modules()` names them. The first tensor of a tuple is kept; of a submodule
            that runs several times, the last run.

    Returns:
        A `Capture`; callable targets of its `grad` receive the module's output.

    Raises:
        UsageError: no such submodule, or it did not run or gave no tensor.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
        >>> seen = capture(net, torch.rand(2, 3, 8, 8), ["0"])
        >>> seen.grad(lambda logits: logits[:, 3], "0").shape
        torch.Size([2, 5, 6, 6])
    """
    inputs = list(x) if isinstance(x, tuple) else [x]
    values: dict[Hashable, Tensor] = {}
    if isinstance(inputs[0], Tensor) and inputs[0].is_floating_point():
        inputs[0] = _leaf(inputs[0])
        values["input"] = inputs[0]
    modules, handles = dict(module.named_modules()), []
    module_names = list(names)
    for name in module_names:
        if name not in modules:
            raise UsageError(f"{type(module).__name__} has no submodule {name!r}")
    try:
        for name in module_names:
            handles.append(modules[name].register_forward_hook(_keep(values, name)))
        output = module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name in module_names:
        if name not in values:
            raise UsageError(f"submodule {name!r} did not run in this pass, or its output holds no tensor")
    return Capture(values, output)


def _leaf(x: Tensor) -> Tensor:
    if x.requires_grad or not torch.is_grad_enabled():
        return x
    return x.detach().requires_grad_()


def _keep(values: dict[Hashable, Tensor], name: str) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor):
            return None
        values[name] = first
        # what follows gets a copy: an in-place ReLU must not overwrite the record
        copy = first.clone()
        if first is output:
            return copy
        return type(output)([copy, *output[1:]]) if type(output) in (tuple, list) else None

    return hook

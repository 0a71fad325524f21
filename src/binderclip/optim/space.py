"""Products with the Hessian over a set of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError

__all__ = ["HessianOperator", "TensorTree", "hvp"]

TensorTree: TypeAlias = "Sequence[Tensor] | Mapping[str, Tensor]"
"""One tensor a parameter: in a fixed order, or by name."""

Tree = TypeVar("Tree", bound="Sequence[Tensor] | Mapping[str, Tensor]")


class HessianOperator:
    """The Hessian of a scalar loss as a linear map: built once, applied to as many directions as one likes.

    Building costs a forward and a backward that keeps its graph, each product one more backward (Pearlmutter's
    double-backward trick); the Hessian itself is never formed. The graph is held as long as this object lives.

    Args:
        loss: a function without arguments that computes the scalar loss from the parameters, or the scalar itself with
            its graph. Prefer the function: it is called with attention in its explicit form, because the fused kernels
            have no second derivative. Bring dropout and batch norm into evaluation mode and keep the batch fixed.
        params: what to differentiate in: a module (its parameters that require a gradient), or tensors with
            `requires_grad`, in a sequence or by name.

    Raises:
        UsageError: no parameters, a frozen one, or a loss that is not a scalar with a graph.
        NotSupported: an operation without a derivative of its derivative.
    """

    def __init__(
        self, loss: Float[Tensor, ""] | Callable[[], Float[Tensor, ""]], params: nn.Module | TensorTree
    ) -> None:
        if isinstance(params, nn.Module):
            params = {name: p for name, p in params.named_parameters() if p.requires_grad}
        self._tree = dict(params) if isinstance(params, Mapping) else list(params)
        self._names, self.params = _parts(self._tree)
        if not self.params:
            raise UsageError("a Hessian needs at least one parameter")
        frozen = [self._name(i) for i, p in enumerate(self.params) if not p.requires_grad]
        if frozen:
            raise UsageError(f"parameter {frozen[0]} does not require a gradient: leave it out of params")
        value = _evaluate(loss) if callable(loss) else loss
        # a `LossOutput` is its total
        value = getattr(value, "total", value)
        if value.numel() != 1 or not value.requires_grad:
            raise UsageError(
                f"the loss must be a scalar with a graph, got shape {tuple(value.shape)}"
                + ("" if value.requires_grad else " and no graph")
            )
        self.loss = value.detach()
        grads = torch.autograd.grad(value, self.params, create_graph=True, allow_unused=True)
        self._grads = [torch.zeros_like(p) if g is None else g for p, g in zip(self.params, grads, strict=True)]

    @property
    def gradient(self) -> list[Tensor]:
        """The gradient at these parameters, detached, in their order."""
        return [grad.detach() for grad in self._grads]

    def __call__(self, direction: Tree) -> Tree:
        """H v for one direction, in the form (list or dict) in which the direction came.

        Args:
            direction: a tensor of each parameter's shape, in the same order or under the same names.

        Raises:
            UsageError: another number, other names, or another shape.
        """
        vectors = self.aligned(direction)
        curved = [(g, v) for g, v in zip(self._grads, vectors, strict=True) if g.requires_grad]
        product: Sequence[Tensor | None] = [None] * len(self.params)
        if curved:
            outputs, weights = zip(*curved, strict=True)
            product = _second_derivative(outputs, self.params, weights)
        tensors = [torch.zeros_like(p) if h is None else h for p, h in zip(self.params, product, strict=True)]
        if isinstance(direction, Mapping):
            return dict(zip(self._names or (), tensors, strict=True))  # type: ignore[return-value]
        return tensors  # type: ignore[return-value]

    def aligned(self, direction: TensorTree) -> list[Tensor]:
        """The direction's tensors in the order, dtype and place of the parameters.

        Raises:
            UsageError: it does not go with the parameters.
        """
        return aligned_direction(self._tree, direction)

    def _name(self, index: int) -> str:
        return str(index) if self._names is None else repr(self._names[index])


def hvp(
    loss: Float[Tensor, ""] | Callable[[], Float[Tensor, ""]], params: nn.Module | TensorTree, direction: Tree
) -> Tree:
    """The Hessian-vector product H v of a scalar loss, by two backward passes; H is never formed.

    For several directions at the same point build a `HessianOperator` once and call it.

    Args:
        loss: a function without arguments (preferred), or the scalar with its graph.
        params: a module, or tensors with `requires_grad`, in a sequence or by name.
        direction: v, one tensor a parameter, in the same form.

    Returns:
        H v in the form of the direction; zeros where the loss is flat or linear.

    Raises:
        UsageError: parameters, loss or direction do not fit; see `HessianOperator`.
        NotSupported: an operation without a second derivative.

    Examples:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> hvp(lambda: (w**3).sum(), [w], [torch.tensor([1.0, 1.0])])
        [tensor([ 6., 12.])]
    """
    return HessianOperator(loss, params)(direction)


def aligned_direction(params: TensorTree, direction: TensorTree) -> list[Tensor]:
    """A direction's tensors in the order, dtype and place of the parameters, detached.

    Raises:
        UsageError: another number, other names, or another shape.
    """
    names, tensors = _parts(params)
    if isinstance(direction, Mapping):
        if names is None or set(direction) != set(names):
            have = "no names (give params as a dict)" if names is None else ", ".join(names)
            raise UsageError(f"the direction has the names {', '.join(direction)}, the parameters {have}")
        vectors = [direction[name] for name in names]
    else:
        vectors = list(direction)
    if len(vectors) != len(tensors):
        raise UsageError(f"the direction has {len(vectors)} tensors for {len(tensors)} parameters")
    for i, (vector, parameter) in enumerate(zip(vectors, tensors, strict=True)):
        if vector.shape != parameter.shape:
            name = str(i) if names is None else repr(names[i])
            raise UsageError(
                f"direction {name} has shape {tuple(vector.shape)}, its parameter {tuple(parameter.shape)}"
            )
    return [v.detach().to(p) for v, p in zip(vectors, tensors, strict=True)]


def _parts(params: TensorTree) -> tuple[tuple[str, ...] | None, list[Tensor]]:
    """Names, where there are any, and tensors."""
    return (tuple(params), list(params.values())) if isinstance(params, Mapping) else (None, list(params))


def _evaluate(loss: Callable[[], Any]) -> Any:  # a scalar, or an output of the losses, which lie above this package
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        return loss()


def _second_derivative(
    outputs: Sequence[Tensor], params: Sequence[Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    try:
        return torch.autograd.grad(outputs, params, weights, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise NotSupported(
            f"an operation of this loss has no second derivative ({error}): for attention pass the loss as a function, "
            "or compute it inside torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"
        ) from error

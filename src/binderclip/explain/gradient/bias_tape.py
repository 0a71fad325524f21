"""Every operation of a forward pass as its linear part and a bias: `y = J x + b`, with `b = y - J x`.

For a convolution, a linear layer or a batch norm `b` is the bias as everybody knows it; for a GELU, a layer norm or an
attention it is the implicit bias at this input, by one forward-mode Jacobian-vector product. The operations are seen
as torch functions, so layers that are used twice, operations in place and networks of any library need no hooks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from binderclip.errors import NotSupported

CONVOLUTIONS = frozenset(
    f"conv{transposed}{axes}d" for transposed in ("", "_transpose") for axes in (1, 2, 3)
)  # fmt: skip
#: Affine in the activations: what they add is a bias in the plain sense, a layer's, of positions or of a normalisation.
AFFINE = CONVOLUTIONS | {
    "linear", "batch_norm", "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__",
    "rsub", "__isub__", "addmm", "baddbmm", "cat", "concat", "stack", "pad", "__setitem__",
}  # fmt: skip
#: Positively homogeneous or mere views: they have no bias, so nothing needs to be computed. Only for speed.
NO_BIAS = frozenset({
    "__get__", "__len__", "__getitem__", "relu", "relu_", "leaky_relu", "leaky_relu_", "max_pool2d", "avg_pool2d",
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "flatten", "unflatten", "view", "view_as", "reshape", "permute",
    "transpose", "movedim", "chunk", "split", "unbind", "squeeze", "unsqueeze", "expand", "expand_as", "repeat",
    "contiguous", "clone", "detach", "to", "float", "double", "mean", "sum", "neg", "__neg__", "max", "amax", "flip",
    "roll", "gather", "index_select", "narrow", "dim", "size", "type_as", "requires_grad_", "is_floating_point",
})  # fmt: skip
IN_PLACE = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__"})


@dataclass(frozen=True)
class BiasedOperation:
    """One biased operation of the pass.

    Attributes:
        step: its place among the operations of the pass.
        name: of the submodule that ran it, or that owns its weight; empty outside of any.
        op: the operation.
        bias: of the output's shape, or broadcast to it.
        edge: where the gradient at its output is read.
    """

    step: int
    name: str
    op: str
    bias: Tensor
    edge: GradientEdge


class BiasTape(TorchFunctionMode):
    """Writes down the biased operations on tensors that require gradients.

    Args:
        owners: names of weights, by identity.
    """

    def __init__(self, owners: dict[int, str]) -> None:
        super().__init__()
        self.owners = owners
        self.entries: list[BiasedOperation] = []
        self.steps = 0
        self.running: list[str] = []

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        op = getattr(func, "__name__", str(func))
        if op in NO_BIAS or not any(t.requires_grad for t in _tensors((args, kwargs))):
            return func(*args, **kwargs)
        self.steps += 1
        changed = _changed(op, args, kwargs)
        implicit: list[Tensor | None] | NotSupported | None = None
        if changed is not None or not _closed(op, args, kwargs):
            # Before the call itself, which may overwrite its input.
            implicit = _implicit(func, op, args, kwargs, in_place=changed is not None)
        out = func(*args, **kwargs)
        outputs = [changed] if changed is not None and out is None else list(_tensors(out))
        if not any(output.requires_grad for output in outputs):
            # `register_hook`, `retain_grad`, `numpy`, `item`: somebody looks on, and nothing goes into the score.
            return out
        if isinstance(implicit, NotSupported):
            raise implicit
        biases = [_layer_bias(op, args, kwargs, outputs[0])] if implicit is None else implicit
        for output, bias in zip(outputs, biases, strict=True):
            if bias is not None and output.requires_grad:
                name = self.running[-1] if self.running else self._owner(args, kwargs)
                self.entries.append(BiasedOperation(self.steps, name, op, bias, get_gradient_edge(output)))
        return out

    def _owner(self, args: Any, kwargs: Any) -> str:
        return next((self.owners[id(t)] for t in _tensors((args, kwargs)) if id(t) in self.owners), "")


@contextmanager
def recorded(network: nn.Module | None) -> Iterator[BiasTape]:
    """A tape that knows the names of a network's submodules while they run.

    Attention runs unfused, since the fused kernels have no forward-mode derivative.
    """
    modules = dict(network.named_modules()) if network is not None else {}
    parameters = network.named_parameters() if network is not None else []
    tape = BiasTape({id(parameter): name.rpartition(".")[0] for name, parameter in parameters})
    handles: list[Any] = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: tape.running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: _ended(tape), always_call=True))
    try:
        with sdpa_kernel(SDPBackend.MATH), tape:
            yield tape
    finally:
        for handle in handles:
            handle.remove()


def _ended(tape: BiasTape) -> None:
    tape.running.pop()


def _changed(op: str, args: Any, kwargs: Any) -> Tensor | None:
    """The tensor that an operation overwrites."""
    in_place = op in IN_PLACE or (op.endswith("_") and not op.endswith("__"))
    return args[0] if args and (in_place or kwargs.get("inplace")) else None


def _closed(op: str, args: Any, kwargs: Any) -> bool:
    """Whether the bias can be read off the arguments of a layer."""
    if op in CONVOLUTIONS or op == "linear":
        return not any(t.requires_grad for t in _tensors((args[1:], kwargs))) and len(args) > 1
    return op == "batch_norm" and _normed(args, kwargs) is not None


def _layer_bias(op: str, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
    if op == "batch_norm":
        normalised = _normed(args, kwargs)
        assert normalised is not None
        mean, variance, weight, shift, eps = normalised
        slope = 1 / torch.sqrt(variance + eps) * (1 if weight is None else weight)
        bias = -mean * slope + (0 if shift is None else shift)
    else:
        bias = args[2] if len(args) > 2 else kwargs.get("bias")
        if bias is None:
            return None
    wide = bias if op == "linear" else bias.view(-1, *[1] * (output.ndim - 2))
    return wide.detach().expand_as(output)


def _normed(args: Any, kwargs: Any) -> tuple[Any, ...] | None:
    """Running mean and variance, weight, bias and eps of a batch norm in eval mode."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = dict(zip(names, args, strict=False)) | kwargs
    if given.get("training") or given.get("running_mean") is None or given.get("running_var") is None:
        return None
    picked = (*(given.get(name) for name in names[1:5]), given.get("eps", 1e-5))
    return None if any(isinstance(t, Tensor) and t.requires_grad for t in picked) else picked


def _implicit(
    func: Callable[..., Any], op: str, args: Any, kwargs: Any, in_place: bool
) -> list[Tensor | None] | NotSupported:
    """`y - J x` of each output, None where it vanishes; the error, not raised, where torch cannot give it."""

    def dual(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not value.requires_grad:
            return value.clone() if in_place else value
        # Copies, since a tangent takes its primal's strides and an expanded tensor's cannot be written to.
        return forward_ad.make_dual(value.detach().clone(), value.detach().clone())

    with torch.no_grad(), forward_ad.dual_level():
        twins = _mapped(args, dual)
        try:
            out = func(*twins, **_mapped(kwargs, dual))
        except (RuntimeError, NotImplementedError) as error:
            refused = NotSupported(
                f"the bias of {op} cannot be found, torch has no forward derivative of it: {str(error)[:200]}"
            )
            refused.__cause__ = error
            return refused
        biases: list[Tensor | None] = []
        for output in _tensors(twins[0] if in_place and out is None else out):
            if not output.is_floating_point():
                biases.append(None)
                continue
            primal, tangent = forward_ad.unpack_dual(output)
            bias = primal if tangent is None else primal - tangent
            rounding = 8 * torch.finfo(bias.dtype).eps * float(primal.abs().max()) if primal.numel() else 0.0
            biases.append(bias.clone() if bias.numel() and float(bias.abs().max()) > rounding else None)
    return biases


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple, torch.Size):
        return type(value)([_mapped(item, change) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return change(value)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)

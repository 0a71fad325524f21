"""What the recorder does with each torch function: parameters alone, sums and joins with data, or a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.per_sample.arguments import any_source, argument, fixed, flattened, mapped, swapped, unknown
from binderclip.privacy.per_sample.layers import HANDLERS, samplewise
from binderclip.privacy.per_sample.refusals import COUPLED

if TYPE_CHECKING:
    from binderclip.privacy.per_sample.recorded import RecordedPass
    from binderclip.privacy.per_sample.sources import Source

__all__ = ["run_operation"]

ELEMENTWISE = frozenset({
    "add", "add_", "sub", "sub_", "subtract", "rsub", "mul", "mul_", "multiply", "div", "div_", "divide", "true_divide",
    "__add__", "__radd__", "__iadd__", "__sub__", "__rsub__", "__isub__", "__mul__", "__rmul__", "__imul__",
    "__truediv__", "__rtruediv__", "__itruediv__", "__div__", "__rdiv__", "maximum", "minimum", "where", "addcmul",
    "lerp", "pow", "__pow__", "__rpow__",
})  # fmt: skip
"""Lifted: the parameter becomes B copies in the graph, whose gradients are the per-sample ones."""
COPIES = frozenset({"expand", "expand_as", "repeat", "broadcast_to", "tile"})
CASTS = frozenset({"to", "type", "type_as", "float", "half", "bfloat16", "double", "contiguous", "clone"})
JOINS = frozenset({"cat", "concat", "concatenate", "stack"})
PRODUCTS = frozenset({"matmul", "__matmul__", "mm", "linear"})
FACTORIES = frozenset({"arange", "zeros", "ones", "full", "eye", "linspace", "empty", "tril", "triu"})
SAMPLEWISE = frozenset({
    "prelu", "bilinear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
    "instance_norm", "batch_norm",
})  # fmt: skip
"""Work on each row of dimension 0 by itself; handled by vmap over that operation alone."""


def run_operation(
    recorder: RecordedPass, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What the recorder does with one torch function."""
    name = getattr(func, "__name__", "")
    if name == "batch_norm" and argument(args, kwargs, "training", 5):
        raise NotSupported(f"batch normalisation mixes the samples of a batch. {COUPLED}")
    tensors = [value for value in flattened((*args, *kwargs.values())) if isinstance(value, Tensor)]
    sources = [source for source in (recorder.sources.get(id(t)) for t in tensors) if source is not None]
    if not sources:
        result = func(*args, **kwargs)
        # a tensor made of constants alone, such as sliced position numbers, is the same for every sample
        if isinstance(result, Tensor) and not result.requires_grad:
            known = all(id(t) in recorder.constants for t in tensors) if tensors else name in FACTORIES
            if known:
                recorder.constants[id(result)] = result
        return result
    if all(id(t) in recorder.sources or id(t) in recorder.constants for t in tensors):
        return _compute(recorder, func, name, args, kwargs)
    if not torch.is_grad_enabled():
        return func(*swapped(recorder, args), **swapped(recorder, kwargs))
    handler = HANDLERS.get(name)
    if handler is not None:
        return handler(recorder, func, args, kwargs)
    if name in ELEMENTWISE:
        return _lift(recorder, func, name, args, kwargs)
    if name in JOINS:
        return _join(recorder, func, name, args, kwargs)
    if name in SAMPLEWISE:
        return samplewise(recorder, func, name, args, kwargs)
    result = func(*swapped(recorder, args), **swapped(recorder, kwargs))
    if isinstance(result, Tensor) or (isinstance(result, tuple) and any(isinstance(r, Tensor) for r in result)):
        raise unknown(sources[0], name or str(func))
    return result


# -- tensors computed from parameters alone --------------------------------------------------------------------------


def _compute(recorder: RecordedPass, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run with the leaves that stand for the parameters; what comes out is a source itself."""
    from binderclip.privacy.per_sample.sources import Source

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        if source is None:
            return tensor.detach()
        return source.tensor if source.leaf is None else source.leaf

    result = func(*mapped(args, change), **mapped(kwargs, change))
    first = args[0] if args and isinstance(args[0], Tensor) else None
    origin = recorder.sources.get(id(first)) if first is not None else None
    for tensor in result if isinstance(result, (tuple, list)) else (result,):
        if not isinstance(tensor, Tensor) or not tensor.requires_grad:
            continue
        if origin is not None and (tensor is origin.leaf or tensor is origin.tensor):
            # such as .to(dtype) that changes nothing
            return first
        label = f"{origin.name if origin is not None else 'parameters'}.{name}"
        copies = origin if origin is not None and name in COPIES and _leads(origin.value, tensor) else None
        if origin is not None and origin.copies_of is not None and name in CASTS:
            base = origin.copies_of
            copies = recorder.sources[id(_compute(recorder, func, name, (base.tensor, *args[1:]), kwargs))]
        recorder.sources[id(tensor)] = Source(tensor, label, copies_of=copies)
    return result


def _leads(value: Tensor, copied: Tensor) -> bool:
    """Whether the only thing that grew is dimension 0, from 1 or from nothing."""
    padded = (1,) * (copied.ndim - value.ndim) + tuple(value.shape)
    return padded[0] == 1 and padded[1:] == tuple(copied.shape[1:])


# -- sums, products and joins with data ------------------------------------------------------------------------------


def _copies(recorder: RecordedPass, source: Source, rows: int, ndim: int, what: str) -> Tensor:
    """B copies of a source in the graph, shaped to broadcast against data of `ndim` dimensions."""
    if source.copies_of is not None:
        source = source.copies_of
    value = source.value
    padded = (1,) * (ndim - value.ndim) + tuple(value.shape)
    if len(padded) > ndim or padded[0] != 1:
        raise NotSupported(
            f"parameter {source.name!r} of shape {tuple(value.shape)} meets data of {ndim} dimensions in {what}: its "
            "dimension 0 would be the batch"
        )
    copies = value.reshape(padded).expand(rows, *padded[1:]).requires_grad_()
    recorder.use(source, what, copies)
    return copies


def _lift(recorder: RecordedPass, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    data = [t for t in flattened((*args, *kwargs.values())) if isinstance(t, Tensor) and not fixed(recorder, t)]
    widest = max(data, key=lambda t: t.ndim)
    if widest.ndim == 0 or (args and isinstance(args[0], Tensor) and _inplace(name) and fixed(recorder, args[0])):
        raise unknown(any_source(recorder, args, kwargs), name)

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else _copies(recorder, source, widest.shape[0], widest.ndim, name)

    return func(*mapped(args, change), **mapped(kwargs, change))


def _inplace(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _join(recorder: RecordedPass, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    pieces = args[0] if args else kwargs["tensors"]
    dim = argument(args, kwargs, "dim", 1) or 0
    data = next(t for t in pieces if not fixed(recorder, t))
    if dim in (0, -data.ndim):
        raise NotSupported(
            f"parameter {any_source(recorder, args, kwargs).name!r} is joined to the data along the batch"
        )

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else _copies(recorder, source, data.shape[0], data.ndim, name)

    return func(*mapped(args, change), **mapped(kwargs, change))

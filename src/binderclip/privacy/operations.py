"""The operations in which parameters may meet data, and what per-sample gradients each gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.contributions import Contribution, Convolved, Direct, Looked, Outer
from binderclip.privacy.refusals import COUPLED

if TYPE_CHECKING:
    from binderclip.privacy.recorder import Recorder, Source, Use

__all__ = ["run"]

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


def run(recorder: Recorder, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the recorder does with one torch function."""
    name = getattr(func, "__name__", "")
    if name == "batch_norm" and _argument(func, args, kwargs, "training", 5):
        raise NotSupported(f"batch normalisation mixes the samples of a batch. {COUPLED}")
    tensors = [value for value in _flat((*args, *kwargs.values())) if isinstance(value, Tensor)]
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
        return func(*_swap(recorder, args), **_swap(recorder, kwargs))
    handler = HANDLERS.get(name)
    if handler is not None:
        return handler(recorder, func, args, kwargs)
    if name in ELEMENTWISE:
        return _lift(recorder, func, name, args, kwargs)
    if name in JOINS:
        return _join(recorder, func, name, args, kwargs)
    if name in SAMPLEWISE:
        return _samplewise(recorder, func, name, args, kwargs)
    result = func(*_swap(recorder, args), **_swap(recorder, kwargs))
    if isinstance(result, Tensor) or (isinstance(result, tuple) and any(isinstance(r, Tensor) for r in result)):
        raise _unknown(sources[0], name or str(func))
    return result


def _unknown(source: Source, what: str) -> NotSupported:
    return NotSupported(
        f"parameter {source.name!r} meets the data in {what}, for which per-sample gradients are not known here; "
        "known are linear, convolution, embedding, layer/group/RMS normalisation, attention, x @ W and elementwise "
        "arithmetic. per_sample_grads(method='vmap') may handle it"
    )


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, (list, tuple)):
            found.extend(value)
        else:
            found.append(value)
    return found


def _map(tree: Any, change: Callable[[Tensor], Any]) -> Any:
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, (list, tuple)) and not isinstance(tree, torch.Size):
        return type(tree)(_map(value, change) for value in tree)
    if isinstance(tree, dict):
        return {key: _map(value, change) for key, value in tree.items()}
    return tree


def _swap(recorder: Recorder, tree: Any) -> Any:
    """The same arguments with sources detached and other parameters frozen."""

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else source.value

    return _map(tree, change)


def _argument(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], name: str, place: int) -> Any:
    return args[place] if len(args) > place else kwargs.get(name)


# -- tensors computed from parameters alone --------------------------------------------------------------------------


def _compute(recorder: Recorder, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run with the leaves that stand for the parameters; what comes out is a source itself."""
    from binderclip.privacy.recorder import Source

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        if source is None:
            return tensor.detach()
        return source.tensor if source.leaf is None else source.leaf

    result = func(*_map(args, change), **_map(kwargs, change))
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


def _copies(recorder: Recorder, source: Source, rows: int, ndim: int, what: str) -> Tensor:
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


def _lift(recorder: Recorder, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    data = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, Tensor) and not _fixed(recorder, t)]
    widest = max(data, key=lambda t: t.ndim)
    if widest.ndim == 0 or (args and isinstance(args[0], Tensor) and _inplace(name) and _fixed(recorder, args[0])):
        raise _unknown(_any_source(recorder, args, kwargs), name)

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else _copies(recorder, source, widest.shape[0], widest.ndim, name)

    return func(*_map(args, change), **_map(kwargs, change))


def _inplace(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name.startswith("__i")


def _fixed(recorder: Recorder, tensor: Tensor) -> bool:
    return id(tensor) in recorder.sources or id(tensor) in recorder.constants


def _any_source(recorder: Recorder, args: Any, kwargs: Any) -> Source:
    tensors = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, Tensor)]
    return next(recorder.sources[id(t)] for t in tensors if id(t) in recorder.sources)


def _join(recorder: Recorder, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    pieces = args[0] if args else kwargs["tensors"]
    dim = _argument(func, args, kwargs, "dim", 1) or 0
    data = next(t for t in pieces if not _fixed(recorder, t))
    if dim in (0, -data.ndim):
        raise NotSupported(
            f"parameter {_any_source(recorder, args, kwargs).name!r} is joined to the data along the batch"
        )

    def change(tensor: Tensor) -> Tensor:
        source = recorder.sources.get(id(tensor))
        return tensor if source is None else _copies(recorder, source, data.shape[0], data.ndim, name)

    return func(*_map(args, change), **_map(kwargs, change))


# -- layers ----------------------------------------------------------------------------------------------------------


class _Watch:
    """An operation's sources, and its input as it was when it was used."""

    def __init__(self, recorder: Recorder, x: Tensor, what: str) -> None:
        self.recorder, self.x, self.version, self.what = recorder, x.detach(), x._version, what
        self.uses: list[Use] = []
        self.builders: list[Callable[[Tensor], Contribution]] = []

    def add(self, tensor: Tensor | None, build: Callable[[Tensor], Contribution]) -> Tensor | None:
        """The detached value of an argument; notes the use where it is a source."""
        source = self.recorder.sources.get(id(tensor)) if tensor is not None else None
        if source is None:
            return tensor.detach() if tensor is not None else None
        self.uses.append(self.recorder.use(source, self.what))
        self.builders.append(build)
        return source.value

    def done(self, out: Tensor) -> Tensor:
        """Hook the output."""
        if not self.uses:
            return out
        return self.recorder.on_gradient(out, self.uses, self._build)

    def _build(self, grad: Tensor) -> Sequence[Contribution]:
        if self.x._version != self.version:
            raise NotSupported(f"the input of {self.uses[0].what} was changed in place after it was used")
        built = [build(grad) for build in self.builders]
        # the graph keeps its hooks, and through them the inputs, for as long as the losses live
        self.x, self.builders = self.x.new_empty(0), []
        return built

    def rows(self, tensor: Tensor) -> Tensor:
        """(B, T, features)."""
        return self.recorder.positions(tensor, self.uses[0])

    def summed(self, tensor: Tensor) -> Direct:
        """Per-sample sum over the positions."""
        rows = self.rows(tensor)
        return Direct(rows[:, 0] if rows.shape[1] == 1 else rows.sum(1))


def _linear_like(recorder: Recorder, x: Tensor, weight: Any, bias: Any, what: str, offset: int = 0) -> Tensor:
    """x W^T + b; with `offset`, only rows of W and b from there on, as many as fit the weight that is passed."""
    watch = _Watch(recorder, x, what)
    w = watch.add(weight, lambda d: Outer(watch.rows(d), watch.rows(watch.x)))
    b = watch.add(bias, lambda d: watch.summed(d))
    return watch.done(F.linear(x, w, b))  # type: ignore[arg-type]


def _linear(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias = (_argument(func, args, kwargs, n, i) for i, n in enumerate(("input", "weight", "bias")))
    if _fixed(recorder, x):
        raise _unknown(_any_source(recorder, args, kwargs), "linear with a data-dependent weight")
    return _linear_like(recorder, x, weight, bias, "linear")


def _matmul(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()))
    if _fixed(recorder, x) or weight.ndim > 2:
        raise _unknown(_any_source(recorder, args, kwargs), "a product with the parameter on the left")
    watch = _Watch(recorder, x, "matmul")
    if weight.ndim == 1:
        w = watch.add(weight, lambda d: Direct(torch.bmm(watch.rows(d[..., None]).mT, watch.rows(watch.x))[:, 0]))
    else:
        w = watch.add(weight, lambda d: Outer(watch.rows(watch.x), watch.rows(d)))
    return watch.done(torch.matmul(x, w))  # type: ignore[arg-type]


def _addmm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    bias, x, weight = args[:3]
    if kwargs or len(args) > 3 or _fixed(recorder, x) or not _fixed(recorder, bias):
        raise _unknown(_any_source(recorder, args, kwargs), "addmm")
    watch = _Watch(recorder, x, "addmm")
    w = watch.add(weight, lambda d: Outer(watch.rows(watch.x), watch.rows(d)))
    b = watch.add(bias, lambda d: watch.summed(d))
    return watch.done(torch.addmm(b, x, w))  # type: ignore[arg-type]


def _embedding(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    ids, weight, padding, max_norm, _, by_frequency, _ = (
        _argument(func, args, kwargs, n, i) for i, n in enumerate(names)
    )
    if max_norm is not None or by_frequency:
        raise NotSupported("an embedding with max_norm or scale_grad_by_freq depends on the whole batch")
    watch = _Watch(recorder, ids, "embedding")

    def build(d: Tensor) -> Contribution:
        values = watch.rows(d)
        index = watch.x.reshape(values.shape[:2])
        if padding is not None:
            index = index.masked_fill(index == padding % weight.shape[0], -1)
        return Looked(index, values, weight.shape[0])

    w = watch.add(weight, build)
    return watch.done(F.embedding(ids, w, padding))  # type: ignore[arg-type]


def _normalisation(
    recorder: Recorder, x: Tensor, weight: Any, bias: Any, channel: bool, what: str, plain: Callable[[Tensor], Tensor],
    whole: Callable[[Any, Any], Tensor],
) -> Tensor:  # fmt: skip
    """Affine normalisations: weight's gradient is the gradient times the normalised input, summed over positions."""
    watch = _Watch(recorder, x, what)

    def reduce(values: Tensor, like: Tensor) -> Direct:
        if channel:
            return Direct(values if values.ndim == 2 else values.flatten(2).sum(2))
        rows = values.reshape(recorder.batch, -1, math.prod(like.shape)) if len(values) else values.reshape(0, 1, -1)
        return Direct(rows.sum(1).reshape(-1, *like.shape))

    w = watch.add(weight, lambda d: reduce(d * plain(watch.x), weight))
    b = watch.add(bias, lambda d: reduce(d, bias))
    return watch.done(whole(w, b))


def _layer_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "bias", "eps")
    x, shape, weight, bias, eps = (_argument(func, args, kwargs, n, i) for i, n in enumerate(names))
    eps = 1e-5 if eps is None else eps
    return _normalisation(
        recorder, x, weight, bias, False, "layer_norm",
        lambda value: F.layer_norm(value, shape, eps=eps), lambda w, b: F.layer_norm(x, shape, w, b, eps),
    )  # fmt: skip


def _rms_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "normalized_shape", "weight", "eps")
    x, shape, weight, eps = (_argument(func, args, kwargs, n, i) for i, n in enumerate(names))
    return _normalisation(
        recorder, x, weight, None, False, "rms_norm",
        lambda value: F.rms_norm(value, shape, eps=eps), lambda w, b: F.rms_norm(x, shape, w, eps),
    )  # fmt: skip


def _group_norm(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "num_groups", "weight", "bias", "eps")
    x, groups, weight, bias, eps = (_argument(func, args, kwargs, n, i) for i, n in enumerate(names))
    eps = 1e-5 if eps is None else eps
    return _normalisation(
        recorder, x, weight, bias, True, "group_norm",
        lambda value: F.group_norm(value, groups, eps=eps), lambda w, b: F.group_norm(x, groups, w, b, eps),
    )  # fmt: skip


def _conv2d(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = [_argument(func, args, kwargs, n, i) for i, n in enumerate(names)]
    x, weight, bias = given[:3]
    if isinstance(given[4], str) or x.ndim != 4 or _fixed(recorder, x):
        return _samplewise(recorder, func, "conv2d", args, kwargs)
    stride, padding, dilation = (_pair(v, default) for v, default in zip(given[3:6], (1, 0, 1), strict=True))
    groups = given[6] or 1
    watch = _Watch(recorder, x, "conv2d")
    w = watch.add(weight, lambda d: Convolved(watch.x, d, weight.shape, stride, padding, dilation, groups))
    b = watch.add(bias, lambda d: Direct(d.flatten(2).sum(2)))
    return watch.done(F.conv2d(x, w, b, stride, padding, dilation, groups))  # type: ignore[arg-type]


def _pair(value: Any, default: int) -> tuple[int, int]:
    if value is None:
        return default, default
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))  # type: ignore[return-value]


def _attention(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    from binderclip.privacy.attention import attention

    return attention(recorder, func, args, kwargs, _linear_like)


def _samplewise(recorder: Recorder, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Any operation on rows: per-sample gradients by vmap over this operation alone."""
    tensors = [t for t in _flat((*args, *kwargs.values())) if isinstance(t, Tensor)]
    data = [t for t in tensors if not _fixed(recorder, t)]
    watch = _Watch(recorder, data[0], name)
    versions = [t._version for t in data]
    rows = [t.detach() for t in data]

    def gradient(source: Source, d: Tensor) -> Contribution:
        if [t._version for t in rows] != versions:
            raise NotSupported(f"an input of {name} was changed in place after it was used")

        def single(out: Tensor, *inputs: Tensor) -> Tensor:
            given = {id(t): value[None] for t, value in zip(data, inputs, strict=True)}

            def apply(value: Tensor) -> Tensor:
                def change(t: Tensor) -> Tensor:
                    other = recorder.sources.get(id(t))
                    return given.get(id(t), value if other is source else t.detach())

                return func(*_map(args, change), **_map(kwargs, change))

            return torch.func.vjp(apply, source.value)[1](out[None])[0]

        return Direct(torch.func.vmap(single)(d, *rows))

    for tensor in tensors:
        source = recorder.sources.get(id(tensor))
        if source is not None:
            watch.add(tensor, lambda d, source=source: gradient(source, d))  # type: ignore[misc]
    return watch.done(func(*_swap(recorder, args), **_swap(recorder, kwargs)))


HANDLERS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "conv2d": _conv2d,
    "multi_head_attention_forward": _attention,
}

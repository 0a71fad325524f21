"""Layers in which parameters meet data, and what per-sample gradients each gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.per_sample.arguments import any_source, argument, fixed, flattened, mapped, swapped, unknown
from binderclip.privacy.per_sample.attention import attention
from binderclip.privacy.per_sample.contributions import Contribution, Convolved, Direct, Looked, Outer
from binderclip.privacy.per_sample.recurrent import cell, layers
from binderclip.privacy.per_sample.watch import Watch, linear_like

if TYPE_CHECKING:
    from binderclip.privacy.per_sample.recorded import RecordedPass
    from binderclip.privacy.per_sample.sources import Source

__all__ = ["HANDLERS", "samplewise"]

Handler = Callable[["RecordedPass", Any, Any, Any], Any]
"""(recorder, function, args, kwargs) -> what the function gives."""


def _linear(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias = (argument(args, kwargs, n, i) for i, n in enumerate(("input", "weight", "bias")))
    if fixed(recorder, x):
        raise unknown(any_source(recorder, args, kwargs), "linear with a data-dependent weight")
    return linear_like(recorder, x, weight, bias, "linear")


def _matmul(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    x, weight = args[0], args[1] if len(args) > 1 else next(iter(kwargs.values()))
    if fixed(recorder, x) or weight.ndim > 2:
        raise unknown(any_source(recorder, args, kwargs), "a product with the parameter on the left")
    watch = Watch(recorder, x, "matmul")
    if weight.ndim == 1:
        w = watch.add(weight, lambda d: Direct(torch.bmm(watch.rows(d[..., None]).mT, watch.rows(watch.x))[:, 0]))
    else:
        w = watch.add(weight, lambda d: Outer(watch.rows(watch.x), watch.rows(d)))
    return watch.done(torch.matmul(x, w))  # type: ignore[arg-type]


def _addmm(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    bias, x, weight = args[:3]
    if kwargs or len(args) > 3 or fixed(recorder, x) or not fixed(recorder, bias):
        raise unknown(any_source(recorder, args, kwargs), "addmm")
    watch = Watch(recorder, x, "addmm")
    w = watch.add(weight, lambda d: Outer(watch.rows(watch.x), watch.rows(d)))
    b = watch.add(bias, lambda d: watch.summed(d))
    return watch.done(torch.addmm(b, x, w))  # type: ignore[arg-type]


def _embedding(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse")
    ids, weight, padding, max_norm, _, by_frequency, _ = (argument(args, kwargs, n, i) for i, n in enumerate(names))
    if max_norm is not None or by_frequency:
        raise NotSupported("an embedding with max_norm or scale_grad_by_freq depends on the whole batch")
    watch = Watch(recorder, ids, "embedding")

    def build(d: Tensor) -> Contribution:
        values = watch.rows(d)
        index = watch.x.reshape(values.shape[:2])
        if padding is not None:
            index = index.masked_fill(index == padding % weight.shape[0], -1)
        return Looked(index, values, weight.shape[0])

    w = watch.add(weight, build)
    return watch.done(F.embedding(ids, w, padding))  # type: ignore[arg-type]


def _normalisation(
    what: str, apply: Callable[..., Tensor], setting: str, *, bias: bool = True, channel: bool = False
) -> Handler:
    """Handler of an affine normalisation: weight's gradient is the gradient times the normalised input, summed up.

    Args:
        what: its name. apply: the function of torch. setting: its second argument.
        bias: whether it takes one.
        channel: one weight for each entry of dimension 1, instead of weights shaped like the trailing dimensions.
    """
    names = ("input", setting, "weight", *(("bias",) if bias else ()), "eps")

    def handle(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
        given: dict[str, Any] = {name: argument(args, kwargs, name, place) for place, name in enumerate(names)}
        x, shape, weight = given["input"], given[setting], given["weight"]
        shift: Any = given.get("bias")
        eps = {} if given["eps"] is None else {"eps": given["eps"]}
        watch = Watch(recorder, x, what)

        def reduce(values: Tensor, like: Tensor) -> Direct:
            if channel:
                return Direct(values if values.ndim == 2 else values.flatten(2).sum(2))
            rows = (
                values.reshape(recorder.batch, -1, math.prod(like.shape)) if len(values) else values.reshape(0, 1, -1)
            )
            return Direct(rows.sum(1).reshape(-1, *like.shape))

        affine = {"weight": watch.add(weight, lambda d: reduce(d * apply(watch.x, shape, **eps), weight))}
        if bias:
            affine["bias"] = watch.add(shift, lambda d: reduce(d, shift))
        return watch.done(apply(x, shape, **affine, **eps))

    return handle


def _conv2d(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    given = [argument(args, kwargs, n, i) for i, n in enumerate(names)]
    x, weight, bias = given[:3]
    if isinstance(given[4], str) or x.ndim != 4 or fixed(recorder, x):
        return samplewise(recorder, func, "conv2d", args, kwargs)
    stride, padding, dilation = (_pair(v, default) for v, default in zip(given[3:6], (1, 0, 1), strict=True))
    groups = given[6] or 1
    watch = Watch(recorder, x, "conv2d")
    w = watch.add(weight, lambda d: Convolved(watch.x, d, weight.shape, stride, padding, dilation, groups))
    b = watch.add(bias, lambda d: Direct(d.flatten(2).sum(2)))
    return watch.done(F.conv2d(x, w, b, stride, padding, dilation, groups))  # type: ignore[arg-type]


def _pair(value: Any, default: int) -> tuple[int, int]:
    if value is None:
        return default, default
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))  # type: ignore[return-value]


def _recurrent(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    return (cell if func.__name__.endswith("_cell") else layers)(recorder, func, args, kwargs)


def samplewise(recorder: RecordedPass, func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Any operation on rows: per-sample gradients by vmap over this operation alone."""
    tensors = [t for t in flattened((*args, *kwargs.values())) if isinstance(t, Tensor)]
    data = [t for t in tensors if not fixed(recorder, t)]
    watch = Watch(recorder, data[0], name)
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

                return func(*mapped(args, change), **mapped(kwargs, change))

            return torch.func.vjp(apply, source.value)[1](out[None])[0]

        return Direct(torch.func.vmap(single)(d, *rows))

    for tensor in tensors:
        source = recorder.sources.get(id(tensor))
        if source is not None:
            watch.add(tensor, lambda d, source=source: gradient(source, d))  # type: ignore[misc]
    return watch.done(func(*swapped(recorder, args), **swapped(recorder, kwargs)))


HANDLERS: dict[str, Handler] = {
    "linear": _linear,
    "matmul": _matmul,
    "__matmul__": _matmul,
    "mm": _matmul,
    "addmm": _addmm,
    "embedding": _embedding,
    "layer_norm": _normalisation("layer_norm", F.layer_norm, "normalized_shape"),
    "rms_norm": _normalisation("rms_norm", F.rms_norm, "normalized_shape", bias=False),
    "group_norm": _normalisation("group_norm", F.group_norm, "num_groups", channel=True),
    "conv2d": _conv2d,
    "multi_head_attention_forward": attention,
    **{f"{kind}{end}": _recurrent for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu") for end in ("", "_cell")},
}

"""Recurrent layers, step by step, as the operations that per-sample gradients are known for.

The weights on the state meet the data once a step. Zeros are added to what they give: the gradient of these zeros is
that of all steps at once, so that a weight has one contribution with T positions instead of T contributions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.per_sample.arguments import fixed
from binderclip.privacy.per_sample.contributions import Outer
from binderclip.privacy.per_sample.watch import Watch, linear_like

if TYPE_CHECKING:
    from binderclip.privacy.per_sample.recorded import RecordedPass

__all__ = ["GATES", "cell", "layers"]

State = tuple[Tensor, ...]
"""(h,), or (h, c) of an LSTM, each (B, H)."""
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Of the input and of the state, and their biases."""


def _lstm(x: Tensor, h: Tensor, state: State) -> State:
    i, f, g, o = (x + h).chunk(4, dim=-1)
    c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def _gru(x: Tensor, h: Tensor, state: State) -> State:
    (xr, xz, xn), (hr, hz, hn) = x.chunk(3, dim=-1), h.chunk(3, dim=-1)
    z = (xz + hz).sigmoid()
    new = (xn + (xr + hr).sigmoid() * hn).tanh()
    return ((1 - z) * new + z * state[0],)


def _tanh(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).tanh(),)


def _relu(x: Tensor, h: Tensor, state: State) -> State:
    return ((x + h).relu(),)


GATES = {"lstm": _lstm, "gru": _gru, "rnn_tanh": _tanh, "rnn_relu": _relu}
"""(projected input, projected state, state) -> next state, in the order of torch's packed weights."""


def layers(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, ...]:
    """`nn.LSTM`, `nn.GRU` and `nn.RNN` of any depth, in one or both directions.

    Args:
        recorder: of the pass.
        func, args, kwargs: torch's call, by position.

    Returns:
        What torch's function gives: all outputs, and the last states.

    Raises:
        NotSupported: packed sequences, `proj_size`, or a learned initial state.
    """
    name = func.__name__
    if isinstance(args[3], (list, tuple)):
        raise NotSupported(
            f"private training knows no {name} on packed sequences: pad them, and leave the padding out of the loss"
        )
    x, first, flat, biases, depth, dropout, training, bidirectional, batch_first = args
    first = tuple(first) if isinstance(first, (list, tuple)) else (first,)
    _check(recorder, name, (x, *first))
    each, ways = 4 if biases else 2, 2 if bidirectional else 1
    if len(flat) != each * depth * ways:
        raise NotSupported(f"private training knows no {name} with proj_size")
    h = x if batch_first else x.transpose(0, 1)
    last: list[State] = []
    for layer in range(depth):
        outs = []
        for way in range(ways):
            place = layer * ways + way
            group = tuple(flat[place * each : (place + 1) * each])
            weights: Weights = group if biases else (*group, None, None)  # type: ignore[assignment]
            state = tuple(part[place] for part in first)
            out, state = _direction(recorder, name, h, state, weights, backwards=way == 1)
            outs.append(out)
            last.append(state)
        h = outs[0] if ways == 1 else torch.cat(outs, dim=-1)
        if layer < depth - 1:
            h = F.dropout(h, dropout, training)
    out = h if batch_first else h.transpose(0, 1)
    return out, *(torch.stack(parts) for parts in zip(*last, strict=True))


def _direction(
    recorder: RecordedPass,
    name: str,
    x: Float[Tensor, "B T I"],
    state: State,
    weights: Weights,
    *,
    backwards: bool,
) -> tuple[Float[Tensor, "B T H"], State]:
    """One layer in one direction: its outputs in the order of x, and its last state."""
    projected = linear_like(recorder, x, weights[0], weights[2], f"{name}'s input")
    watch = Watch(recorder, x, f"{name}'s state")
    w = watch.add(weights[1], lambda d: Outer(watch.rows(d), watch.rows(watch.x)))
    b = watch.add(weights[3], lambda d: watch.summed(d))
    zeros = watch.done(torch.zeros_like(projected))
    before, outs = [], []
    steps = range(x.shape[1])
    for t in reversed(steps) if backwards else steps:
        before.append(state[0].detach())
        state = GATES[name](projected[:, t], F.linear(state[0], w, b) + zeros[:, t], state)  # type: ignore[arg-type]
        outs.append(state[0])
    if backwards:
        before, outs = before[::-1], outs[::-1]
    watch.x, watch.version = torch.stack(before, dim=1), 0
    return torch.stack(outs, dim=1), state


def cell(recorder: RecordedPass, func: Any, args: Any, kwargs: Any) -> Any:
    """One step: `nn.LSTMCell`, `nn.GRUCell` and `nn.RNNCell`.

    Raises:
        NotSupported: a learned initial state.
    """
    name = func.__name__.removesuffix("_cell")
    x, state, w_ih, w_hh, *biases = args
    state = tuple(state) if isinstance(state, (list, tuple)) else (state,)
    _check(recorder, name, (x, *state))
    b_ih, b_hh = biases or (None, None)
    projected = linear_like(recorder, x, w_ih, b_ih, f"{name}'s input")
    result = GATES[name](projected, linear_like(recorder, state[0], w_hh, b_hh, f"{name}'s state"), state)
    return result if len(result) > 1 else result[0]


def _check(recorder: RecordedPass, name: str, data: tuple[Tensor, ...]) -> None:
    if any(id(tensor) in recorder.sources for tensor in data):
        raise NotSupported(
            f"private training knows no {name} whose input or initial state is a parameter: add it to the data instead"
        )
    if fixed(recorder, data[0]):
        raise NotSupported(f"{name} sees an input that is the same for every sample")

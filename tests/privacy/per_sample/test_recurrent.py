"""Recurrent layers: per-sample gradients against one backward pass a sample and against Opacus; what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from opacus import GradSampleModule
from opacus.layers import DPGRU, DPLSTM
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from binderclip.errors import NotSupported
from binderclip.privacy import FlatClip, clipped_sum, per_sample_grads, per_sample_norms

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_layers": 3},
    "both-ways": {"num_layers": 2, "bidirectional": True},
    "no-bias": {"bias": False, "bidirectional": True},
}


class Reader(nn.Module):
    """A recurrent layer that is read at every step and at its last state, behind a layer and before another."""

    def __init__(self, kind: type[nn.RNNBase], batch_first: bool, **settings: Any) -> None:
        super().__init__()
        self.first, self.layer = nn.Linear(5, 4), kind(4, 3, batch_first=batch_first, **settings)
        self.last = nn.Linear(6 if settings.get("bidirectional") else 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        h = self.first(x)
        out, state = self.layer(h if self.layer.batch_first else h.transpose(0, 1))
        out = out if self.layer.batch_first else out.transpose(0, 1)
        return self.last(out), state if isinstance(state, tuple) else (state,)


def loss(model: nn.Module, x: Tensor) -> Tensor:
    out, states = model(x)
    return out.square().sum((1, 2)) + sum(state.pow(3).sum((0, 2)) for state in states)


def looped(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One ordinary backward pass a sample."""
    rows = []
    for i in range(len(x)):
        grads = torch.autograd.grad(loss(model, x[i : i + 1]).sum(), list(model.parameters()))
        rows.append(grads)
    return {
        name: torch.stack(parts)
        for (name, _), parts in zip(model.named_parameters(), zip(*rows, strict=True), strict=True)
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("batch_first", [True, False])
def test_they_equal_a_loop_over_the_samples(kind: str, shape: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Reader(KINDS[kind], batch_first, **SHAPES[shape]).double()
    x = torch.randn(5, 7, 5, dtype=torch.float64)
    want = looped(model, x)
    ours = per_sample_grads(model, loss, x, method="hooks")
    assert sorted(ours) == sorted(want)
    for name, grad in want.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-9, atol=1e-12)
    norms = torch.sqrt(sum(grad.flatten(1).square().sum(1) for grad in want.values()))
    torch.testing.assert_close(per_sample_norms(model, loss, x), norms)
    limit = float(norms.median())
    found = clipped_sum(model, loss, x, rule=FlatClip(limit))
    for name, grad in want.items():
        torch.testing.assert_close(found.grads[name], torch.einsum("b,b...->...", (limit / norms).clamp(max=1), grad))


@pytest.mark.parametrize(("kind", "peer"), [(nn.LSTM, DPLSTM), (nn.GRU, DPGRU)])
def test_they_equal_those_of_opacus(kind: type[nn.RNNBase], peer: Any) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    layer = kind(4, 3, **settings)
    theirs = peer(4, 3, **settings)
    theirs.load_state_dict(layer.state_dict())
    watched = GradSampleModule(theirs, loss_reduction="sum")
    x = torch.randn(5, 6, 4)
    watched(x)[0].pow(2).sum().backward()
    ours = per_sample_grads(layer, lambda m, x: m(x)[0].pow(2).sum((1, 2)), x, method="hooks")
    norms = torch.sqrt(sum(p.grad_sample.flatten(1).square().sum(1) for p in watched.parameters()))
    torch.testing.assert_close(torch.sqrt(sum(g.flatten(1).square().sum(1) for g in ours.values())), norms)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_that_are_stepped_by_hand_equal_a_loop_too(kind: Any) -> None:
    class Stepped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = kind(5, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
            state, outs = None, []
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
                outs.append(state[0] if isinstance(state, tuple) else state)
            return torch.stack(outs, 1), ()

    torch.manual_seed(0)
    model, x = Stepped().double(), torch.randn(4, 3, 5, dtype=torch.float64)
    ours = per_sample_grads(model, loss, x, method="hooks")
    for name, grad in looped(model, x).items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-9, atol=1e-12)


def test_a_frozen_part_and_a_given_state_are_fine() -> None:
    torch.manual_seed(0)
    layer, x = nn.GRU(4, 3, batch_first=True).double(), torch.randn(5, 6, 4, dtype=torch.float64)
    layer.weight_hh_l0.requires_grad_(False)
    start = torch.randn(1, 5, 3, dtype=torch.float64)

    def given(m: nn.Module, x: Tensor, start: Tensor) -> Tensor:
        return m(x, start.transpose(0, 1).contiguous())[0].sum((1, 2))

    ours = per_sample_grads(layer, given, x, start.transpose(0, 1), method="hooks")
    assert sorted(ours) == ["bias_hh_l0", "bias_ih_l0", "weight_ih_l0"]
    total = torch.autograd.grad(layer(x, start)[0].sum(), [p for p in layer.parameters() if p.requires_grad])
    for (name, _), whole in zip([p for p in layer.named_parameters() if p[1].requires_grad], total, strict=True):
        torch.testing.assert_close(ours[name].sum(0), whole)


def test_what_is_not_known_is_refused_by_its_reason() -> None:
    x, rule = torch.randn(3, 4, 5), FlatClip(1.0)
    with pytest.raises(NotSupported, match="lstm with proj_size"):
        clipped_sum(nn.LSTM(5, 4, proj_size=2, batch_first=True), lambda m, x: m(x)[0].sum((1, 2)), x, rule=rule)
    packed = lambda m, x: m(pack_padded_sequence(x, [4, 3, 2], batch_first=True))[1][0].sum(1)  # noqa: E731
    with pytest.raises(NotSupported, match="gru on packed sequences: pad them"):
        clipped_sum(nn.GRU(5, 4, batch_first=True), packed, x, rule=rule)

    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.start = nn.GRU(5, 4, batch_first=True), nn.Parameter(torch.zeros(1, 1, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x, self.start.expand(-1, len(x), -1).contiguous())[0].sum((1, 2))

    with pytest.raises(NotSupported, match="initial state is a parameter"):
        clipped_sum(Started(), lambda m, x: m(x), x, rule=rule)
    attention = nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True)
    with pytest.raises(NotSupported, match="no attention with bias_k, bias_v"):
        clipped_sum(attention, lambda m, x: m(x, x, x)[0].sum((1, 2)), torch.randn(3, 4, 6), rule=rule)

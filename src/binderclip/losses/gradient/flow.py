"""Keep a recurrent network's error signal alive: a penalty on how each step changes its length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number

__all__ = ["GradientFlowPenalty", "gradient_flow", "unroll"]

Slope = Callable[[Tensor], Tensor]

# derivative of the activation, written as a function of the activation's own value
SLOPES: dict[str, Slope] = {
    "tanh": lambda h: 1 - h * h,
    "sigmoid": lambda h: h * (1 - h),
    "relu": lambda h: (h > 0).to(h),
    "identity": torch.ones_like,
}


class GradientFlowPenalty:
    """Penalise steps of back-propagation through time that change the length of the error signal.

    For h_t = act(W h_{t-1} + ...) let d_t = dC/dh_t (total derivative) and a_t = W^T (d_t * act'(h_t)), its image one
    step earlier. With r_t = (||a_t|| / ||d_t||)^power,

        Omega = sum_t mean_b (r_tb - 1)^2 / sum_t mean_b [||d_tb||^2 >= floor],    t = 1..T,

    where a sample below the floor counts r = 1. Only the immediate derivative is used: d_t and h_t are constants, and
    alpha * dOmega/dW is added to W's gradient alone. Call it BEFORE clipping, in one of two ways:

        penalty(states, loss, W)    before loss.backward(), which it leaves possible: one more pass through the states
        penalty(states, None, W)    after loss.backward(), where every state had `retain_grad()` called: no extra pass

    The states must be the network's own steps, each computed from the one before: those of `unroll` for an `nn.RNN`,
    whose fused output hides them. Without a loss-scaling GradScaler, and in each process for itself.

    Args:
        alpha: weight of the gradient that is added; 0 only measures.
        power: 2 compares squared lengths (the authors' program), 1 lengths (the paper).
        activation: "tanh", "sigmoid", "relu", "identity", or a function from h_t to act' at it.
        floor: squared length of d_t below which a sample is left out, in units of the loss.

    Raises:
        UsageError: an unknown activation or power, a negative alpha or floor.

    Examples:
        >>> cell = nn.RNN(3, 4, batch_first=True)
        >>> states = unroll(cell, torch.randn(2, 5, 3))
        >>> loss = states[-1].square().mean()
        >>> omega = GradientFlowPenalty(alpha=2.0)(states, loss, cell.weight_hh_l0)
        >>> loss.backward()
        >>> bool(omega > 0), cell.weight_hh_l0.grad.shape
        (True, torch.Size([4, 4]))

    Paper: On the difficulty of training recurrent neural networks, arXiv 1211.5063 (`power=2` is the form of the
    published program pascanur/trainingRNNs).
    """

    def __init__(
        self,
        alpha: float = 2.0,
        *,
        power: Literal[1, 2] = 2,
        activation: str | Slope = "tanh",
        floor: float = 1e-20,
    ) -> None:
        check_number("alpha", alpha, least=0)
        _check(power, activation, floor)
        self.alpha, self.power, self.activation, self.floor = float(alpha), power, activation, float(floor)

    def __call__(
        self, states: Sequence[Float[Tensor, "*B n"]], loss: Float[Tensor, ""] | None, weight: Float[Tensor, "n n"]
    ) -> Float[Tensor, ""]:
        """Add alpha * dOmega/dW to `weight.grad`.

        Args:
            states: h_1 .. h_T, without the initial h_0; each (B, n).
            loss: a scalar of the states' graph, which is kept; None after a backward with retained gradients.
            weight: the recurrent matrix as torch keeps it: row i makes unit i of the next state.

        Returns:
            Omega, detached, 0-dim.

        Raises:
            UsageError: no states; shapes that do not match; a state that the loss does not depend on.
        """
        if not states:
            raise UsageError("the gradient-flow penalty needs at least one hidden state")
        errors = _retained(states) if loss is None else _total_derivatives(states, loss)
        omega, grad = gradient_flow(
            torch.stack(errors),
            torch.stack([state.detach() for state in states]),
            weight,
            power=self.power,
            activation=self.activation,
            floor=self.floor,
        )
        if self.alpha > 0:
            grad = (self.alpha * grad).to(weight.dtype)
            weight.grad = grad if weight.grad is None else weight.grad + grad
        return omega

    def __repr__(self) -> str:
        return f"GradientFlowPenalty(alpha={self.alpha:g}, power={self.power}, activation={self.activation!r})"


def gradient_flow(
    errors: Float[Tensor, "T *B n"],
    states: Float[Tensor, "T *B n"],
    weight: Float[Tensor, "n n"],
    *,
    power: Literal[1, 2] = 2,
    activation: str | Slope = "tanh",
    floor: float = 1e-20,
) -> tuple[Float[Tensor, ""], Float[Tensor, "n n"]]:
    """Omega and its immediate derivative in W, from error signals and states that are taken as constants.

    Args:
        errors: d_1 .. d_T.
        states: h_1 .. h_T.
        weight: the recurrent matrix, output dimension first.
        power, activation, floor: see `GradientFlowPenalty`.

    Returns:
        Omega (0-dim) and dOmega/dW, both detached, in float32 or better.

    Raises:
        UsageError: shapes that do not match, or an unknown choice.
    """
    slope = _check(power, activation, floor)
    n = states.shape[-1]
    if errors.shape != states.shape or weight.shape != (n, n):
        raise UsageError(
            f"hidden states {tuple(states.shape)}, their derivatives {tuple(errors.shape)} and the recurrent matrix "
            f"{tuple(weight.shape)} do not match: expected (T, B, n) twice and (n, n)"
        )
    dtype = torch.promote_types(weight.dtype, torch.float32)
    d, h = (x.detach().to(dtype).reshape(-1, n) for x in (errors, states))
    with torch.enable_grad():
        w = weight.detach().to(dtype).requires_grad_()
        image = (d * slope(h)) @ w
        length = d.square().sum(1)
        kept = length >= floor
        safe = torch.where(kept, length, 1)
        # vector_norm has the derivative 0 at 0 (units that are all switched off), sqrt has none
        distance = torch.linalg.vector_norm(image, dim=1)
        ratio = image.square().sum(1) / safe if power == 2 else distance / safe.sqrt()
        squares = torch.where(kept, ratio - 1, 0).square()
        omega = squares.sum() / kept.sum().clamp(min=1)
        (grad,) = torch.autograd.grad(omega, w)
    return omega.detach(), grad


def unroll(
    rnn: nn.RNN | nn.RNNCell,
    inputs: Float[Tensor, "_ _ d"],
    initial: Float[Tensor, "B n"] | None = None,
) -> list[Float[Tensor, "B n"]]:
    """The states h_1 .. h_T of an `nn.RNN` or `nn.RNNCell` with its own weights, each a step of the autograd graph.

    The numbers are those of the module's forward, which computes all steps in one fused call and so hides the
    derivative with respect to a state from autograd. The recurrent matrix is `rnn.weight_hh_l0`, or a cell's
    `weight_hh`.

    Args:
        rnn: one layer, one direction, any `nonlinearity`; dropout acts between layers only, so there is none.
        inputs: batch first, unless the `nn.RNN` says `batch_first=False`: then (T, B, d).
        initial: h_0, default zeros.

    Raises:
        NotSupported: several layers, two directions, or a gated network.
        UsageError: inputs that are not three-dimensional.
    """
    if isinstance(rnn, nn.RNN):
        if rnn.num_layers != 1 or rnn.bidirectional:
            raise NotSupported(
                f"unroll() takes one layer in one direction, got {rnn.num_layers} layers"
                + (" in two directions" if rnn.bidirectional else "")
                + ": chain nn.RNNCell modules and pass each one's own states"
            )
        weights = [rnn.weight_ih_l0, rnn.weight_hh_l0, *((rnn.bias_ih_l0, rnn.bias_hh_l0) if rnn.bias else ())]
        steps_first = not rnn.batch_first
    elif isinstance(rnn, nn.RNNCell):
        weights = [rnn.weight_ih, rnn.weight_hh, *((rnn.bias_ih, rnn.bias_hh) if rnn.bias else ())]
        steps_first = False
    else:
        raise NotSupported(f"unroll() takes an nn.RNN or nn.RNNCell, got {type(rnn).__name__}")
    if inputs.ndim != 3:
        raise UsageError(f"inputs must be (batch, steps, width), got shape {tuple(inputs.shape)}")
    x = inputs if steps_first else inputs.transpose(0, 1)
    bias = weights[2] + weights[3] if len(weights) == 4 else None
    drive = nn.functional.linear(x, weights[0], bias)
    act = torch.tanh if rnn.nonlinearity == "tanh" else torch.relu
    state = drive.new_zeros(drive.shape[1:]) if initial is None else initial
    states, back = [], weights[1].T
    for step in drive.unbind(0):
        state = act(torch.addmm(step, state, back))
        states.append(state)
    return states


def _check(power: int, activation: str | Slope, floor: float) -> Slope:
    if power not in (1, 2):
        raise UsageError(f"power must be 1 (lengths) or 2 (squared lengths), got {power!r}")
    check_number("floor", floor, above=0)
    if callable(activation):
        return activation
    if activation not in SLOPES:
        raise UsageError(f"activation must be one of {', '.join(SLOPES)} or a function of h, got {activation!r}")
    return SLOPES[activation]


def _total_derivatives(states: Sequence[Tensor], loss: Tensor) -> list[Tensor]:
    if loss.numel() != 1:
        raise UsageError(f"the loss must be a scalar, got shape {tuple(loss.shape)}")
    outside = [t for t, state in enumerate(states, 1) if not state.requires_grad]
    if outside or not loss.requires_grad:
        where = f"hidden state {outside[0]}" if outside else "the loss"
        raise UsageError(f"{where} has no graph: compute it with gradients enabled and without detach()")
    errors = torch.autograd.grad(loss, list(states), retain_graph=True, allow_unused=True)
    _all_reached(errors)
    return list(errors)


def _retained(states: Sequence[Tensor]) -> list[Tensor]:
    missing = [t for t, state in enumerate(states, 1) if not (state.retains_grad or state.is_leaf)]
    if missing:
        raise UsageError(
            f"hidden state {missing[0]} kept no gradient: call .retain_grad() on every state before loss.backward(), "
            "or pass the loss before it"
        )
    errors = [state.grad for state in states]
    _all_reached(errors)
    return [error for error in errors if error is not None]


def _all_reached(errors: Sequence[Tensor | None]) -> None:
    missing = [t for t, error in enumerate(errors, 1) if error is None]
    if missing:
        raise UsageError(
            f"the loss does not depend on hidden state {missing[0]} of {len(errors)}: pass the states that the next "
            "step was computed from, up to the last one that the loss sees (slices of nn.RNN's output are copies; "
            "losses.unroll gives the states)"
        )

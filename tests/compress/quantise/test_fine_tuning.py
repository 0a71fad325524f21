"""Fine-tuning with rounded weights: what is stored is what the last forward saw, and gradients go straight through."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from binderclip.compress import fine_tune_rounded, pack_weight, quantize_weights
from binderclip.errors import UsageError
from binderclip.models.files.compact import dequantise


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tied(nn.Module):
    """Two layers with one weight between attention and a last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(64, 4, batch_first=True)
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(self.attn(x, x, x, need_weights=False)[0]).relu())


def prepared() -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    teacher = Tied().eval()
    return teacher, copy.deepcopy(teacher), {name: value.detach().clone() for name, value in teacher.named_parameters()}


def test_the_stored_weights_are_those_of_the_last_forward_and_nearer_to_the_teacher() -> None:
    teacher, student, weights = prepared()
    x = draws(8, 5, 64)
    packed = quantize_weights(student, lambda other: other(x))
    with torch.no_grad():
        target, first = teacher(x), student(x)
    losses: list[float] = []

    def loss(batch: Tensor) -> Tensor:
        value = nn.functional.mse_loss(student(batch), target)
        losses.append(float(value.detach()))
        return value

    tuned, _ = fine_tune_rounded(student, packed, weights, loss, [x] * 40, steps=40, lr=1e-3)
    assert losses[0] == pytest.approx(float(nn.functional.mse_loss(first, target)), rel=1e-5)
    stored = dequantise(tuned.tensors)
    parameters = dict(student.named_parameters())
    assert set(stored) == {"attn.in_proj_weight", "attn.out_proj.weight", "first.weight"}
    assert all(torch.equal(parameters[name], value) for name, value in stored.items())
    assert student.second.weight is student.first.weight
    assert float(loss(x).detach()) < 0.7 * losses[0]


def test_one_step_of_sgd_is_that_of_the_gradient_at_the_rounded_weight() -> None:
    linear = nn.Linear(64, 32, bias=False)
    weight, x = linear.weight.detach().clone(), draws(4, 64)
    packed = quantize_weights(linear, lambda other: other(x), correct=False)
    # loss = sum(x W^T): its gradient is the sum of the rows of x, whatever W is
    fine_tune_rounded(
        linear, packed, {"weight": weight}, lambda batch: linear(batch).sum(), [x], steps=1,
        optimizer=torch.optim.SGD(linear.parameters(), lr=0.01),
    )  # fmt: skip
    moved = weight - 0.01 * x.sum(0)
    assert torch.equal(linear.weight, dequantise(pack_weight("weight", moved))["weight"])


def test_an_interruption_leaves_plain_layers_and_a_missing_weight_is_named() -> None:
    _, student, weights = prepared()
    packed = quantize_weights(student, lambda other: other(draws(2, 5, 64)))

    def loss(batch: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fine_tune_rounded(student, packed, weights, loss, [draws(2, 5, 64)], steps=1)
    assert type(student.first) is nn.Linear
    with pytest.raises(UsageError, match=r"first\.weight has no float weight"):
        fine_tune_rounded(student, packed, {n: w for n, w in weights.items() if n != "first.weight"}, loss, [], steps=1)
    with pytest.raises(UsageError, match="steps"):
        fine_tune_rounded(student, packed, weights, loss, [], steps=0)

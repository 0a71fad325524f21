"""Scores by the gradients of attention (p071, arXiv 2408.16232): finite differences and linear heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain import attention_gradient_scores


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VALUES, MIX = drawn(2, 3, 5, 4, seed=1), drawn(3, 6, 4, 2, 3, seed=2)  # (B, heads, L, d), (heads, Q, d, h, w)


def network(weights: Tensor) -> Tensor:
    """Outputs (B, h, w) that depend on the attention in a curved way."""
    return torch.tanh(torch.einsum("bnqk,bnkd,nqdhw->bhw", weights, VALUES, MIX))


def attention() -> Tensor:
    return drawn(2, 3, 6, 5).softmax(-1).requires_grad_()


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_scores_are_sums_of_finite_differences(chunk: int) -> None:
    weights = attention()
    absolute = attention_gradient_scores(network(weights), weights, [1, 4], chunk=chunk)
    positive = attention_gradient_scores(network(weights), weights, [1, 4], kind="positive", chunk=chunk)
    free, delta = weights.detach(), 1e-6
    expected, kept = torch.zeros(2, 2, 2, 3).double(), torch.zeros(2, 2, 2, 3).double()
    for row, token in enumerate((1, 4)):
        for head in range(3):
            for query in range(6):
                moved = free.clone()
                moved[:, head, query, token] += delta
                slope = (network(moved) - network(free)) / delta
                expected[row] += slope.abs()
                kept[row] += free[:, head, query, token, None, None] * slope.clamp(min=0)
    torch.testing.assert_close(absolute, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(positive, kept, rtol=1e-4, atol=1e-5)


def test_a_token_whose_value_is_zero_scores_nothing() -> None:
    weights, values = attention(), VALUES.clone()
    values[:, :, 2] = 0
    outputs = torch.einsum("bnqk,bnkd,nqdhw->bhw", weights, values, MIX)
    scores = attention_gradient_scores(outputs, weights, [2, 3])
    assert bool((scores[0] == 0).all())
    assert bool((scores[1] > 0).all())


def test_in_a_linear_network_of_positive_parts_the_scores_of_all_tokens_are_the_output() -> None:
    weights = attention()
    outputs = torch.einsum("bnqk,bnkd,nqdhw->bhw", weights, VALUES.abs(), MIX.abs())
    scores = attention_gradient_scores(outputs, weights, range(5), kind="positive")
    torch.testing.assert_close(scores.sum(0), outputs.detach())


def test_wrong_tokens_and_graphs_are_refused() -> None:
    weights = attention()
    outputs = network(weights)
    with pytest.raises(UsageError, match="some of 0 to 4"):
        attention_gradient_scores(outputs, weights, [5])
    with pytest.raises(UsageError, match="some of 0 to 4"):
        attention_gradient_scores(outputs, weights, [])
    with pytest.raises(UsageError, match="no graph"):
        attention_gradient_scores(outputs.detach(), weights, [1])
    with pytest.raises(UsageError, match="1 rows and the attention 2"):
        attention_gradient_scores(outputs[:1], weights, [1])
    with pytest.raises(UsageError, match="kind"):
        attention_gradient_scores(outputs, weights, [1], kind="signed")  # type: ignore[arg-type]

"""How much an output depends on the attention to a word: gradients of every output with respect to the attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

__all__ = ["AttentionScoreKind", "attention_gradient_scores"]

AttentionScoreKind = Literal["absolute", "positive"]


def attention_gradient_scores(
    outputs: Float[Tensor, "B *shape"],
    weights: Float[Tensor, "B heads Q L"],
    tokens: Sequence[int],
    *,
    kind: AttentionScoreKind = "absolute",
    chunk: int = 64,
) -> Float[Tensor, "tokens B *shape"]:
    """A score of every output element for each token: gradients with respect to the attention to it, summed.

    `absolute` sums `|d out / d W|` over heads and queries (Abs-Grad-SAM); `positive` sums `W relu(d out / d W)`
    (Grad-SAM). Element by element, as many backward passes as a picture has outputs, `chunk` at a time.

    Args:
        outputs: of a network, with a graph to the attention; rows must not depend on each other.
        weights: the attention probabilities that the network has used, not a copy.
        tokens: keys L whose attention counts.
        kind: `absolute` or `positive`.
        chunk: backward passes that are run at once.

    Raises:
        UsageError: no token, one that is none, another number of rows, or outputs without a graph to the attention.

    Paper: Enhancing Conditional Image Generation with Explainable Latent Space Manipulation (arXiv 2408.16232); Barkan
    et al., Grad-SAM (arXiv 2204.11073).

    Examples:
        >>> weights = torch.full((1, 1, 2, 3), 1 / 3, requires_grad=True)
        >>> values = torch.tensor([[1.0], [-2.0], [0.0]])
        >>> attention_gradient_scores((weights @ values)[:, 0, :, 0], weights, [1, 2]).tolist()
        [[[2.0, 2.0]], [[0.0, 0.0]]]
    """
    check_choice("kind", kind, ("absolute", "positive"))
    check_whole("chunk", chunk, least=1)
    if not tokens or not all(0 <= token < weights.shape[-1] for token in tokens):
        raise UsageError(f"tokens must be some of 0 to {weights.shape[-1] - 1}, got {list(tokens)}")
    if len(outputs) != len(weights):
        raise UsageError(f"outputs have {len(outputs)} rows and the attention {len(weights)}")
    if not outputs.requires_grad or not weights.requires_grad:
        raise UsageError("outputs have no graph to the attention: run the network with gradients on")
    flat, rows = outputs.flatten(1), list(tokens)  # (B, O)
    count, scores = flat.shape[1], []
    for first in range(0, count, chunk):
        units = torch.eye(count, dtype=flat.dtype, device=flat.device)[first : first + chunk]
        # one unit vector for all rows of the batch: each row's outputs depend on its own attention alone
        gradient = torch.autograd.grad(
            flat, weights, units[:, None].expand(-1, len(flat), -1), retain_graph=True, is_grads_batched=True
        )[0][..., rows]  # (chunk, B, heads, Q, tokens)
        if kind == "absolute":
            scores.append(gradient.abs().sum((2, 3)))
        else:
            scores.append((weights.detach()[..., rows] * gradient.relu()).sum((2, 3)))
    return torch.cat(scores).permute(2, 1, 0).unflatten(2, outputs.shape[1:])

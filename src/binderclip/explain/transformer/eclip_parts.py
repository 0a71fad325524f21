"""What Grad-ECLIP is made of: gradients at a block's attention output, values, and how alike queries and keys are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.models.towers.block import Block, join_heads, split_heads

if TYPE_CHECKING:
    from binderclip.models.towers.base import Stack
    from binderclip.models.towers.tokens import Tokens


@dataclass(frozen=True)
class Attended:
    """One block's attention, heads side by side.

    Attributes:
        block: the block.
        q, k, v: queries, keys and values.
        out: attention times values, before the output projection; takes part in the pass.
    """

    block: Block
    q: Float[Tensor, "B L D"]
    k: Float[Tensor, "B L D"]
    v: Float[Tensor, "B L D"]
    out: Float[Tensor, "B L D"]


def similarity(
    attended: Attended, reader: Int[Tensor, "B"], keep: Bool[Tensor, "B L"], *, projected: bool
) -> Float[Tensor, "B L"]:
    """Cosine of the reading token's query with every key, from 0 at the least to 1 at the most alike of those kept.

    Where all are equally alike (a block that attends uniformly) there is nothing to tell, and every token gets 1.

    Args:
        attended: the block.
        reader: place of the token that is read off.
        keep: True for tokens that are compared.
        projected: put queries and keys through the block's output projection first, as the authors' evaluation does.
    """
    q, k = attended.q.detach(), attended.k.detach()
    rows = torch.arange(len(q), device=q.device)
    # A zero query attends uniformly; the output projection's bias would give it a direction that means nothing.
    asks = q[rows, reader].abs().amax(dim=-1, keepdim=True) > 0
    if projected:
        heads = attended.block.heads
        q, k = (attended.block.merge(split_heads(x, heads)) for x in (q, k))
    alike = F.cosine_similarity(q[rows, reader].unsqueeze(1).float(), k.float(), dim=-1)
    low = alike.masked_fill(~keep, math.inf).amin(dim=1, keepdim=True)
    high = alike.masked_fill(~keep, -math.inf).amax(dim=1, keepdim=True)
    spread = high - low
    # Equal keys differ by rounding alone.
    defined = asks & (spread > 1e-6)
    return torch.where(defined, (alike - low) / torch.where(defined, spread, 1.0), 1.0)


def channel_evidence(
    gradient: Float[Tensor, "B L D"], value: Float[Tensor, "B L D"], reader: Int[Tensor, "B"]
) -> Float[Tensor, "B L D"]:
    """`dc/do` at the reading token times each token's value, channel by channel.

    Times the attention that the reading token pays (of each head), its sum over tokens and channels is the gradient
    times the attention output: to first order what attention adds to the score.
    """
    rows = torch.arange(len(gradient), device=gradient.device)
    return gradient[rows, reader].unsqueeze(1).float() * value.detach().float()


def local_entropy(maps: Float[Tensor, "B h w"]) -> Float[Tensor, "B h w"]:
    """Entropy of a non-negative map in each 3 x 3 neighbourhood, divided by its largest: 1 where all nine are equal.

    At the border the neighbourhood has six or four cells. A neighbourhood of zeros has entropy 0.
    """
    probability = F.unfold(maps.clamp(min=0).unsqueeze(1), 3, padding=1)
    inside = F.unfold(torch.ones_like(maps[:1]).unsqueeze(1), 3, padding=1)
    total = probability.sum(dim=1, keepdim=True)
    probability = probability / torch.where(total > 0, total, 1.0)
    entropy = torch.special.entr(probability).sum(dim=1) / inside.sum(dim=1).log().clamp(min=1e-12)
    return entropy.view(maps.shape)


def channel_entropy(evidence: Float[Tensor, "B h w D"]) -> Float[Tensor, "B h w"]:
    """Entropy of |evidence| over channels, divided by log D: 1 where all channels say the same."""
    total = evidence.abs().sum(dim=-1, keepdim=True)
    probability = evidence.abs() / torch.where(total > 0, total, 1.0)
    return torch.special.entr(probability).sum(dim=-1) / math.log(evidence.shape[-1])


def single_head_run(tower: Stack, tokens: Tokens, layers: Sequence[int]) -> tuple[Tokens, dict[int, Attended]]:
    """Run a tower with one full-width attention head in some blocks (scale 1 / sqrt(D)), as Grad-ECLIP's code does.

    Args:
        tower: image or text.
        tokens: entering block 0.
        layers: blocks that are changed, not negative.

    Returns:
        Tokens after the last block, and what the changed blocks attended to.
    """
    taken: dict[int, Attended] = {}
    for layer, block in enumerate(tower.blocks):
        bias, rope = tower.bias(tokens), tower.rope(tokens)
        if layer not in layers:
            tokens = tokens.with_x(block(tokens.x, bias, rope=rope))
            continue
        q, k, v = (join_heads(part) for part in block.qkv(tokens.x, rope))
        logits = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        logits = logits if bias is None else logits + bias[:, 0]
        out = logits.softmax(dim=-1) @ v
        taken[layer] = Attended(block, q, k, v, out)
        x = tokens.x + block.merge(split_heads(out, block.heads))
        tokens = tokens.with_x(x + block.mlp(x))
    return tokens, taken

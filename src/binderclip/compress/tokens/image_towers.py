"""Fewer patches inside an image tower: by the class token's attention (EViT), or by merging similar ones (ToMe)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from binderclip.compress.tokens.context import TokenContext, attention_criterion
from binderclip.compress.tokens.pruner import PrunedRun, PruningStage, TokenPruner
from binderclip.compress.tokens.selection import rank_of, select_top_tokens
from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.base import Tower
from binderclip.models.towers.block import Block
from binderclip.models.towers.tokens import Tokens, gather
from binderclip.numeric import check_number, check_whole

__all__ = ["ClassAttentionPruning", "TokenMerging", "matched_pairs"]


class ClassAttentionPruning(TokenPruner):
    """Keep the patches that the class token attends to most, before some blocks of an image tower.

    EViT's selection without its fused token: what is dropped is gone, and the attention is that of the block before.

    Args:
        layers: before which patches are dropped; (3, 6, 9) is that of 12 blocks.
        keep_rate: of the patches that are left, in (0, 1].

    Raises:
        UsageError: a rate out of range, or layers that do not rise from 1.

    Paper: Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations",
    arXiv 2202.07800.
    """

    def __init__(self, layers: Sequence[int] = (3, 6, 9), *, keep_rate: float = 0.7) -> None:
        check_number("keep_rate", keep_rate, above=0.0, most=1.0)
        if layers:
            check_whole("layer", layers[0], least=1)

        def select(context: TokenContext) -> Bool[Tensor, "B n"]:
            count = max(1, round(keep_rate * context.count))
            return select_top_tokens(attention_criterion(context, rope=True, over="all"), count)

        super().__init__([PruningStage(layer, select) for layer in layers])


class TokenMerging:
    """Merge `r` pairs of similar patches in every block of an image tower, between attention and MLP.

    Patches are split into two halves by turns, each of one half is matched with its most similar one of the other, and
    the `r` best matches become their mean, weighted by how many patches each stands for. Attention counts a token as
    often as it has patches. The class token is never merged away.

    Args:
        r: pairs a block; at most half of the tokens go at once.

    Raises:
        UsageError: an `r` below 0.

    Paper: Bolya et al., "Token Merging: Your ViT But Faster", arXiv 2210.09461.
    """

    def __init__(self, r: int = 8) -> None:
        check_whole("r", r, least=0)
        self.r = r

    def run(self, tower: Tower, tokens: Tokens) -> PrunedRun:
        """Run all blocks, merging in each.

        Args:
            tower: with pre-norm blocks.
            tokens: that enter the first block, without a mask.

        Raises:
            NotSupported: blocks that normalise sums.
            UsageError: tokens with a mask or a causal order.
        """
        if any(block.post_norm for block in tower.blocks):
            raise NotSupported(f"token merging needs pre-norm blocks, and those of {tower.kind} normalise their sums")
        if tokens.mask is not None or tokens.causal or tokens.extra:
            raise UsageError("token merging takes an image tower's own tokens, without mask, order or appended ones")
        size = tokens.x.new_ones(tokens.x.shape[:2])
        lengths = []
        for block in tower.blocks:
            lengths.append(float(tokens.x.shape[1]))
            tokens, size = self._block(block, tower.rope(tokens), tokens, size)
        return PrunedRun(tokens, {}, tuple(lengths), tower)

    def embed_images(self, tower: Tower, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Normalised pixels -> embeddings of an image tower that merges on the way."""
        return tower.project(tower.pool(self.run(tower, tower.embed(images)).tokens))

    def _block(
        self, block: Block, rope: Tensor | None, tokens: Tokens, size: Float[Tensor, "B L"]
    ) -> tuple[Tokens, Float[Tensor, "B l"]]:
        q, k, v = block.qkv(tokens.x, rope)
        x = tokens.x + block.mix(block.weights(q, k, size.log()[:, None, None]), v)
        r = min(self.r, (x.shape[1] - tokens.prefix) // 2)
        if r:
            target = matched_pairs(k.mean(1), r, tokens.prefix)
            total = torch.zeros_like(size).scatter_add(1, target, size)
            place = target.unsqueeze(-1).expand_as(x)
            x = torch.zeros_like(x).scatter_add(1, place, x * size.unsqueeze(-1))
            gone = target != torch.arange(x.shape[1], device=x.device)
            index = gone.byte().argsort(dim=1, stable=True)[:, : x.shape[1] - r]
            x, size = x / total.clamp(min=1).unsqueeze(-1), total.gather(1, index)
            tokens = gather(replace(tokens, x=x), index)
            x = tokens.x
        return tokens.with_x(x + block.mlp(x)), size


def matched_pairs(metric: Float[Tensor, "B L d"], r: int, prefix: int) -> Int[Tensor, "B L"]:
    """The token that each one becomes part of: itself, or for `r` tokens their most similar one of the other half.

    Args:
        metric: by whose cosines tokens are matched; in ToMe the keys, mean over heads.
        r: tokens that are merged into others.
        prefix: leading tokens that stay, and that nothing is merged into.
    """
    unit = functional.normalize(metric[:, prefix:].float(), dim=-1)
    cosine = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)  # (B, sources, targets)
    best, partner = cosine.max(-1)
    merged = rank_of(best) < r
    own = torch.arange(metric.shape[1], device=metric.device).expand(len(metric), -1).clone()
    own[:, prefix::2] = torch.where(merged, prefix + 1 + 2 * partner, own[:, prefix::2])
    return own

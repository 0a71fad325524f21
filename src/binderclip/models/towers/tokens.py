"""Tokens and where they stand: the state that travels through a tower's blocks.

`gather` is the one function behind masking, patch dropout, attentive removal and token pruning: positions and mask go
with the tokens, so whatever is computed later still knows which patch a token is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number


@dataclass(frozen=True)
class Tokens:
    """A batch of token sequences, batch first: `[prefix | patches (or words) | extra]`.

    Attributes:
        x: token vectors (B, L, D).
        positions: (B or 1, L) integers, the place of each token in the full sequence: 0..prefix-1 for the prefix,
            prefix + row * w + column for patches, the word index for text, -1 for tokens that were appended.
        mask: (B, L) bool, False where a token may not be attended to (padding); None = all may.
        grid: (h, w) of the whole patch grid; None for text.
        prefix: number of leading tokens that are not patches (class token, registers).
        extra: number of trailing tokens that were appended (region tokens, deep prompts); pooling ignores them.
        pool_at: (B,) index into L of the pooled token; None where the tower's pooling does not need it.
        causal: whether a token attends only to tokens at its own or an earlier position.
        whole: True until tokens are gathered or appended: token i is at position i.
        span: length of the whole text sequence; images take it from the grid.
    """

    x: Float[Tensor, "B L D"]
    positions: Int[Tensor, "#B L"]
    mask: Bool[Tensor, "B L"] | None = None
    grid: tuple[int, int] | None = None
    prefix: int = 0
    extra: int = 0
    pool_at: Int[Tensor, "B"] | None = None
    causal: bool = False
    whole: bool = True
    span: int | None = None

    @property
    def patches(self) -> Float[Tensor, "B N D"]:
        """The tokens that are neither prefix nor appended."""
        return self.x[:, self.prefix : self.x.shape[1] - self.extra]

    @property
    def length(self) -> int:
        """Length of the full sequence that positions refer to (after gathering: the original length)."""
        if self.grid is not None:
            return self.prefix + self.grid[0] * self.grid[1]
        return self.x.shape[1] - self.extra if self.span is None else self.span

    def with_x(self, x: Float[Tensor, "B L D"]) -> Tokens:
        """The same tokens with other vectors (B, L, D')."""
        return replace(self, x=x)


def _take(values: Tensor, index: Int[Tensor, "B K"]) -> Tensor:
    batch = max(values.shape[0], index.shape[0])
    values = values.expand(batch, *values.shape[1:])
    index = index.expand(batch, -1)
    if values.dim() == 3:
        return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
    return values.gather(1, index)


def gather(tokens: Tokens, index: Int[Tensor, "K"] | Int[Tensor, "#B K"]) -> Tokens:
    """Keep the tokens at `index`, in that order, with their positions and mask.

    Args:
        tokens: what to choose from.
        index: (K,) or (B or 1, K) integers into the current length L. It must start with the prefix
            (0..prefix-1) and, for text, contain the pooled token; appended tokens are kept by naming them last.

    Raises:
        UsageError: the prefix is missing or moved, an appended token is not last, or the pooled token is dropped.
    """
    index = index.unsqueeze(0) if index.dim() == 1 else index
    index = index.to(tokens.x.device)
    extra = tokens.extra
    leading = torch.arange(tokens.prefix, device=index.device)
    if index.shape[1] < tokens.prefix or not bool((index[:, : tokens.prefix] == leading).all()):
        raise UsageError(
            f"gather: index must start with the {tokens.prefix} prefix tokens (0..{tokens.prefix - 1}); "
            "gather_patches() chooses patches and keeps the prefix"
        )
    if extra:
        appended = index >= tokens.x.shape[1] - extra
        extra = int(appended[0].sum())
        ordered = torch.arange(index.shape[1], device=index.device) >= index.shape[1] - extra
        if not bool((appended == ordered).all()):
            raise UsageError("gather: appended tokens must come last, and equally many in every row")
    return _gather(tokens, index, extra)


def _gather(tokens: Tokens, index: Int[Tensor, "#B K"], extra: int) -> Tokens:
    pool_at = tokens.pool_at
    if pool_at is not None:
        hit = index.expand(pool_at.shape[0], -1) == pool_at.unsqueeze(1)
        if not bool(hit.any(1).all()):
            raise UsageError("gather: index drops the pooled token (tokens.pool_at) of at least one row")
        pool_at = hit.int().argmax(1)
    mask = None if tokens.mask is None else _take(tokens.mask, index)
    return replace(
        tokens,
        x=_take(tokens.x, index),
        positions=_take(tokens.positions, index),
        mask=mask,
        extra=extra,
        pool_at=pool_at,
        whole=False,
    )


def gather_patches(tokens: Tokens, index: Int[Tensor, "K"] | Int[Tensor, "#B K"]) -> Tokens:
    """Keep the prefix, the patches at `index` (0 = first patch of the current sequence) and the appended tokens.

    Args:
        tokens: what to choose from.
        index: (K,) or (B or 1, K) integers into the current patches.
    """
    index = index.unsqueeze(0) if index.dim() == 1 else index
    index = index.to(tokens.x.device)
    leading = torch.arange(tokens.prefix, device=index.device).expand(index.shape[0], -1)
    total = tokens.x.shape[1]
    trailing = torch.arange(total - tokens.extra, total, device=index.device).expand(index.shape[0], -1)
    return _gather(tokens, torch.cat([leading, index + tokens.prefix, trailing], 1), tokens.extra)


def random_patches(tokens: Tokens, rate: float, generator: torch.Generator | None = None) -> Tokens:
    """Patch dropout: keep a random `1 - rate` of the patches of every image (at least one), in order.

    Args:
        tokens: image tokens.
        rate: fraction dropped, in [0, 1).
        generator: randomness on the tokens' device; None = the global one.
    """
    check_number("rate", rate, least=0.0, below=1.0)
    batch, count = tokens.x.shape[0], tokens.patches.shape[1]
    kept = max(1, int(count * (1.0 - rate)))
    noise = torch.rand(batch, count, device=tokens.x.device, generator=generator)
    return gather_patches(tokens, noise.topk(kept, dim=1).indices.sort(dim=1).values)


def append_tokens(tokens: Tokens, x: Float[Tensor, "B R D"]) -> Tokens:
    """Append `R` tokens (region tokens, deep prompts) that attend and are attended to but are not pooled.

    Args:
        tokens: image tokens; text sequences take pseudo-tokens through `embed_tokens` instead.
        x: (B or 1, R, D) vectors in the residual stream of the block that comes next.
    """
    if tokens.causal or tokens.pool_at is not None:
        raise UsageError("append_tokens: a text sequence takes pseudo-tokens through embed_tokens(ids, override=...)")
    batch, added = tokens.x.shape[0], x.shape[1]
    positions = tokens.positions.expand(batch, -1)
    mask = tokens.mask
    if mask is not None:
        mask = torch.cat([mask, mask.new_ones(batch, added)], 1)
    return replace(
        tokens,
        x=torch.cat([tokens.x, x.to(tokens.x.dtype).expand(batch, -1, -1)], 1),
        positions=torch.cat([positions, positions.new_full((batch, added), -1)], 1),
        mask=mask,
        extra=tokens.extra + added,
        whole=False,
    )


def cls_bias(
    region: Shaped[Tensor, "h w"] | Shaped[Tensor, "B h w"], *, prefix: int = 1, query: int = 0
) -> Float[Tensor, "B 1 L L"]:
    """Attention bias that draws the class token towards a region and leaves every other query alone (FALIP).

    Args:
        region: (h, w) or (B, h, w): what is added to the logits from the class token to each patch (0 = nothing,
            -inf = forbidden).
        prefix: number of prefix tokens before the patches; their columns stay 0.
        query: which prefix token is drawn.

    Returns:
        (B, 1, L, L) with L = prefix + h * w, for `tower.run(..., attn_bias=...)`.

    Paper: Zhuang et al., "FALIP: Visual Prompt as Foveal Attention Boosts CLIP Zero-Shot Performance", ECCV 2024.
    """
    if prefix < 1:
        raise UsageError("cls_bias: this tower has no class token (prefix = 0); there is no query to draw")
    if not 0 <= query < prefix:
        raise UsageError(f"cls_bias: query {query} is not one of the {prefix} prefix tokens")
    region = region.unsqueeze(0) if region.dim() == 2 else region
    if region.dim() != 3:
        raise UsageError(f"cls_bias: region must be (h, w) or (B, h, w), got shape {tuple(region.shape)}")
    region = region.flatten(1)
    region = region if region.is_floating_point() else region.float()
    batch, count = region.shape
    row = torch.cat([region.new_zeros(batch, prefix), region], 1)
    here = torch.arange(prefix + count, device=region.device) == query
    # where, not a product: 0 * -inf would poison the other rows
    return torch.where(here.view(1, 1, -1, 1), row.view(batch, 1, 1, -1), row.new_zeros(()))

"""open_clip's own VisionTransformer (ViT-B-32 and kin; CoCa's plain attentional pool)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported
from binderclip.models.towers.base import Tower
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, packed, split_heads
from binderclip.models.towers.pooling import mean_of, mha_qkv, mha_values, patch_mask
from binderclip.models.towers.tokens import Tokens


class OpenClipBlock(Block):
    """open_clip's ResidualAttentionBlock: a torch MultiheadAttention; perhaps a norm in LayerScale's place."""

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        super().__init__(module, heads, width)
        # not width / heads where heads were taken out
        self.head_dim = module.attn.in_proj_weight.shape[0] // (3 * heads)
        self.scale = self.head_dim**-0.5
        self.affine = not isinstance(module.ls_1, (nn.LayerNorm, nn.RMSNorm))

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.ln_1(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.ln_2(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = mha_qkv(self.module.attn, normed)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        attention, first = self.module.attn, 2 * self.heads * self.head_dim
        bias = None if attention.in_proj_bias is None else attention.in_proj_bias[first:]
        return split_heads(torch.nn.functional.linear(normed, attention.in_proj_weight[first:], bias), self.heads)

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return self.module.ls_1(self.module.attn.out_proj(join_heads(heads)))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.ls_2(self.module.mlp(normed))

    def projections(self) -> dict[str, Projection]:
        return packed(self.module.attn, "in_proj_weight", self.module.attn.out_proj)

    @property
    def attention_dropout(self) -> float:
        return self.module.attn.dropout if self.module.attn.training else 0.0


class OpenClipCustomBlock(OpenClipBlock):
    """open_clip's CustomResidualAttentionBlock: query-key norm, scaled heads, inner and outer norms."""

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        super().__init__(module, heads, width)
        attention = module.attn
        if attention.scaled_cosine:
            raise NotSupported("open_clip's scaled cosine attention does not run in open_clip itself; use qk_norm")
        plain = isinstance(attention.ln_inner, nn.Identity) and isinstance(module.ln_attn, nn.Identity)
        self.affine = self.affine and plain

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.attn
        joint = torch.nn.functional.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = (split_heads(part, self.heads) for part in joint.chunk(3, dim=-1))
        return attention.ln_q(q), attention.ln_k(k), v

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        attention = self.module.attn
        if attention.head_scale is not None:
            heads = heads * attention.head_scale
        out = attention.out_drop(attention.out_proj(attention.ln_inner(join_heads(heads))))
        return self.module.ls_1(self.module.ln_attn(out))

    @property
    def attention_dropout(self) -> float:
        return self.module.attn.attn_drop.p if self.module.attn.training else 0.0


def open_clip_blocks(transformer: Backbone) -> list[Block]:
    """The blocks of an open_clip Transformer (image or text).

    Raises:
        NotSupported: a block class that is neither of open_clip's two.
    """
    blocks: list[Block] = []
    for module in getattr(transformer, "resblocks", ()):
        name = type(module).__name__
        if name == "ResidualAttentionBlock" and not hasattr(module, "ln_1_kv"):
            blocks.append(OpenClipBlock(module, module.attn.num_heads, module.attn.embed_dim))
        elif name == "CustomResidualAttentionBlock":
            width = module.attn.in_proj_weight.shape[1]
            blocks.append(OpenClipCustomBlock(module, module.attn.num_heads, width))
        else:
            raise NotSupported(f"open_clip block {name} is not supported; supported: ResidualAttentionBlock, Custom...")
    if not blocks:
        raise NotSupported(f"{type(transformer).__name__} has no blocks that the tower interface knows")
    return blocks


class OpenClipTower(Tower):
    """open_clip VisionTransformer.

    Args:
        visual: the module.
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Raises:
        NotSupported: pool_type "none" (no single embedding), "parallel"/"cascade" attentional pools, patches that
            are not square.
    """

    kind = "open_clip_vit"

    def __init__(
        self, visual: Backbone, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        if visual.attn_pool is not None and visual.attn_pool_contrastive is not None:
            raise NotSupported(
                f"open_clip attentional pool {visual.attn_pool_type!r} is not supported; supported: attentional_pool="
                "True (CoCa) and the pool types tok and avg"
            )
        if visual.pool_type not in ("tok", "avg"):
            raise NotSupported(
                f"open_clip pool_type {visual.pool_type!r} gives no single embedding; supported: tok and avg"
            )
        height, width = visual.patch_size
        if height != width:
            raise NotSupported(f"patches must be square, got {height} x {width}")
        blocks = open_clip_blocks(visual.transformer)
        pooling = "latent" if visual.attn_pool is not None else {"tok": "token", "avg": "mean"}[visual.pool_type]
        super().__init__(
            visual, blocks, blocks[0].width, grid=tuple(visual.grid_size), patch=height, prefix=1, pooling=pooling,
            mean=mean, std=std,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.module.conv1.weight.dtype

    def patches(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.module.conv1(x).flatten(2).transpose(1, 2)

    def prefix_tokens(self) -> Float[Tensor, "P D"] | None:
        return self.module.class_embedding.unsqueeze(0)

    def position_table(self) -> Float[Tensor, "L D"] | None:
        return self.module.positional_embedding

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.ln_pre(x)

    @property
    def patch_dropout(self) -> float:
        return getattr(self.module.patch_dropout, "prob", 0.0) if self.module.training else 0.0

    @property
    def final_norm(self) -> Backbone:
        return self.module.ln_post

    @property
    def norm_last(self) -> bool:
        return bool(self.module.final_ln_after_pool)

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.ln_post(x)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        visual = self.module
        if visual.attn_pool is not None:
            return self._pool_latent(tokens)
        if visual.pool_type == "tok":
            return visual.ln_post(tokens.x[:, 0])
        if visual.final_ln_after_pool:
            return visual.ln_post(mean_of(tokens.patches, patch_mask(tokens)))
        return mean_of(visual.ln_post(tokens.patches), patch_mask(tokens))

    def _pool_latent(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        if tokens.mask is not None or tokens.extra:
            raise NotSupported("open_clip's attentional pool takes neither masked nor appended tokens")
        pooled = self.module.ln_post(self.module.attn_pool(tokens.x))
        return pooled[:, 0] if self.module.pool_type == "tok" else pooled[:, 1:].mean(1)

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        pool = self.module.attn_pool
        return self.module.ln_post(x if pool is None else mha_values(pool.attn, pool.ln_k(x)))

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return x if self.module.proj is None else x @ self.module.proj

    @property
    def embed_dim(self) -> int:
        if self.module.proj is not None:
            return self.module.proj.shape[1]
        return self.width if self.module.attn_pool is None else self.module.attn_pool.attn.embed_dim

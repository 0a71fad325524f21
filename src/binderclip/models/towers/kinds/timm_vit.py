"""timm's VisionTransformer: bare, inside open_clip's TimmModel (SigLIP, `small`), with any embedding onto a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.base import Tower
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, packed, split_heads
from binderclip.models.towers.pooling import AttentionPool, mean_of, patch_mask, split_latent
from binderclip.models.towers.tokens import Tokens

SUPPORTED = "class-token, mean, max and attention ('map') pooling, LayerScale, registers, qk_norm, ln_pre, any norm"


class TimmBlock(Block):
    """timm's Block with its standard Attention."""

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        super().__init__(module, heads, width)
        attention = module.attn
        if getattr(attention, "gate", None) is not None:
            raise NotSupported("timm's gated attention is not supported: its gate is no part of weights @ values")
        self.head_dim = attention.head_dim
        self.scale = float(attention.scale)
        self.affine = isinstance(attention.norm, nn.Identity)

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm1(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm2(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.attn
        q, k, v = (split_heads(part, self.heads) for part in attention.qkv(normed).chunk(3, dim=-1))
        return attention.q_norm(q), attention.k_norm(k), v

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        joint = self.module.attn.qkv
        if type(joint) is not nn.Linear:  # a layer that does more must do it
            return super().project_v(normed)
        first = joint.weight.shape[0] // 3 * 2
        bias = None if joint.bias is None else joint.bias[first:]
        return split_heads(nn.functional.linear(normed, joint.weight[first:], bias), self.heads)

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        attention = self.module.attn
        out = attention.proj_drop(attention.proj(attention.norm(join_heads(heads))))
        return self.module.drop_path1(self.module.ls1(out))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.drop_path2(self.module.ls2(self.module.mlp(normed)))

    def projections(self) -> dict[str, Projection]:
        return packed(self.module.attn.qkv, "weight", self.module.attn.proj)

    @property
    def attention_dropout(self) -> float:
        return self.module.attn.attn_drop.p if self.module.attn.training else 0.0


def timm_blocks(trunk: Backbone) -> list[Block]:
    """The blocks of a timm VisionTransformer.

    Raises:
        NotSupported: other blocks than the standard ones.
    """
    blocks: list[Block] = []
    for module in trunk.blocks:
        name, attention = type(module).__name__, type(getattr(module, "attn", None))
        # inside `fast_gradients` an Attention runs as another class, which says so
        attention = getattr(attention, "library_class", attention)
        if (name, attention.__name__) != ("Block", "Attention"):
            raise NotSupported(
                f"timm block {name} with {attention.__name__} is not supported (rotary, differential, parallel and "
                "post-norm blocks are not); supported: Block with Attention"
            )
        blocks.append(TimmBlock(module, module.attn.num_heads, trunk.embed_dim))
    return blocks


class TimmTower(Tower):
    """A timm VisionTransformer, with open_clip's head behind it where there is one.

    Args:
        trunk: the VisionTransformer.
        head: what follows it (open_clip TimmModel.head), or None.
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Raises:
        NotSupported: another class of trunk, no pooling, or an embedding whose patches are not square.
    """

    kind = "timm_vit"
    #: Classes of trunk that it opens.
    trunks: tuple[str, ...] = ("VisionTransformer",)

    def __init__(
        self,
        trunk: Backbone,
        head: Backbone | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        _check(trunk, head, self.trunks)
        self.tail = head
        embed = trunk.patch_embed
        height, width = _ratio(embed, trunk)
        if height != width:
            raise NotSupported(f"patches must be square, got {height} x {width}")
        blocks = self.make_blocks(trunk)
        pooling = {"token": "token", "avg": "mean", "map": "map", "max": "max", "avgmax": "max"}[trunk.global_pool]
        super().__init__(
            trunk, blocks, trunk.embed_dim, grid=tuple(embed.grid_size), patch=height,
            prefix=trunk.num_prefix_tokens, pooling=pooling, mean=mean, std=std,
        )  # fmt: skip

    def make_blocks(self, trunk: Backbone) -> list[Block]:
        """The trunk's blocks."""
        return timm_blocks(trunk)

    def patches(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        embed = self.module.patch_embed
        size = getattr(embed, "img_size", None)
        fixed = getattr(embed, "strict_img_size", False) and size is not None and tuple(size) != tuple(x.shape[-2:])
        if fixed and type(embed).__name__ == "PatchEmbed":
            # the module would refuse any size but its own; its parts do not care
            out = embed.norm(embed.proj(x).flatten(2).transpose(1, 2))
        else:
            out = embed(x)
        grid = self.grid_of(x)
        if out.dim() == 4:
            out = out.flatten(1, 2) if tuple(out.shape[1:3]) == grid else out.flatten(2).transpose(1, 2)
        if out.shape[1] != grid[0] * grid[1]:
            raise NotSupported(f"{type(embed).__name__} gives {out.shape[1]} tokens for a grid of {grid}")
        return out

    def prefix_tokens(self) -> Float[Tensor, "P D"] | None:
        parts = [part[0] for part in (self.module.cls_token, self.module.reg_token) if part is not None]
        return torch.cat(parts) if parts else None

    def position_table(self) -> Float[Tensor, "L D"] | None:
        table = self.module.pos_embed
        if table is None:
            return None
        if self.module.no_embed_class and self.prefix:
            return torch.cat([table.new_zeros(self.prefix, table.shape[-1]), table[0]])
        return table[0]

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm_pre(x if self.module.pos_embed is None else self.module.pos_drop(x))

    @property
    def patch_dropout(self) -> float:
        return getattr(self.module.patch_drop, "prob", 0.0) if self.module.training else 0.0

    @property
    def final_norm(self) -> Backbone:
        return self.module.fc_norm if self.norm_last else self.module.norm

    @property
    def norm_last(self) -> bool:
        return not isinstance(self.module.fc_norm, nn.Identity)

    @property
    def pools_prefix(self) -> bool:
        return bool(getattr(self.module, "pool_include_prefix", False))

    def attention_pool(self, tokens: Tokens) -> AttentionPool | None:
        pool = self.module.attn_pool
        if pool is None:
            return None
        if self.norm_last or pool.latent_len != 1:
            raise NotSupported("attention pooling with several latents or a norm behind it does not split exactly")
        x = self.module.norm(tokens.x if self.pools_prefix else tokens.patches)
        weights, maps, bias = split_latent(pool, x)
        tail = None if pool.mlp is None else (lambda y: pool.mlp(pool.norm(y)))
        return AttentionPool(F.pad(weights, (tokens.x.shape[1] - x.shape[1], 0)), maps, bias, tail)

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.fc_norm(self.module.norm(x))

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        trunk = self.module
        x = trunk.norm(tokens.x)
        if tokens.extra:
            x = x[:, : x.shape[1] - tokens.extra]
        pooled = trunk.pool(x) if tokens.mask is None else self._pool_masked(tokens.with_x(trunk.norm(tokens.x)))
        return trunk.head_drop(trunk.fc_norm(pooled))

    def _pool_masked(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        trunk, way = self.module, self.module.global_pool
        if way == "token":
            return tokens.x[:, 0]
        kept = Tokens(tokens.x, tokens.positions, tokens.mask, tokens.grid, extra=tokens.extra)
        seen = kept if self.pools_prefix else tokens
        x, mask = seen.patches, patch_mask(seen)
        if mask is None:
            raise UsageError("masked pooling needs tokens.mask")
        if way == "map":
            return trunk.attn_pool(x, attn_mask=mask[:, None, None, :])
        if way == "avg":
            return mean_of(x, mask)
        peak = x.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)
        return peak if way == "max" else 0.5 * (peak + mean_of(x, mask))

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B F"]:
        x = self.module.norm(x)
        pool = self.module.attn_pool
        if pool is not None:
            x = pool.proj(pool.kv(x)[..., pool.kv.out_features // 2 :])
            if pool.mlp is not None:
                x = x + pool.mlp(pool.norm(x))
        return self.module.fc_norm(x)

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        x = self.module.head(x)
        return x if self.tail is None else self.tail(x)

    @property
    def affine_projection(self) -> bool:
        return self.tail is None or not hasattr(self.tail, "mlp")


def _ratio(embed: Backbone, trunk: Backbone) -> tuple[int, int]:
    if hasattr(embed, "feat_ratio"):
        ratio = embed.feat_ratio(as_scalar=False)
    else:
        size, grid = getattr(embed, "img_size", None), getattr(embed, "grid_size", None)
        if size is None or grid is None:
            raise NotSupported(f"{type(embed).__name__} tells neither feat_ratio nor img_size and grid_size")
        ratio = (size[0] // grid[0], size[1] // grid[1])
    return int(ratio[0]), int(ratio[1])


def _check(trunk: Backbone, head: Backbone | None, trunks: tuple[str, ...]) -> None:
    if type(trunk).__name__ not in trunks or not hasattr(trunk, "fc_norm"):
        raise NotSupported(
            f"timm {type(trunk).__name__} is not supported; supported: timm Eva, and VisionTransformer with {SUPPORTED}"
        )
    if trunk.global_pool not in ("token", "avg", "map", "max", "avgmax"):
        raise NotSupported(
            f"timm global_pool {trunk.global_pool!r} gives no single embedding that splits into patches; "
            "supported: token, avg, avgmax, max, map"
        )
    pool = trunk.attn_pool
    if pool is not None and (pool.pos_embed is not None or pool.pool not in ("token", "avg")):
        raise NotSupported("timm attention pooling with its own positions or without reduction is not supported")
    if head is not None and hasattr(head, "pool"):
        raise NotSupported("open_clip's abs_attn/rot_attn pools work on feature maps, not on a ViT's tokens")
    if getattr(trunk.patch_embed, "dynamic_img_pad", False):
        raise UsageError("dynamic_img_pad=True hides the true grid; build the model without it")

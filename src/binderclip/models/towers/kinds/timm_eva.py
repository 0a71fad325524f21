"""timm's Eva, bare or inside open_clip's TimmModel: EVA and EVA02, Perception Encoder, ViTs with rotary positions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, packed, split_heads
from binderclip.models.towers.kinds.timm_vit import TimmTower
from binderclip.models.towers.tokens import Tokens


class EvaBlock(Block):
    """timm's EvaBlock: queries and keys rotated by place, a gated MLP, norms inside attention and MLP.

    Args:
        module: the block.
        heads: number of attention heads.
        width: width D of the residual stream.
        rotary: whether the trunk rotates queries and keys.
    """

    def __init__(self, module: Backbone, heads: int, width: int, *, rotary: bool) -> None:
        super().__init__(module, heads, width)
        attention = module.attn
        if getattr(attention, "gate", None) is not None:
            raise NotSupported("timm's gated attention is not supported: its gate is no part of weights @ values")
        if getattr(attention, "num_kv_groups", 1) != 1:
            raise NotSupported("timm's grouped-query attention is not supported: heads share keys and values")
        self.rotary, self.half = rotary, bool(getattr(attention, "rotate_half", False))
        self.head_dim, self.scale = attention.head_dim, float(attention.scale)
        self.affine = isinstance(attention.norm, nn.Identity)

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm1(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm2(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.attn
        if attention.qkv is None:
            parts = [layer(normed) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        else:
            parts = list(self._joint(normed).chunk(3, dim=-1))
        q, k, v = (split_heads(part, self.heads) for part in parts)
        return attention.q_norm(q), attention.k_norm(k), v

    def _joint(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L P"]:
        attention = self.module.attn
        if getattr(attention, "q_bias", None) is None:
            return attention.qkv(normed)
        bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        if attention.qkv_bias_separate:
            return attention.qkv(normed) + bias
        return F.linear(normed, attention.qkv.weight, bias)

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        attention = self.module.attn
        if attention.qkv is None:
            return split_heads(attention.v_proj(normed), self.heads)
        return super().project_v(normed)

    def rotate(self, q: Tensor, k: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        if not self.rotary:
            return q, k
        if rope is None:
            raise UsageError("this block rotates queries and keys by place: give it rope=tower.rope(tokens)")
        from timm.layers import apply_rot_embed_cat

        return (
            apply_rot_embed_cat(q, rope, half=self.half).type_as(q),
            apply_rot_embed_cat(k, rope, half=self.half).type_as(k),
        )

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        attention = self.module.attn
        out = attention.proj_drop(attention.proj(attention.norm(join_heads(heads))))
        gamma = self.module.gamma_1
        return self.module.drop_path1(out if gamma is None else gamma * out)

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        out, gamma = self.module.mlp(normed), self.module.gamma_2
        return self.module.drop_path2(out if gamma is None else gamma * out)

    def projections(self) -> dict[str, Projection]:
        attention = self.module.attn
        if attention.qkv is not None:
            return packed(attention.qkv, "weight", attention.proj)
        maps = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "out": attention.proj}
        return {key: Projection(layer, "weight", 0, layer.weight.shape[0]) for key, layer in maps.items()}

    @property
    def attention_dropout(self) -> float:
        return self.module.attn.attn_drop.p if self.module.attn.training else 0.0


class EvaResidualNormBlock(EvaBlock):
    """timm's EvaBlockPostNorm: what attention and MLP add to the stream is normalised, what they read is not."""

    def __init__(self, module: Backbone, heads: int, width: int, *, rotary: bool) -> None:
        super().__init__(module, heads, width, rotary=rotary)
        self.affine = False

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        attention = self.module.attn
        out = attention.proj_drop(attention.proj(attention.norm(join_heads(heads))))
        return self.module.drop_path1(self.module.norm1(out))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.drop_path2(self.module.norm2(self.module.mlp(normed)))


BLOCKS = {"EvaBlock": EvaBlock, "EvaBlockPostNorm": EvaResidualNormBlock}


class EvaTower(TimmTower):
    """A timm Eva, with open_clip's head behind it where there is one.

    Args:
        trunk: the Eva.
        head: what follows it (open_clip TimmModel.head), or None.
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Raises:
        NotSupported: no pooling, rotations that are learned or drawn anew in training, gated or grouped attention.
    """

    kind = "timm_eva"
    trunks = ("Eva",)

    def __init__(
        self,
        trunk: Backbone,
        head: Backbone | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if getattr(trunk, "rope_mixed", False):
            raise NotSupported("timm Eva with learned rotations (rope_type 'mixed') is not supported")
        if getattr(trunk.rope, "aug_active", False):
            raise NotSupported("timm Eva with randomly changed coordinates in training is not supported")
        super().__init__(trunk, head, mean=mean, std=std)
        self._ropes: dict[tuple[int, int], Tensor] = {}

    def make_blocks(self, trunk: Backbone) -> list[Block]:
        rotary = trunk.rope is not None
        return [
            BLOCKS[type(module).__name__](module, module.attn.num_heads, trunk.embed_dim, rotary=rotary)
            for module in trunk.blocks
        ]

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm_pre(self.module.pos_drop(x))

    @property
    def pools_prefix(self) -> bool:
        return self.module.attn_pool is not None

    def rope(self, tokens: Tokens) -> Float[Tensor, "B 1 L r"] | None:
        if self.module.rope is None:
            return None
        assert tokens.grid is not None
        table = self._rope_table(tokens.grid)
        # what is no patch is not rotated: sine 0, cosine 1; the last row is that of appended tokens, at place -1
        still = torch.cat([table.new_zeros(table.shape[-1] // 2), table.new_ones(table.shape[-1] // 2)])
        rows = torch.cat([still.expand(self.prefix, -1), table, still[None]])
        return rows[tokens.positions].unsqueeze(1)

    def _rope_table(self, grid: tuple[int, int]) -> Float[Tensor, "N r"]:
        rope = self.module.rope
        if self.module.dynamic_img_size or not hasattr(rope, "feat_shape"):
            return rope.get_embed(shape=grid)
        if grid == self.grid:
            return rope.get_embed()
        if grid not in self._ropes:  # the module keeps the angles of its own grid alone
            other = copy.deepcopy(rope)
            other.update_feat_shape(list(grid))
            self._ropes[grid] = other.get_embed()
        return self._ropes[grid].to(self.device)

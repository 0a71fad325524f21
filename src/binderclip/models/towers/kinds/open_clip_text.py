"""open_clip's text towers: inside CLIP itself, and the TextTransformer of CustomTextCLIP (SigLIP, CoCa, `small`)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.errors import NotSupported
from binderclip.models.towers.block import Backbone
from binderclip.models.towers.kinds.open_clip_vit import open_clip_blocks
from binderclip.models.towers.text import TextTower


class OpenClipTextTower(TextTower):
    """The text side of an open_clip model.

    Args:
        owner: the module with `token_embedding`, `transformer`, `ln_final`: an open_clip CLIP or TextTransformer.

    Raises:
        NotSupported: pool_type "none", which gives no sentence.
    """

    kind = "open_clip_text"

    def __init__(self, owner: Backbone) -> None:
        inside = hasattr(owner, "text_pool_type")  # CLIP holds the parts itself and knows neither padding nor cls
        pooling = owner.text_pool_type if inside else owner.pool_type
        self._pad_mask = not inside and (getattr(owner, "use_pad_mask", False) or owner.cls_emb is not None)
        self._appends = not inside and owner.cls_emb is not None
        if self._appends:
            pooling = "appended"
        if pooling not in ("first", "last", "argmax", "eos", "appended"):
            raise NotSupported(f"open_clip text pool_type {pooling!r} gives no single embedding")
        blocks = open_clip_blocks(owner.transformer)
        super().__init__(
            owner, blocks, blocks[0].width, context_length=owner.context_length, vocab_size=owner.vocab_size,
            causal=owner.attn_mask is not None, pooling=pooling, pad_id=getattr(owner, "pad_id", 0),
            eos_id=owner.text_eos_id if inside else owner.eos_id,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.module.transformer.get_cast_dtype()

    def lookup(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        return self.module.token_embedding(ids).to(self.dtype)

    def position_table(self) -> Float[Tensor, "L D"]:
        return self.module.positional_embedding

    def appended(self) -> Float[Tensor, "D"] | None:
        return self.module.cls_emb if self._appends else None

    def own_mask(self, ids: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"] | Bool[Tensor, "B L+1"] | None:
        if not self._pad_mask:
            return None
        valid = ids != self.pad_id
        if not self._appends:
            return valid
        cls = valid.new_ones(valid.shape[0], 1)
        # released CoCa weights were trained with the class token's column first although the token stands last
        return torch.cat([valid, cls] if getattr(self.module, "correct_cls_mask", False) else [cls, valid], 1)

    @property
    def final_norm(self) -> Backbone:
        return self.module.ln_final

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.ln_final(x)

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        projection = self.module.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Module) else x @ projection

"""Hugging Face SiglipModel (SigLIP and the fixed-resolution SigLIP 2): no class token, pooling by attention."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.models.towers.block import Backbone
from binderclip.models.towers.kinds.hf_clip import HfImageTower, HfTextTower
from binderclip.models.towers.pooling import AttentionPool, mha_values, patch_mask, split_mha
from binderclip.models.towers.tokens import Tokens


class HfSiglipTower(HfImageTower):
    """The image tower of SiglipModel.

    Args:
        model: the module with `vision_model`.
        mean, std: pixel normalisation that belongs to it, kept for the reader.

    Raises:
        NotSupported: the pooling head was left out of the configuration.
    """

    kind = "hf_siglip"

    def __init__(
        self, model: Backbone, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        if not model.vision_model.use_head:
            raise NotSupported("SiglipModel with vision_use_head=False has no pooled image embedding")
        super().__init__(model.vision_model, prefix=0, pooling="map", mean=mean, std=std)

    def prefix_tokens(self) -> Float[Tensor, "P D"] | None:
        return None

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    @property
    def final_norm(self) -> Backbone:
        return self.module.post_layernorm

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.post_layernorm(x)

    def attention_pool(self, tokens: Tokens) -> AttentionPool | None:
        head = self.module.head
        weights, maps, bias = split_mha(head.attention, head.probe, self.norm(tokens.x))
        return AttentionPool(weights, maps, bias, lambda y: head.mlp(head.layernorm(y)))

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        x, mask, head = self.norm(tokens.patches), patch_mask(tokens), self.module.head
        if mask is None:
            return head(x)
        probe = head.probe.expand(x.shape[0], -1, -1)
        pooled = head.attention(probe, x, x, key_padding_mask=~mask, need_weights=False)[0][:, 0]
        return pooled + head.mlp(head.layernorm(pooled))

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        head = self.module.head
        value = mha_values(head.attention, self.norm(x))
        return value + head.mlp(head.layernorm(value))

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return x


def hf_siglip_text(model: Backbone) -> HfTextTower:
    """The text tower of SiglipModel."""
    return HfTextTower(model.text_model, model.text_model.head, causal=False, pooling="last")

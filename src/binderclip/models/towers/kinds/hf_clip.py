"""Hugging Face CLIPModel and its kin: both towers. The block is SigLIP's too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.models.towers.base import Tower
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, split_heads
from binderclip.models.towers.text import TextTower
from binderclip.models.towers.tokens import Tokens


class HfBlock(Block):
    """CLIPEncoderLayer and SiglipEncoderLayer, and those of MetaCLIP 2, Chinese CLIP and AltCLIP."""

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.layer_norm1(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.layer_norm2(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.self_attn
        return (
            split_heads(attention.q_proj(normed), self.heads),
            split_heads(attention.k_proj(normed), self.heads),
            split_heads(attention.v_proj(normed), self.heads),
        )

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        return split_heads(self.module.self_attn.v_proj(normed), self.heads)

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return self.module.self_attn.out_proj(join_heads(heads))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.mlp(normed)

    def projections(self) -> dict[str, Projection]:
        attention = self.module.self_attn
        maps = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "out": attention.out_proj}
        return {key: Projection(layer, "weight", 0, layer.weight.shape[0]) for key, layer in maps.items()}

    @property
    def attention_dropout(self) -> float:
        return self.module.self_attn.dropout if self.module.self_attn.training else 0.0


def hf_blocks(encoder: Backbone) -> list[Block]:
    """The blocks of a Hugging Face CLIP or SigLIP encoder."""
    return [HfBlock(layer, layer.self_attn.num_heads, layer.self_attn.embed_dim) for layer in encoder.layers]


class HfImageTower(Tower):
    """What the image towers of CLIPModel and SiglipModel share: patches, positions, encoder."""

    # interpolate_pos_encoding=True resamples without antialiasing
    native_interpolation = ("bicubic", False)

    def __init__(
        self,
        vision: Backbone,
        *,
        prefix: int,
        pooling: str,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        embeddings = vision.embeddings
        side = embeddings.image_size // embeddings.patch_size
        super().__init__(
            vision, hf_blocks(vision.encoder), embeddings.embed_dim, grid=(side, side), patch=embeddings.patch_size,
            prefix=prefix, pooling=pooling, mean=mean, std=std,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.module.embeddings.patch_embedding.weight.dtype

    def patches(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.module.embeddings.patch_embedding(x).flatten(2).transpose(1, 2)

    def position_table(self) -> Float[Tensor, "L D"] | None:
        return self.module.embeddings.position_embedding.weight


class HfClipTower(HfImageTower):
    """The image tower of CLIPModel or CLIPVisionModelWithProjection, MetaClip2Model, ChineseCLIPModel or AltCLIPModel.

    Args:
        model: the module with `vision_model` and `visual_projection`.
        mean, std: pixel normalisation that belongs to it, kept for the reader.
    """

    kind = "hf_clip"

    def __init__(
        self, model: Backbone, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        self.projection = model.visual_projection
        super().__init__(model.vision_model, prefix=1, pooling="token", mean=mean, std=std)

    def prefix_tokens(self) -> Float[Tensor, "P D"] | None:
        return self.module.embeddings.class_embedding.unsqueeze(0)

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.pre_layrnorm(x)

    @property
    def final_norm(self) -> Backbone:
        return self.module.post_layernorm

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.post_layernorm(x)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        return self.norm(tokens.x[:, 0])

    def lift(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.norm(x)

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return self.projection(x)


class HfTextTower(TextTower):
    """The text tower of CLIPModel or MetaClip2Model (causal, read at the end token) or of SiglipModel (both ways, read
    at the last place).

    Args:
        text: the text model.
        projection: what maps its pooled state to the shared space.
        causal: CLIP's mask.
        pooling: "argmax", "eos" or "last".
    """

    kind = "hf_text"

    def __init__(self, text: Backbone, projection: Backbone, *, causal: bool, pooling: str) -> None:
        self.projection = projection
        blocks = hf_blocks(text.encoder)
        embeddings = text.embeddings
        super().__init__(
            text, blocks, blocks[0].width, context_length=embeddings.position_embedding.num_embeddings,
            vocab_size=embeddings.token_embedding.num_embeddings, causal=causal, pooling=pooling,
            pad_id=_or(text.config.pad_token_id, 0), eos_id=text.config.eos_token_id,
        )  # fmt: skip

    def lookup(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        return self.module.embeddings.token_embedding(ids)

    def position_table(self) -> Float[Tensor, "L D"]:
        return self.module.embeddings.position_embedding.weight

    @property
    def final_norm(self) -> Backbone:
        return self.module.final_layer_norm

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.module.final_layer_norm(x)

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        return self.projection(x)


def hf_clip_text(model: Backbone) -> HfTextTower:
    """The text tower of CLIPModel or MetaClip2Model, or of their text models with projection."""
    # CLIP's configurations written before the end token was corrected say 2 and mean "the largest id"
    config = model.text_model.config
    legacy = config.eos_token_id == 2 and config.model_type == "clip_text_model"
    return HfTextTower(
        model.text_model, model.text_projection, causal=True, pooling="argmax" if legacy else "eos"
    )  # fmt: skip


def _or(value: int | None, default: int) -> int:
    return default if value is None else value

"""BERT as the text tower of Hugging Face's ChineseCLIPModel and (RoBERTa) AltCLIPModel: post-norm, both ways."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, split_heads
from binderclip.models.towers.text import TextTower


class BertBlock(Block):
    """ChineseCLIPTextLayer and AltRobertaLayer, which normalise each sum."""

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        super().__init__(module, heads, width)
        self.post_norm = True

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return x

    def sum_norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.attention.output.LayerNorm(x)

    def sum_norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.output.LayerNorm(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.attention.self
        return (
            split_heads(attention.query(normed), self.heads),
            split_heads(attention.key(normed), self.heads),
            split_heads(attention.value(normed), self.heads),
        )

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        return split_heads(self.module.attention.self.value(normed), self.heads)

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        output = self.module.attention.output
        return output.dropout(output.dense(join_heads(heads)))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        output = self.module.output
        return output.dropout(output.dense(self.module.intermediate(normed)))

    def projections(self) -> dict[str, Projection]:
        attention = self.module.attention
        maps = {"q": attention.self.query, "k": attention.self.key, "v": attention.self.value}
        maps["out"] = attention.output.dense
        return {key: Projection(layer, "weight", 0, layer.weight.shape[0]) for key, layer in maps.items()}

    @property
    def attention_dropout(self) -> float:
        dropout = self.module.attention.self.dropout
        return dropout.p if dropout.training else 0.0


class HfBertTextTower(TextTower):
    """A BERT or RoBERTa encoder read at its first token; padding is not attended to.

    Args:
        bert: the module with `embeddings` and `encoder`.
        layers: its layers.
        norm: what is applied to the states after the last layer.
        projection: from there to the shared space, one map after the other.
        first_position: row of the position table where a sentence begins (RoBERTa's stand behind the padding's).
    """

    kind = "hf_bert"

    def __init__(
        self, bert: Backbone, layers: Backbone, *, norm: Backbone, projection: tuple[Backbone, ...], first_position: int
    ) -> None:
        self._norm, self.projection, self.first_position = norm, projection, first_position
        config, embeddings = bert.config, bert.embeddings
        blocks = [BertBlock(layer, config.num_attention_heads, config.hidden_size) for layer in layers]
        super().__init__(
            bert, blocks, config.hidden_size,
            context_length=embeddings.position_embeddings.num_embeddings - first_position,
            vocab_size=embeddings.word_embeddings.num_embeddings, causal=False, pooling="first",
            pad_id=0 if config.pad_token_id is None else config.pad_token_id,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.module.embeddings.word_embeddings.weight.dtype

    def lookup(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        return self.module.embeddings.word_embeddings(ids)

    def position_table(self) -> Float[Tensor, "L D"]:
        embeddings = self.module.embeddings
        # a sentence by itself is of the first type
        return embeddings.position_embeddings.weight[self.first_position :] + embeddings.token_type_embeddings.weight[0]

    def norm_pre(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.embeddings.dropout(self.module.embeddings.LayerNorm(x))

    def own_mask(self, ids: Int[Tensor, "B L"]) -> Bool[Tensor, "B L"] | None:
        return ids != self.pad_id

    @property
    def final_norm(self) -> Backbone:
        return self._norm

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self._norm(x)

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        for layer in self.projection:
            x = layer(x)
        return x


def chinese_clip_text(model: Backbone) -> HfBertTextTower:
    """The text tower of ChineseCLIPModel."""
    bert = model.text_model
    return HfBertTextTower(
        bert, bert.encoder.layer, norm=nn.Identity(), projection=(model.text_projection,), first_position=0
    )


def altclip_text(model: Backbone) -> HfBertTextTower:
    """The text tower of AltCLIPModel."""
    text = model.text_model
    return HfBertTextTower(
        text.roberta, text.roberta.encoder.layers, norm=text.pre_LN,
        projection=(text.transformation, model.text_projection),
        first_position=text.roberta.embeddings.padding_idx + 1,
    )  # fmt: skip

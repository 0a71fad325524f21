"""LLaVA models of transformers as a row of blocks, for all that acts between layers, such as token pruning."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, split_heads
from binderclip.models.towers.tokens import Tokens
from binderclip.models.vision_language.decoder import CausalStack, rotated

__all__ = ["LlamaBlock", "LlavaDecoder"]


class LlamaBlock(Block):
    """transformers' LlamaDecoderLayer: rotated queries and keys, keys shared by groups of heads, a gated MLP."""

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        super().__init__(module, heads, width)
        attention = module.self_attn
        self.head_dim, self.scale = attention.head_dim, float(attention.scaling)
        self.groups = attention.num_key_value_groups

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.input_layernorm(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.post_attention_layernorm(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        attention = self.module.self_attn
        query = split_heads(attention.q_proj(normed), self.heads)
        shared = (
            split_heads(layer(normed), self.heads // self.groups) for layer in (attention.k_proj, attention.v_proj)
        )
        key, value = (part.repeat_interleave(self.groups, 1) for part in shared)
        return query, key, value

    def rotate(self, q: Tensor, k: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        return (q, k) if rope is None else (rotated(q, rope), rotated(k, rope))

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return self.module.self_attn.o_proj(join_heads(heads))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.mlp(normed)

    def projections(self) -> dict[str, Projection]:
        attention = self.module.self_attn
        maps = {"q": attention.q_proj, "k": attention.k_proj, "v": attention.v_proj, "out": attention.o_proj}
        return {key: Projection(layer, "weight", 0, layer.weight.shape[0]) for key, layer in maps.items()}


class LlavaDecoder(CausalStack):
    """The language model of a LlavaForConditionalGeneration: `project(pool(run(embed(inputs))))` are its next logits.

    One pass over a prompt, as in the prefill; nothing is cached.

    Args:
        model: transformers' LlavaForConditionalGeneration around a Llama.

    Raises:
        NotSupported: any other model, or one around another language model.
    """

    kind = "llava"

    def __init__(self, model: Backbone) -> None:
        name = type(model).__name__
        language: Backbone = getattr(getattr(model, "model", None), "language_model", None)
        if name != "LlavaForConditionalGeneration" or type(language).__name__ != "LlamaModel":
            raise NotSupported(
                f"{name} around {type(language).__name__} is not supported; supported: transformers' "
                "LlavaForConditionalGeneration around a LlamaModel"
            )
        config = language.config
        blocks = [LlamaBlock(layer, config.num_attention_heads, config.hidden_size) for layer in language.layers]
        super().__init__(model, blocks, config.hidden_size)
        self.language = language

    def embed(self, inputs: Mapping[str, Tensor]) -> Tokens:  # type: ignore[override]
        """What a processor gives for one image a prompt -> `[words | image | words]` that enter the first layer.

        Args:
            inputs: `input_ids` (B, L) with the image's tokens in it, at the same places in all rows, and
                `pixel_values`; an `attention_mask` must be of ones.

        Raises:
            UsageError: padding, no image, several, or one that is no square of tokens.
        """
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        image = ids == self.module.config.image_token_id
        places = image[0].nonzero()[:, 0]
        count = len(places)
        side = round(count**0.5)
        whole = count > 0 and side * side == count and int(places[-1]) - int(places[0]) == count - 1
        if not whole or not bool((image == image[0]).all()) or (mask is not None and not bool(mask.all())):
            raise UsageError(
                "prompts must be of one length without padding, with one square image at the same place in each; got "
                f"{count} image tokens in the first"
            )
        x = self.language.embed_tokens(ids)
        features = self.module.get_image_features(inputs["pixel_values"], return_dict=True).pooler_output
        x = x.masked_scatter(image[..., None], torch.cat(list(features)).to(x))
        first, after = int(places[0]), ids.shape[1] - int(places[-1]) - 1
        positions = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        return Tokens(x, positions, grid=(side, side), prefix=first, extra=after, causal=True)

    def rope(self, tokens: Tokens) -> Float[Tensor, "2 #B L r"]:
        turns = self.language.rotary_emb(tokens.x, tokens.positions)
        return torch.stack([turn.chunk(2, dim=-1)[0] for turn in turns])  # the two halves are equal

    @property
    def final_norm(self) -> Backbone:
        return self.language.norm

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Logits of the next token."""
        return self.module.lm_head(x)

"""A causal decoder with rotary positions, seen as a row of blocks like every other tower."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.models.towers.base import Stack
from binderclip.models.towers.block import Backbone, Block, Projection, join_heads, packed, split_heads
from binderclip.models.towers.tokens import Tokens

__all__ = ["Decoder", "DecoderBlock", "DecoderNet", "rotary_angles", "rotated"]


def rotary_angles(positions: Int[Tensor, "#B L"], head_dim: int, theta: float) -> Float[Tensor, "2 #B L r"]:
    """Cosines and sines by which rotary positions turn a head: pair i by `position * theta ** (-2 i / head_dim)`.

    Args:
        positions: place of each token in the sequence.
        head_dim: size of a head, even; there are head_dim / 2 pairs.
        theta: base of the wavelengths.

    Paper: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864.
    """
    pairs = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * theta ** (-pairs / head_dim)
    return torch.stack([angles.cos(), angles.sin()])


def rotated(x: Float[Tensor, "B H L d"], angles: Float[Tensor, "2 #B L r"]) -> Float[Tensor, "B H L d"]:
    """Queries or keys turned by `rotary_angles`; component i is paired with i + d / 2, as in Llama."""
    cosine, sine = angles.unsqueeze(2).to(x.dtype)  # (B or 1, 1, L, d / 2) each
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


class DecoderLayer(nn.Module):
    """Weights of one pre-norm block: attention and a GELU layer of `ratio` times the width, without biases."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, ratio * width, bias=False)
        self.down = nn.Linear(ratio * width, width, bias=False)


class DecoderNet(nn.Module):
    """Weights of the whole decoder.

    Args:
        features: size of the image tower's features.
        patches: how many there are; each place has a vector of its own, since the features say little about where.
        words: size of the vocabulary.
        width: of the residual stream. depth: layers. heads: of attention. ratio: of the layers' hidden units to width.
    """

    def __init__(
        self, features: int, patches: int, words: int, *, width: int, depth: int, heads: int, ratio: int
    ) -> None:
        super().__init__()
        self.width, self.heads = width, heads
        self.connect = nn.Sequential(nn.LayerNorm(features, elementwise_affine=False), nn.Linear(features, width))
        self.places = nn.Parameter(torch.randn(patches, width) * 0.1)
        self.words = nn.Embedding(words, width)
        layers = [DecoderLayer(width, ratio) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.norm = nn.RMSNorm(width)
        self.answer = nn.Linear(width, words, bias=False)
        nn.init.normal_(self.words.weight, std=0.5)  # about the size of the image's tokens
        for layer in layers:  # each sum starts small, so that the stream keeps its scale over the depth
            for last in (layer.out, layer.down):
                nn.init.normal_(last.weight, std=0.5 * (last.in_features * 2 * depth) ** -0.5)


class DecoderBlock(Block):
    """A `DecoderLayer`, its queries and keys turned by their places."""

    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm1(x)

    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.norm2(x)

    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, self.heads) for part in self.module.qkv(normed).chunk(3, dim=-1))
        return q, k, v

    def rotate(self, q: Tensor, k: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        return (q, k) if rope is None else (rotated(q, rope), rotated(k, rope))

    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        return self.module.out(join_heads(heads))

    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.module.down(functional.gelu(self.module.up(normed)))

    def projections(self) -> dict[str, Projection]:
        return packed(self.module.qkv, "weight", self.module.out)


class CausalStack(Stack):
    """A stack that is read at its last token, as the next word is."""

    def norm(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.final_norm(x)

    def pool(self, tokens: Tokens) -> Float[Tensor, "B D"]:
        return self.norm(tokens.x[:, -1])

    def pool_weights(self, tokens: Tokens) -> Float[Tensor, "B L"]:
        weights = tokens.x.new_zeros(tokens.x.shape[:2])
        weights[:, -1] = 1.0
        return weights


class Decoder(CausalStack):
    """A `DecoderNet` as blocks: `run` takes `[first word | image | question]`, `pool` reads the last token.

    Args:
        net: the weights.
        theta: base of the rotary wavelengths.
    """

    kind = "decoder"

    def __init__(self, net: DecoderNet, *, theta: float = 10_000.0) -> None:
        super().__init__(net, [DecoderBlock(layer, net.heads, net.width) for layer in net.layers], net.width)
        self.theta = theta

    def rope(self, tokens: Tokens) -> Float[Tensor, "2 #B L r"]:
        return rotary_angles(tokens.positions, self.blocks[0].head_dim, self.theta)

    @property
    def final_norm(self) -> Backbone:
        return self.module.norm

    def project(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Logits of every word."""
        return self.module.answer(x)

"""One transformer block, seen the same way whatever library wrote it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.models.towers.record import Recorder

#: A library's own module: its attributes are the library's, so they are not typed here.
Backbone: TypeAlias = Any


CACHED = 2**18
"""Numbers of a map that stay in a CPU's cache."""


class Projection(NamedTuple):
    """Where a block keeps one of its attention maps: rows `start:stop` of the weight `name` of `owner`."""

    owner: Backbone
    name: str
    start: int
    stop: int


class Block(ABC):
    """A pre-norm block: x + mix(attention, values) and then x + mlp(x), on the block's own modules.

    `mix` and `mlp` return exactly what is added to the residual stream (LayerScale and stochastic depth included). A
    post-norm block (BERT's) normalises each sum instead: norm1 and norm2 are then the identity, `sum_norm1` and
    `sum_norm2` are not, and the stream after the blocks is no sum of what they added (`post_norm`).

    Args:
        module: the library's block.
        heads: number of attention heads.
        width: width D of the residual stream.
    """

    def __init__(self, module: Backbone, heads: int, width: int) -> None:
        self.module: Backbone = module
        self.heads = heads
        self.width = width
        self.head_dim = width // heads
        self.scale = self.head_dim**-0.5
        #: Whether `merge` is affine in the heads, so that an output splits exactly into heads and tokens.
        self.affine = True
        #: Whether the sums are normalised instead of what is added to them.
        self.post_norm = False

    @abstractmethod
    def norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """ln_1, the input of attention."""

    @abstractmethod
    def norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """ln_2, the input of the MLP."""

    def sum_norm1(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What a post-norm block does to the sum with attention's output."""
        return x

    def sum_norm2(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What a post-norm block does to the sum with the MLP's output."""
        return x

    @abstractmethod
    def project_qkv(self, normed: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of already normalised tokens."""

    def rotate(self, q: Tensor, k: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        """Queries and keys turned by their places, where the library does so (rotary positions)."""
        return q, k

    def project_v(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        """The value alone of already normalised tokens."""
        return self.project_qkv(normed)[2]

    @abstractmethod
    def merge(self, heads: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
        """Output projection of the heads' outputs, with everything up to the residual sum."""

    @abstractmethod
    def feed(self, normed: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """MLP of already normalised tokens, with everything up to the residual sum."""

    @abstractmethod
    def projections(self) -> dict[str, Projection]:
        """The weights behind query, key, value and output, by the names `q`, `k`, `v`, `out`, in forward order.

        Where one matrix packs several of them, they are its rows.
        """

    @property
    def attention_dropout(self) -> float:
        """Dropout on the attention weights now in force (0 in eval mode)."""
        return 0.0

    def qkv(self, x: Float[Tensor, "B L D"], rope: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key, value (B, H, L, d) of the residual stream: ln_1 applied, biases in, unscaled.

        Where the library normalises queries and keys (qk_norm) or rotates them, that is included.

        Args:
            x: residual stream (B, L, D).
            rope: `tower.rope(tokens)`; None where the tower has no rotary positions.
        """
        q, k, v = self.project_qkv(self.norm1(x))
        return *self.rotate(q, k, rope), v

    def value(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B H L d"]:
        """The value alone, as `qkv` gives it, at a third of the work."""
        return self.project_v(self.norm1(x))

    def mix(
        self, weights: Float[Tensor, "#B #H M N"] | None, values: Float[Tensor, "B H N d"]
    ) -> Float[Tensor, "B M D"]:
        """out_proj of `weights @ values`: what attention would add to the stream with these weights.

        Args:
            weights: (B, H or 1, M, N), rows need not sum to 1; None = identity (each token takes its own value).
            values: (B, H, N, d) as `qkv` gives them.
        """
        return self.merge(values if weights is None else torch.matmul(weights.to(values.dtype), values))

    def mlp(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """What the MLP adds to the stream `x` (ln_2 applied)."""
        return self.feed(self.norm2(x))

    def weights(
        self, q: Float[Tensor, "B H M d"], k: Float[Tensor, "B H N d"], bias: Tensor | None = None
    ) -> Float[Tensor, "B H M N"]:
        """softmax(q k^T / sqrt(d) + bias), the softmax in float32 or better."""
        logits = torch.matmul(q * self.scale, k.transpose(-2, -1))
        if bias is not None:
            logits = logits + bias
        exact = torch.promote_types(logits.dtype, torch.float32)
        return logits.softmax(-1, dtype=exact).to(q.dtype)

    def __call__(
        self,
        x: Float[Tensor, "B L D"],
        bias: Float[Tensor, "#B #H #L L"] | None = None,
        *,
        rope: Tensor | None = None,
        recorder: Recorder | None = None,
        layer: int = 0,
    ) -> Float[Tensor, "B L D"]:
        """The block's ordinary forward, with an additive attention bias.

        Attention runs fused; it is computed explicitly only where `recorder` wants `attn`.

        Args:
            x: residual stream (B, L, D).
            bias: additive, broadcastable to (B, H, L, L).
            rope: as in `qkv`.
            recorder: where to write the sites it wants.
            layer: the index under which they are written.
        """
        note = (lambda name, value: None) if recorder is None else lambda name, value: recorder.put(name, layer, value)
        note("block_in", x)
        normed = self.norm1(x)
        note("ln1", normed)
        q, k, v = self.project_qkv(normed)
        q, k = self.rotate(q, k, rope)
        for name, value in (("q", q), ("k", k), ("v", v)):
            note(name, value)
        bias = None if bias is None else bias.to(q.dtype)
        if recorder is not None and recorder.sums and self._may_sum(q, recorder, layer):
            heads = self._summed(q, k, v, bias, recorder)
        elif recorder is not None and recorder.wants("attn", layer):
            weights = self.weights(q, k, bias)
            note("attn", weights)
            dropout = self.attention_dropout
            heads = torch.matmul(F.dropout(weights, dropout) if dropout else weights, v)
        else:
            heads = F.scaled_dot_product_attention(
                q, k, v, attn_mask=bias, dropout_p=self.attention_dropout, scale=self.scale
            )
        note("heads", heads)
        attended = self.merge(heads)
        note("attn_out", attended)
        x = self.sum_norm1(x + attended)
        normed = self.norm2(x)
        note("ln2", normed)
        fed = self.feed(normed)
        note("mlp_out", fed)
        x = self.sum_norm2(x + fed)
        note("block_out", x)
        return x

    def _may_sum(self, q: Tensor, recorder: Recorder, layer: int) -> bool:
        """Whether nothing but the sum of attention maps is asked for."""
        return not (q.requires_grad or self.attention_dropout or recorder.keeps("attn", layer))

    def _summed(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, recorder: Recorder) -> Tensor:
        """Outputs of the heads, their attention maps added to the running sum while they are in a CPU's cache."""
        batch, heads, length, _ = q.shape
        total = recorder.running_sum(q, (batch, heads, length, k.shape[2]))
        step = max(1, CACHED // (batch * length * k.shape[2])) if q.device.type == "cpu" else heads
        parts = []
        for first in range(0, heads, step):
            some = slice(first, first + step)
            own = bias[:, some] if bias is not None and bias.shape[1] > 1 else bias
            weights = self.weights(q[:, some], k[:, some], own)
            total[:, some] += weights
            parts.append(torch.matmul(weights, v[:, some]))
        return torch.cat(parts, 1)

    def output_map(self) -> tuple[Float[Tensor, "H d D"], Float[Tensor, "D"]]:
        """The affine map of `merge` as a weight per head and a bias: merge(heads) = sum_h heads_h @ W_h + b.

        Raises:
            NotSupported: the library normalises or gates between heads and output, so no such map exists.
        """
        if not self.affine:
            raise NotSupported(
                f"{type(self.module).__name__} normalises the attention output, so it does not split exactly into heads"
            )
        parameter = next(self.module.parameters())
        probe = torch.eye(self.heads * self.head_dim, device=parameter.device, dtype=parameter.dtype)
        probe = probe.view(1, -1, self.heads, self.head_dim).transpose(1, 2)
        with torch.no_grad():
            exact = torch.promote_types(parameter.dtype, torch.float32)
            bias = self.merge(torch.zeros_like(probe[:, :, :1]))[0, 0].to(exact)
            weight = self.merge(probe)[0].to(exact) - bias
        return weight.view(self.heads, self.head_dim, -1), bias

    def pulled_back(self, directions: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N H d"], Float[Tensor, "D"]]:
        """Directions as seen before the output projection, and its bias.

        For a direction u, u . merge(heads) = sum_h heads_h . pulled_h + u . bias; cheaper than `output_map` where
        directions are few.

        Raises:
            NotSupported: as `output_map`.
        """
        parameter = next(self.module.parameters())
        exact = torch.promote_types(parameter.dtype, torch.float32)
        if not self.affine or parameter.dtype != exact:
            weight, bias = self.output_map()
            return torch.einsum("nd,hkd->nhk", directions.to(exact), weight), bias
        with torch.inference_mode(False), torch.enable_grad():
            shape = (1, self.heads, len(directions), self.head_dim)
            probe = torch.zeros(shape, device=parameter.device, dtype=exact, requires_grad=True)
            out = self.merge(probe)
            pulled = torch.autograd.grad(out, probe, directions.detach().to(exact, copy=True)[None])[0]
        return pulled[0].transpose(0, 1), out.detach()[0, 0]


def packed(owner: Backbone, name: str, out: Backbone) -> dict[str, Projection]:
    """Query, key and value one after the other in one matrix, and the output's own module."""
    rows = getattr(owner, name).shape[0] // 3
    joint = {key: Projection(owner, name, i * rows, (i + 1) * rows) for i, key in enumerate("qkv")}
    return {**joint, "out": Projection(out, "weight", 0, out.weight.shape[0])}


def split_heads(x: Float[Tensor, "B L D"], heads: int) -> Float[Tensor, "B H L d"]:
    """(B, L, H * d) -> (B, H, L, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Float[Tensor, "B H L d"]) -> Float[Tensor, "B L D"]:
    """(B, H, L, d) -> (B, L, H * d)."""
    return x.transpose(1, 2).flatten(2)

"""An embedding as an exact sum of what every head, token and MLP wrote into the residual stream.

Pooling and projection are linear once the statistics of the final norm (and, for attention pooling, its weights) of
the actual forward are held fixed; the residual stream is a sum; so the embedding is a sum.

Paper: Gandelsman et al., "Interpreting CLIP's Image Representation via Text-Based Decomposition", ICLR 2024.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.towers.base import Stack, Tower
from binderclip.models.towers.block import Backbone
from binderclip.models.towers.record import Record, Recorder, Site, resolve_blocks, resolve_layer
from binderclip.models.towers.tokens import Tokens
from binderclip.settings import check_choice

TERMS = ("q", "k", "v", "mlp_out")
"""What a run must record of every block for `contributions` not to run it again."""
By = Literal["head", "token", "head_token", "layer", "mlp"]


@dataclass(frozen=True)
class Contributions:
    """Terms of an embedding, in float32 or better, without gradients.

    Attributes:
        by: what `values` is split by.
        layers: the blocks that `values` covers, in order (K of them).
        values: "head" (B, K, H, E), "token" (B, K, L, E; source token, prefix first), "head_token" (B, K, H, L, E),
            "layer" (B, K, E; attention of a block), "mlp" (B, K, E).
        rest: every other term (B, E): stem (the stream entering block 0), mlp, attention (blocks left out),
            attention_bias, norm_bias, projection_bias, and for attention pooling pool_bias and pool_mlp.
        mlps: the MLP of every block (B, depth, E), a finer view of what `rest` or `values` hold already.
        length: of the embedding (B,).

    With `onto`, E is the number of directions and every term its dot products with them.
    """

    by: By
    layers: tuple[int, ...]
    values: Float[Tensor, "B K *S E"]
    rest: dict[str, Float[Tensor, "B E"]]
    mlps: Float[Tensor, "B M E"]
    length: Float[Tensor, "B"]

    def total(self) -> Float[Tensor, "B E"]:
        """The sum of everything: the tower's embedding (or its dot products)."""
        return self.values.flatten(1, -2).sum(1) + sum(self.rest.values())

    def unit(self) -> Contributions:
        """The same terms divided by the embedding's length, so that they sum to the unit embedding (or to cosines)."""
        norm = self.length.unsqueeze(-1)
        rest = {name: term / norm for name, term in self.rest.items()}
        values = self.values / self.length.view(-1, *[1] * (self.values.dim() - 1))
        return replace(
            self, values=values, rest=rest, mlps=self.mlps / norm.unsqueeze(-1), length=torch.ones_like(self.length)
        )


@dataclass(frozen=True)
class Readout:
    """embedding = sum_r maps[r] @ (weights[:, r] @ stream) + constants."""

    weights: Float[Tensor, "B R L"]
    maps: Float[Tensor, "R E D"]
    constants: dict[str, Float[Tensor, "B E"]]

    def apply(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B E"]:
        """What a summand of the final stream (B, L, D) contributes."""
        return torch.einsum("brl,bld,red->be", self.weights, x.to(self.weights.dtype), self.maps)

    def shared(self, x: Float[Tensor, "D"]) -> Float[Tensor, "B E"]:
        """What a vector that is added to every token contributes."""
        return torch.einsum("brl,d,red->be", self.weights, x.to(self.weights.dtype), self.maps)

    def onto(self, directions: Float[Tensor, "Q E"]) -> Readout:
        """The readout of dot products with these directions instead of the embedding itself."""
        rows = directions.to(self.maps)
        constants = {name: value @ rows.T for name, value in self.constants.items()}
        return Readout(self.weights, torch.einsum("qe,red->rqd", rows, self.maps), constants)


@torch.no_grad()
def readout(tower: Stack, tokens: Tokens) -> Readout:
    """Final norm, pooling and projection as linear maps at these tokens (the stream after the last block).

    Raises:
        NotSupported: the pooling, the projection or the norm of this tower is not linear in this sense.
    """
    if not tower.affine_projection:
        raise NotSupported("the projection is an MLP: the embedding is no sum of direct contributions")
    x = tokens.x.to(torch.promote_types(tokens.x.dtype, torch.float32))
    pool = tower.attention_pool(tokens) if isinstance(tower, Tower) else None
    plain = tower.pool_weights(tokens).to(x.dtype) if pool is None else x.new_zeros(x.shape[:2])
    weight, bias = _projection(tower, x)
    batch, constants = x.shape[0], {}
    if pool is None:
        subject = torch.einsum("bl,bld->bd", plain, x).unsqueeze(1) if tower.norm_last else x
        gamma, beta, spread, centred = _norm(tower.final_norm, subject)
        weights, maps = (plain / spread).unsqueeze(1), weight.unsqueeze(0)
        constants["norm_bias"] = (maps @ beta).sum(0).expand(batch, -1)
    else:
        gamma, beta, spread, centred = _norm(tower.final_norm, x)
        attention = pool.weights.to(x.dtype)
        weights, maps = attention / spread.unsqueeze(1), weight @ pool.maps.to(x.dtype)
        constants["norm_bias"] = (maps @ beta).sum(0).expand(batch, -1)
        constants["pool_bias"] = (weight @ pool.bias.to(x.dtype)).expand(batch, -1)
        if pool.tail is not None:
            normed = tower.norm(tokens.x).to(x.dtype)
            summed = torch.einsum("brl,bld,red->be", attention, normed, pool.maps.to(x.dtype)) + pool.bias.to(x.dtype)
            constants["pool_mlp"] = pool.tail(summed.to(tokens.x.dtype)).to(x.dtype) @ weight.T
    constants["projection_bias"] = bias.expand(batch, -1)
    maps = maps * gamma
    return Readout(weights, maps - maps.mean(-1, keepdim=True) if centred else maps, constants)


@torch.no_grad()
def contributions(
    tower: Stack,
    start: Tokens,
    final: Tokens,
    *,
    by: By = "head",
    layers: Sequence[int] | None = None,
    onto: Float[Tensor, "Q E"] | None = None,
    attn_bias: Tensor | None = None,
    bias_blocks: Container[int] | None = None,
    recorded: Mapping[Site, Tensor] | None = None,
) -> Contributions:
    """Split the embedding of `final` = run(start) into direct contributions.

    Args:
        tower: an image or text tower in eval mode.
        start: the stream entering block 0.
        final: the stream after the last block.
        by: see `Contributions`; "head_token" is large, restrict `layers`.
        layers: blocks in `values` (negative from the end); None = all. The others go to `rest`.
        onto: keep only the dot products of every term with these directions (text rows, say): E becomes Q, which makes
            "head_token" affordable.
        attn_bias, bias_blocks: as in the run that made `final`.
        recorded: the sites of `TERMS` of every block, where the run kept them; None runs the blocks again.

    Raises:
        NotSupported: the tower's pooling, projection or attention output is not linear (maximum pooling, MLP head,
            inner norms), or its blocks are post-norm.
        UsageError: unknown `by`, directions of another width, or a tower in training mode.
    """
    check_choice("by", by, ("head", "token", "head_token", "layer", "mlp"))
    if tower.module.training:
        raise UsageError("contributions need a tower in eval mode: dropout makes every pass another one")
    if any(block.post_norm for block in tower.blocks):
        raise NotSupported("post-norm blocks normalise their sums: the embedding is no sum of direct contributions")
    read = readout(tower, final)
    length = (read.apply(final.x) + sum(read.constants.values())).norm(dim=-1)
    if onto is not None:
        if onto.ndim != 2 or onto.shape[1] != read.maps.shape[1]:
            raise UsageError(f"onto must be (Q, {read.maps.shape[1]}), got shape {tuple(onto.shape)}")
        read = read.onto(onto)
    picked = range(tower.depth) if layers is None else [resolve_layer(layer, tower.depth) for layer in layers]
    if not picked:
        raise UsageError("layers names no block")
    biased = resolve_blocks(bias_blocks, tower.depth)
    parts: dict[int, Tensor] = {}
    fed_by: list[Tensor] = []
    zero = torch.zeros_like(read.constants["projection_bias"])
    rest = {"stem": read.apply(start.x), "attention": zero, "attention_bias": zero, "mlp": zero, **read.constants}
    tokens = start
    used = read.weights.any(dim=1).any(dim=0).nonzero()[:, 0]  # the class token alone, where it alone is pooled
    for layer, block in enumerate(tower.blocks):
        bias = tower.bias(tokens, attn_bias if biased is None or layer in biased else None)
        if recorded is None:
            recorder = Recorder(Record(*TERMS, layers=[layer]), tower.depth)
            tokens = tokens.with_x(block(tokens.x, bias, rope=tower.rope(tokens), recorder=recorder, layer=layer))
        q, k, v, fed = ((recorder.values if recorded is None else recorded)[Site(name, layer)] for name in TERMS)
        rows = block.weights(q[:, :, used], k, _rows_of(bias, used))
        out, shift = block.pulled_back(read.maps.flatten(0, 1))
        rest["attention_bias"] = rest["attention_bias"] + read.shared(shift)
        kept = layer in picked
        split = _attention_terms(read, used, rows, v, out, by if kept and by != "mlp" else "layer")
        written = read.apply(fed)
        fed_by.append(written)
        parts[layer] = written if by == "mlp" else split
        if by == "mlp" or not kept:
            rest["attention"] = rest["attention"] + split
        if by != "mlp" or not kept:
            rest["mlp"] = rest["mlp"] + written
    values = torch.stack([parts[layer] for layer in picked], 1)
    return Contributions(by, tuple(picked), values, rest, torch.stack(fed_by, 1), length)


def _rows_of(bias: Tensor | None, used: Tensor) -> Tensor | None:
    """A bias for some queries alone; one row may stand for all."""
    return bias if bias is None or bias.shape[-2] == 1 else bias[..., used, :]


def _attention_terms(read: Readout, used: Tensor, attention: Tensor, v: Tensor, out: Tensor, by: str) -> Tensor:
    """Terms of a block's attention.

    Args:
        used: tokens that are pooled, T of them.
        attention: (B, H, T, L), their rows.
        v: values (B, H, L, d).
        out: (R * E, H, d), the readout's maps behind the output projection.
        by: a split of attention, or `layer`.
    """
    exact = read.weights.dtype
    rows = torch.einsum("brt,bhti->brhi", read.weights[:, :, used], attention.to(exact))
    out = out.to(exact).unflatten(0, read.maps.shape[:2]).permute(0, 2, 3, 1)  # r h k e
    v = v.to(exact)
    if by in ("head", "layer"):
        term = torch.einsum("brhi,bhik,rhke->bhe", rows, v, out)
        return term if by == "head" else term.sum(1)
    total: Tensor | None = None
    for row, head_out in zip(rows.unbind(1), out, strict=True):  # one pooling head at a time bounds the memory
        shape = "bhik,hke->bhie" if by == "head_token" else "bhik,hke->bie"
        term = torch.einsum(shape, row.unsqueeze(-1) * v, head_out)
        total = term if total is None else total + term
    if total is None:
        raise UsageError("the tower pools with no head")
    return total


def _projection(tower: Stack, like: Tensor) -> tuple[Float[Tensor, "E D"], Float[Tensor, "E"]]:
    """`project` as a matrix and a bias, found by applying it to the unit vectors."""
    eye = torch.eye(tower.width, device=like.device, dtype=tower.dtype)
    bias = tower.project(torch.zeros_like(eye[:1]))[0].to(like.dtype)
    return (tower.project(eye).to(like.dtype) - bias).T, bias


def _norm(norm: Backbone, subject: Float[Tensor, "B L D"]) -> tuple[Tensor, Tensor, Float[Tensor, "B L"], bool]:
    """Scale, shift, divisor of each token and whether the mean is taken off."""
    width = subject.shape[-1]
    ones, zeros = subject.new_ones(width), subject.new_zeros(width)
    if isinstance(norm, nn.Identity):
        return ones, zeros, subject.new_ones(subject.shape[:-1]), False
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    gamma = ones if weight is None else weight.to(subject.dtype)
    beta = zeros if bias is None else bias.to(subject.dtype)
    if isinstance(norm, nn.LayerNorm):
        return gamma, beta, (subject.var(-1, unbiased=False) + norm.eps).sqrt(), True
    if type(norm).__name__ in ("RmsNorm", "RMSNorm"):
        eps = norm.eps if norm.eps is not None else torch.finfo(subject.dtype).eps
        return gamma, beta, (subject.square().mean(-1) + float(eps)).sqrt(), False
    raise NotSupported(f"final norm {type(norm).__name__} is not supported; supported: LayerNorm, RMSNorm, none")

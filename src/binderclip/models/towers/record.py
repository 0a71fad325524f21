"""What a run of a tower writes down, by name and block.

Names: `embedded` (before the norm that precedes the blocks), and of block l: `block_in`, `ln1`, `q`, `k`, `v`
(B, H, L, d; unscaled, with biases), `attn` (B, H, L, L; after the softmax), `heads` (attn @ v, B, H, L, d), `attn_out`
(what attention adds to the stream), `ln2`, `mlp_out`, `block_out`. `attn_sum`, of no block, is the sum of `attn` over
all that ran, in float32 or better: as large as one of them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from binderclip.errors import UsageError

BLOCK_SITES = ("block_in", "ln1", "q", "k", "v", "attn", "heads", "attn_out", "ln2", "mlp_out", "block_out")
SUM = "attn_sum"
FREE_SITES = ("input", "embedded", "tokens", "pooled", "embedding")
_ALL = None


class Site(NamedTuple):
    """One place in a tower: a name of this module's list and, for a block, its index (negative from the end)."""

    name: str
    layer: int | None = None


@dataclass(frozen=True, init=False)
class Record:
    """The sites that a run keeps: `Record("q", "attn", layers=[-1]) | Record("block_in")`.

    Args:
        names: names of BLOCK_SITES, or `attn_sum`.
        layers: block indices (negative from the end); None = every block.
    """

    wanted: frozenset[tuple[str, int | None]]

    def __init__(self, *names: str, layers: Sequence[int] | None = None) -> None:
        for name in names:
            if name not in (*BLOCK_SITES, SUM):
                raise UsageError(f"unknown site {name!r}; a block has {', '.join(BLOCK_SITES)}")
            if name == SUM and layers is not None:
                raise UsageError(f"{SUM} is the sum over all blocks that run: give no layers")
        picked: Iterable[int | None] = (_ALL,) if layers is None else layers
        object.__setattr__(self, "wanted", frozenset((name, layer) for layer in picked for name in names))

    def __or__(self, other: Record) -> Record:
        union = Record()
        object.__setattr__(union, "wanted", self.wanted | other.wanted)
        return union


class Recorder:
    """The notebook of one run: knows what is wanted and holds what was written.

    Args:
        record: the wanted sites.
        depth: number of blocks of the tower, to resolve negative indices.
    """

    def __init__(self, record: Record, depth: int) -> None:
        self.values: dict[Site, Tensor] = {}
        self._depth = depth
        self._wanted: set[tuple[str, int | None]] = set()
        for name, layer in record.wanted:
            self._wanted.add((name, layer if layer is None else resolve_layer(layer, depth)))
        self.sums = (SUM, _ALL) in self._wanted
        self._own = False

    def wants(self, name: str, layer: int) -> bool:
        """Whether this site is needed."""
        return self.keeps(name, layer) or (self.sums and name == "attn")

    def keeps(self, name: str, layer: int) -> bool:
        """Whether this site is kept as it is."""
        return (name, layer) in self._wanted or (name, _ALL) in self._wanted

    def put(self, name: str, layer: int | None, value: Tensor) -> None:
        """Write `value` down if it is wanted (sites without a block always are)."""
        if layer is None or self.keeps(name, layer):
            self.values[Site(name, layer)] = value
        if self.sums and name == "attn":
            total = self.values.get(Site(SUM))
            exact = value.to(torch.promote_types(value.dtype, torch.float32))
            self.values[Site(SUM)] = exact if total is None else total + exact
            self._own = total is not None

    def running_sum(self, like: Tensor, size: tuple[int, ...]) -> Tensor:
        """`attn_sum` so far, to be added to in place; zeros where nothing was added yet."""
        total = self.values.get(Site(SUM))
        if total is None:
            total = torch.zeros(size, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
        elif not self._own:  # it is the first block's map itself
            total = total.clone()
        self.values[Site(SUM)], self._own = total, True
        return total


def resolve_layer(layer: int, depth: int) -> int:
    """Block index in 0..depth-1 of a possibly negative one.

    Raises:
        UsageError: there is no such block.
    """
    if not -depth <= layer < depth:
        raise UsageError(
            f"block {layer} does not exist: the tower has {depth} blocks (0..{depth - 1}, or -1..-{depth})"
        )
    return layer % depth


def resolve_blocks(blocks: Container[int] | None, depth: int) -> Container[int] | None:
    """Non-negative indices of a list, range or set of blocks; another container or None is returned as it is."""
    if isinstance(blocks, Sequence | set | frozenset):
        return {resolve_layer(layer, depth) for layer in blocks}
    return blocks

"""Targets: which texts an image should find, and with which share of the probability.

`Targets` are settings; `bind` turns them into `Positives` for one batch, which the losses ask block by block, so that
no target matrix is ever held whole. In a block, rows are images of this process and columns texts of the whole batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses.contrastive.share import Share

__all__ = ["Diagonal", "Positives", "SameKey", "Targets", "TwoViews", "key_ids"]

Block = Float[Tensor, "r c"]
Peaks = tuple[Tensor, Tensor, Tensor, Tensor]


class Positives:
    """The targets of one batch, seen block by block; the base class is the diagonal (row i belongs to column i).

    Args:
        share: how the batch is spread over processes.
    """

    def __init__(self, share: Share) -> None:
        self.share = share

    def _diagonal(self, block: Shaped[Tensor, "r c"], i: slice, j: slice) -> Shaped[Tensor, "n"] | None:
        """A view of the entries of the block whose row and column are the same item."""
        first, last = i.start + self.share.offset, i.stop + self.share.offset
        low, high = max(first, j.start), min(last, j.stop)
        if low >= high:
            return None
        return block[low - first : high - first, low - j.start : high - j.start].diagonal()

    def _span(self, i: slice, j: slice) -> tuple[slice, slice]:
        """Where the diagonal's entries stand in the block's rows and in its columns."""
        first = i.start + self.share.offset
        low, high = max(first, j.start), min(i.stop + self.share.offset, j.stop)
        return slice(low - first, high - first), slice(low - j.start, high - j.start)

    def mask_(self, block: Block, i: slice, j: slice) -> None:
        """Set pairs that are neither positive nor negative to -inf."""

    def exclude_(self, block: Block, i: slice, j: slice) -> None:
        """Set the positives to -inf, for losses that compare a positive with negatives alone."""
        entries = self._diagonal(block, i, j)
        if entries is not None:
            entries.fill_(-torch.inf)

    def pull(self, block: Block, i: slice, j: slice) -> tuple[Float[Tensor, "r"], Float[Tensor, "c"]]:
        """Target-weighted sum of the block's logits, per row and per column."""
        rows, columns = block.new_zeros(block.shape[0]), block.new_zeros(block.shape[1])
        entries = self._diagonal(block, i, j)
        if entries is not None:
            r, c = self._span(i, j)
            rows[r], columns[c] = entries, entries
        return rows, columns

    def subtract_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        """Take `rows` times the row targets and `columns` times the column targets off the block."""
        entries = self._diagonal(block, i, j)
        if entries is not None:
            entries.sub_(rows + columns)

    def average(self, block: Block, i: slice, j: slice) -> tuple[Float[Tensor, "r"], Float[Tensor, "c"]]:
        """The block's part of the mean over all entries that are not masked, per row and per column (label smoothing).

        The mean is over the whole row or column, of which the block holds a part.
        """
        return block.sum(1) / self.share.total, block.sum(0) / self.share.total

    def subtract_average_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        """Take `rows` times the even row targets and `columns` times the even column targets off the block."""
        block.sub_((rows + columns) / self.share.total)

    def flip_(self, block: Block, i: slice, j: slice) -> None:
        """Change the sign of the positive entries."""
        entries = self._diagonal(block, i, j)
        if entries is not None:
            entries.neg_()

    def peaks(self, block: Block, i: slice, j: slice) -> Peaks:
        """Largest positive and largest other entry per row, then the same per column (for the accuracy)."""
        rows, columns = block.new_full((block.shape[0],), -torch.inf), block.new_full((block.shape[1],), -torch.inf)
        entries = self._diagonal(block, i, j)
        if entries is not None:
            r, c = self._span(i, j)
            rows[r], columns[c] = entries, entries
            block = block.clone()
            self._diagonal(block, i, j).fill_(-torch.inf)  # type: ignore[union-attr]
        return rows, block.amax(1), columns, block.amax(0)


class Targets:
    """Base of the settings."""

    needs_keys = False

    def bind(self, share: Share, keys: Int[Tensor, "n"] | None = None) -> Positives:
        """The targets of one batch.

        Args:
            share: how the batch is spread over processes.
            keys: one integer per local row, where the rule needs them.
        """
        return Positives(share)


@dataclass(frozen=True)
class Diagonal(Targets):
    """Row i belongs to column i, and to nothing else."""


@dataclass(frozen=True)
class SameKey(Targets):
    """All items with the same key (caption, label) belong together.

    Args:
        rule: "share" spreads the probability evenly over an image's positives (supervised contrastive learning,
            arXiv 2004.11362, its L_out); "ignore" keeps the diagonal as the only positive and takes the others with
            the same key out of the negatives.
    """

    rule: Literal["share", "ignore"] = "share"
    needs_keys = True

    def __post_init__(self) -> None:
        if self.rule not in ("share", "ignore"):
            raise UsageError(f"SameKey's rule must be 'share' or 'ignore', got {self.rule!r}")

    def bind(self, share: Share, keys: Int[Tensor, "n"] | None = None) -> Positives:
        """The targets of one batch, from one key per local row."""
        if keys is None:
            raise UsageError("SameKey targets need keys=: one caption or integer per row")
        whole = share.gather(keys)
        return _Grouped(share, whole) if self.rule == "share" else _Excluding(share, whole)


class _Keyed(Positives):
    def __init__(self, share: Share, keys: Int[Tensor, "N"]) -> None:
        super().__init__(share)
        self.keys = keys
        self.own = keys[share.local]

    def same(self, i: slice, j: slice) -> Bool[Tensor, "r c"]:
        return self.own[i, None] == self.keys[None, j]


class _Grouped(_Keyed):
    """Every entry with equal keys is a positive, weighted by one over their number."""

    def __init__(self, share: Share, keys: Int[Tensor, "N"]) -> None:
        super().__init__(share, keys)
        _, inverse, counts = keys.unique(return_inverse=True, return_counts=True)
        self.count = counts[inverse]

    def weights(self, block: Block, i: slice, j: slice) -> Block:
        # an item and its partners have the same key, so rows and columns share one weight
        return self.same(i, j).to(block.dtype) / self.count[j].to(block.dtype)

    def pull(self, block: Block, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        pulled = self.weights(block, i, j) * block
        return pulled.sum(1), pulled.sum(0)

    def exclude_(self, block: Block, i: slice, j: slice) -> None:
        raise UsageError("this link needs one positive a row: use targets SameKey('ignore') or Diagonal()")

    def subtract_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        block.sub_(self.weights(block, i, j), alpha=rows + columns)

    def flip_(self, block: Block, i: slice, j: slice) -> None:
        block.mul_(1 - 2 * self.same(i, j).to(block.dtype))

    def peaks(self, block: Block, i: slice, j: slice) -> Peaks:
        same = self.same(i, j)
        good, other = block.masked_fill(~same, -torch.inf), block.masked_fill(same, -torch.inf)
        return good.amax(1), other.amax(1), good.amax(0), other.amax(0)


class _Excluding(_Keyed):
    """The diagonal is positive; other entries with equal keys are left out."""

    def masked(self, i: slice, j: slice) -> Bool[Tensor, "r c"]:
        same = self.same(i, j)
        entries = self._diagonal(same, i, j)
        if entries is not None:
            entries.fill_(False)
        return same

    def mask_(self, block: Block, i: slice, j: slice) -> None:
        block.masked_fill_(self.masked(i, j), -torch.inf)

    @cached_property
    def candidates(self) -> Int[Tensor, "N"]:
        """Entries that are not masked in each item's row, and as many in its column."""
        _, inverse, counts = self.keys.unique(return_inverse=True, return_counts=True)
        return len(self.keys) + 1 - counts[inverse]

    def average(self, block: Block, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        there = block.masked_fill(self.masked(i, j), 0.0)
        return there.sum(1) / self.candidates[self.share.local][i], there.sum(0) / self.candidates[j]

    def subtract_average_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        candidates = self.candidates.to(block.dtype)  # else a quotient of integers is rounded to float32
        even = rows / candidates[self.share.local][i, None] + columns / candidates[None, j]  # (r, c)
        block.sub_(even.masked_fill_(self.masked(i, j), 0.0))


class TwoViews(Positives):
    """Every view against all other views: of 2 n rows in a process, row r belongs to row r + n, and itself is left out.

    The matrix is symmetric, so rows alone are scored.

    Args:
        share: of the rows of both views (`Share.doubled`).
    """

    def __init__(self, share: Share) -> None:
        super().__init__(share)
        count = share.counts[share.rank]
        self._partner = torch.arange(count).roll(count // 2) + share.offset  # (2 n,), columns

    def _at(self, block: Block, i: slice, j: slice) -> tuple[Int[Tensor, "k"], Int[Tensor, "k"]]:
        """Row and column in the block of each positive that it holds."""
        partner = self._partner[i]
        rows = ((partner >= j.start) & (partner < j.stop)).nonzero().flatten()
        return rows.to(block.device), (partner[rows] - j.start).to(block.device)

    def mask_(self, block: Block, i: slice, j: slice) -> None:
        entries = self._diagonal(block, i, j)
        if entries is not None:
            entries.fill_(-torch.inf)

    def exclude_(self, block: Block, i: slice, j: slice) -> None:
        block[self._at(block, i, j)] = -torch.inf

    def pull(self, block: Block, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        rows, columns = block.new_zeros(block.shape[0]), block.new_zeros(block.shape[1])
        at = self._at(block, i, j)
        return rows.index_put((at[0],), block[at]), columns

    def subtract_(self, block: Block, i: slice, j: slice, rows: float, columns: float) -> None:
        block[self._at(block, i, j)] -= rows + columns

    def average(self, block: Block, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        raise UsageError("label smoothing does not go with same_view_negatives")

    def flip_(self, block: Block, i: slice, j: slice) -> None:
        raise UsageError("same-view negatives belong to a softmax link")

    def peaks(self, block: Block, i: slice, j: slice) -> Peaks:
        good, at = block.new_full((block.shape[0],), -torch.inf), self._at(block, i, j)
        good[at[0]] = block[at]
        none = block.new_full((block.shape[1],), -torch.inf)
        return good, block.index_put(at, block.new_tensor(-torch.inf)).amax(1), none, none


def key_ids(keys: Sequence[str] | Sequence[int] | Int[Tensor, "n"], device: torch.device) -> Int[Tensor, "n"]:
    """Keys as integers that mean the same in every process: texts by a 63-bit hash, integers as they are.

    Args:
        keys: captions, labels, or an integer tensor.
        device: where the result shall live.
    """
    if isinstance(keys, Tensor):
        return keys.to(device=device, dtype=torch.int64)
    values = [
        int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") >> 1
        if isinstance(key, str)
        else int(key)
        for key in keys
    ]
    return torch.tensor(values, dtype=torch.int64, device=device)

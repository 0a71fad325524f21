"""Pools for tests: samples in memory, cut into any number of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from binderclip.curate import Shard, keys_of
from binderclip.curate.engine.columns import take_rows


class ListTable:
    """Columns of a pool, cut into `shards` pieces (some empty where there are more than samples), in a given order."""

    def __init__(self, columns: Mapping[str, Any], names: Sequence[str], shards: int = 1, order: Any = None) -> None:
        order = np.arange(len(names)) if order is None else np.asarray(order)
        self.pieces = np.array_split(order, shards)
        self.columns, self.names = columns, list(names)
        self.ids = [str(number) for number in range(shards)]
        self.skipped: list[tuple[str, str]] = []
        self.loads = 0

    def load(self, id: str) -> Shard:
        self.loads += 1
        rows = self.pieces[int(id)]
        names = [self.names[row] for row in rows]
        own: dict[str, Any] = {"name": names, "text": names, "texts": [[name] for name in names]}
        for name, values in self.columns.items():
            own[name] = take_rows(values, rows)
        return Shard(id, keys_of(names), own, stamp=f"{id} of {len(self.ids)}")


def made_pool(n: int = 500, seed: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Columns `score` (with ties), `other`, `group`, `pair` (groups of two) and `kind` (texts), and samples' names."""
    rng = np.random.default_rng(seed)
    columns = {
        "score": rng.integers(0, 40, n) / 40,
        "other": rng.normal(size=n),
        "group": rng.zipf(1.5, n).clip(max=50),
        "pair": rng.permutation(n) // 2,
        "kind": [("a", "b", "c")[i] for i in rng.integers(0, 3, n)],
    }
    return columns, [f"sample {i}" for i in range(n)]

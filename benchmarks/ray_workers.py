"""Embedding shards by two workers of a local Ray cluster, beside the same in this process."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, compare
from binderclip import load
from binderclip.curate import LateModel, embed_shards, open_table
from binderclip.data import RayRunner, load_data, write_shards


def run(*, samples: int = 1600, per_shard: int = 100, workers: int = 2, repeats: int = 3) -> list[Row]:
    """Drawings of the packs in shards; the first run starts the workers and is not counted.

    Args:
        samples: pictures with captions.
        per_shard: of them.
        workers: of the cluster.
        repeats: pairs.
    """
    with tempfile.TemporaryDirectory() as name, RayRunner("local", workers=workers) as runner:
        folder = Path(name) / "pool"
        folder.mkdir()
        write_shards(load_data("noto-emoji", split="train")[:samples], folder / "x-%03d.tar", per_shard=per_shard)
        pool, model = open_table(str(folder)), LateModel(partial(load, "small"))

        def embed(elsewhere: RayRunner | None) -> int:
            out = Path(name) / "out"
            shutil.rmtree(out, ignore_errors=True)
            return embed_shards(pool, out, model, runner=elsewhere).samples

        return [
            compare(
                f"{samples} pictures and captions in shards of {per_shard}, `small`",
                lambda: embed(runner),
                lambda: embed(None),
                repeats=repeats,
                unit="s",
                goal="at least 0.9x",
                target=0.9,
                peer_name="this process, with all cores",
                note=f"{workers} workers, which have their model already",
            )
        ]

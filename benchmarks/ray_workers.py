"""Embedding shards by two workers of a local Ray cluster, beside the same in this process."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import Row, compare
from binderclip import load
from binderclip.curate import LateModel, embed_shards, open_table
from binderclip.curate.embed import EmbedWork, part_names
from binderclip.data import LocalRunner, RayRunner, load_data, write_shards
from binderclip.data.parallel.runner import ShardRunner


def run(*, samples: int = 1600, per_shard: int = 100, workers: int = 2, repeats: int = 3) -> list[Row]:
    """Drawings of the packs in shards.

    Args:
        samples: pictures with captions.
        per_shard: of them.
        workers: of the cluster.
        repeats: pairs.
    """
    with tempfile.TemporaryDirectory() as name, RayRunner("local", workers=workers) as runner:
        folder, out = Path(name) / "pool", Path(name) / "out"
        folder.mkdir()
        write_shards(load_data("noto-emoji", split="train")[:samples], folder / "x-%03d.tar", per_shard=per_shard)
        pool, model = open_table(str(folder)), LateModel(partial(load, "small"))
        parts = dict(zip(pool.ids, part_names(pool.ids), strict=True))
        work = EmbedWork(pool, str(out), parts, model, model.fingerprint, "float16", 64)

        def whole(elsewhere: RayRunner | None) -> int:
            shutil.rmtree(out, ignore_errors=True)
            return embed_shards(pool, out, model, runner=elsewhere).samples

        def shards(chosen: ShardRunner) -> int:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            return sum(part.samples for _, part in chosen.over(pool.ids, work))

        title = f"{samples} pictures and captions in shards of {per_shard}, `small`"
        common: dict[str, Any] = {
            "repeats": repeats, "unit": "s", "goal": "at least 0.9x", "target": 0.9,
            "peer_name": "this process, with all cores",
        }  # fmt: skip
        return [
            compare(
                title, lambda: shards(runner), lambda: shards(LocalRunner()), **common,
                note=f"{workers} workers, which have their model already",
            ),
            compare(
                f"{title}, a whole call", lambda: whole(runner), lambda: whole(None), **common,
                note=f"{workers} workers are started, import torch and load the model in every call, which hours of "
                "work would not notice",
            ),
        ]  # fmt: skip

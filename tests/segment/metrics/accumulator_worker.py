"""The work of each of two processes of `test_accumulator.py`, which sees other pictures than the other one."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accumulated import KINDS, PICTURES, filled, flat, picture
from torchmetrics import MetricCollection

from binderclip.errors import UsageError
from binderclip.segment.metrics import IoU, as_torchmetric


def work(rank: int, store: Path) -> dict[str, Any]:
    """Scores of all accumulators, gathered and through torchmetrics, and what is said of different ones."""
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    found: dict[str, Any] = {}
    try:
        for case, mine in (("split", range(rank, PICTURES, 2)), ("one sees nothing", range(PICTURES if rank else 0))):
            for kind in KINDS:
                metric = MetricCollection({"it": as_torchmetric(KINDS[kind]())})
                for number in mine:
                    metric.update(*picture(kind, number))
                synced = metric.compute()
                found[f"{case}, {kind}"] = {
                    "gathered": flat(filled(kind, mine).gathered().compute()),
                    "torchmetrics": {name: float(value) for name, value in synced.items()},
                }
        try:
            IoU(2 + rank).gathered()
        except UsageError as error:
            found["refused"] = str(error)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[2]).write_text(json.dumps(work(1, Path(sys.argv[1]))))

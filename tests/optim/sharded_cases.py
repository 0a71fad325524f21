"""Clipping of FSDP2 shards in real processes; run as a program it is one of them."""

from __future__ import annotations

import math
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from binderclip.optim import Clip, NormClip, ValueClip, clip_grad_norm_

STEPS = 4
CASES = {
    "norm": lambda: NormClip(0.3),
    "norm-1": lambda: NormClip(0.3, 1.0),
    "norm-inf": lambda: NormClip(0.05, math.inf),
    "value": lambda: ValueClip(0.02),
    "tensor": lambda: Clip(0.1, granularity="tensor"),
    "unit": lambda: Clip(0.05, granularity="unit"),
    "unit-columns": lambda: Clip(0.05, granularity="unit", unit_dim=1),
    "group": lambda: Clip(0.1, granularity="group", groups=lambda name: name.split(".")[-1]),
    "drop-in": lambda: _DropIn(),
}


class _DropIn:
    report = None

    def __call__(self, params):
        clip_grad_norm_([tensor for _, tensor in params], 0.3)


def build():
    torch.manual_seed(0)
    # 5 rows on 2 or 4 processes leave unequal and empty shards
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def run(clip, shard):
    """Weights after a few steps with this clip, and the last report's norm."""
    model = build()
    model = shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        batch = torch.randn(7, 6, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        (3 * model(batch).square().sum()).backward()
        clip(model.named_parameters())
        optimizer.step()
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return {"weights": [p.detach() for p in whole], "norm": None if clip.report is None else clip.report.norm}


def shard_all(model):
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def shard_some(model):
    """A mixed model: one layer sharded, the rest whole in every process."""
    fully_shard(model[2])
    return model


def shard_hybrid(model):
    """Replicated over one mesh dimension, sharded over the other."""
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("replicate", "shard"))
    return fully_shard(model, mesh=mesh)


def main(rank, world, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    kinds = {"all": shard_all, "mixed": shard_some} | ({"hybrid": shard_hybrid} if world == 4 else {})
    results = {(name, kind): run(make(), shard) for name, make in CASES.items() for kind, shard in kinds.items()}
    torch.save(results, f"{out}.{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])

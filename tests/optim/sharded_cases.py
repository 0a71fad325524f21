"""Clipping of FSDP2 shards in real processes; run as a program it is one of them."""

from __future__ import annotations

import json
import math
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from binderclip.optim import METHODS, AdaGC, AutoClip, Clip, CoordinateClip, NormClip, ValueClip, ZClip, clip_grad_norm_

STEPS, FEW = 8, 6
# settings under which 8 steps leave the warm-up, fill a window and clip; the other methods' defaults do
SETTINGS = {
    "norm": lambda: NormClip(0.3),
    "value": lambda: ValueClip(0.02),
    "zclip": lambda: ZClip(max_grad_norm=None, warmup_steps=4, z_thresh=0.5),
    "autoclip": lambda: AutoClip(30),
    "adagc": lambda: AdaGC(warmup_steps=4),
    "coordinate": lambda: CoordinateClip(0.3),
}
CASES = {name: SETTINGS.get(name, make) for name, make in METHODS.items()} | {
    "coordinate-global": lambda: CoordinateClip(0.3, granularity="global"),
    "coordinate-group": lambda: CoordinateClip(0.3, granularity="group", groups=lambda name: name.split(".")[-1]),
    "coordinate-one": lambda: CoordinateClip(1.0),
    "coordinate-update": lambda: CoordinateClip(0.3, where="update"),
    "autoclip-tensor": lambda: AutoClip(30, granularity="tensor", window=5),
    "norm-1": lambda: NormClip(0.3, 1.0),
    "norm-inf": lambda: NormClip(0.05, math.inf),
    "tensor": lambda: Clip(0.1, granularity="tensor"),
    "unit": lambda: Clip(0.05, granularity="unit"),
    "unit-columns": lambda: Clip(0.05, granularity="unit", unit_dim=1),
    "group": lambda: Clip(0.1, granularity="group", groups=lambda name: name.split(".")[-1]),
    "centre": lambda: Clip(0.1, action="centre"),
    "centre-coordinate": lambda: Clip(0.02, granularity="coordinate", statistic="max", action="centre"),
    "residual": lambda: Clip(0.1, granularity="tensor", action="residual"),
    "shrink": lambda: _Shrinking(0.3, nonfinite="shrink", shrink="2.weight"),
    "drop-in": lambda: _DropIn(),
}


class _DropIn:
    report = None

    def __call__(self, params):
        clip_grad_norm_([tensor for _, tensor in params], 0.3)


class _Shrinking(NormClip):
    """At its third call a row of one gradient is infinite, in whichever process has it."""

    calls = 0

    def __call__(self, params):
        params = list(params)
        self.calls += 1
        if self.calls == 3:
            grad = dict(params)["0.weight"].grad
            first = grad.to_local() if hasattr(grad, "to_local") else grad
            if not dist.is_initialized() or dist.get_rank() % 2 == 0 or first is grad:
                first[:1] = math.inf
        return super().__call__(params)


def build(dtype):
    torch.manual_seed(0)
    # 5 rows on 2 or 4 processes leave unequal and empty shards
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def whole(tensor):
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().clone()


def run(clip, shard, steps):
    """Weights after some steps with this clip, the reports' norms, and how many steps clipped anything."""
    model = shard(build(torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(1)
    if getattr(clip, "where", "") == "update":
        clip.attach(optimizer, model.named_parameters())
    norms, clipped = [], 0
    for step in range(steps):
        batch = torch.randn(7, 6, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        ((1 + step % 3) * model(batch).square().sum()).backward()
        if getattr(clip, "where", "") != "update":
            clip(model.named_parameters())
        optimizer.step()
        if clip.report is not None:
            norms.append(clip.report.norm)
            clipped += bool(clip.report.clipped.any())
    return {"weights": [whole(p) for p in model.parameters()], "norms": norms, "clipped": clipped}


def run_single_steps(clip, shard):
    """In float32: the clipped gradients of every step, all steps from the same weights."""
    model = shard(build(torch.float32))
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(STEPS):
        model.zero_grad()
        ((1 + step % 3) * model(torch.randn(7, 6, generator=generator)).square().sum()).backward()
        clip(model.named_parameters())
        found.append([whole(p.grad) for p in model.parameters()])
    return found


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


def steps_of(name, kind):
    """More for every method on a sharded model than for the variants, because each step takes many messages."""
    return STEPS if name in METHODS and kind == "all" else FEW


def runs(name, kind, world):
    """Replicas of shards need four processes; there variants of a mixed model say nothing new."""
    return kind == "all" or (world == 4 if kind == "hybrid" else world == 2 or name in METHODS)


def main(rank, world, store, out, asked):
    """`asked`: pairs of a case and how it is sharded, then the names of those of single precision, as JSON."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    kinds = {"all": shard_all, "mixed": shard_some, "hybrid": shard_hybrid}
    results = {
        (name, kind): run(make(), shard, steps_of(name, kind))
        for name, make in CASES.items()
        for kind, shard in kinds.items()
        if [name, kind] in asked[0] and runs(name, kind, world)
    }
    single = {name: run_single_steps(CASES[name](), shard_all) for name in METHODS if name in asked[1]}
    torch.save((results, single), f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], json.loads(sys.argv[5]))

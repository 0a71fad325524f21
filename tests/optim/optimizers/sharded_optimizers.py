"""Guarded optimizers on FSDP2 shards in real processes; run as a program it is one of them."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from binderclip.errors import NotSupported
from binderclip.fit.state import load_optimizer, optimizer_state
from binderclip.optim import ClippedAdaGrad, ClippedAdam, MedianMomentum, SampleMedianSGD, StableSPAM

STEPS = 5
CASES = {
    "adagrad": lambda p: ClippedAdaGrad(p, 0.1, clip=0.3),
    "adagrad-global": lambda p: ClippedAdaGrad(p, 0.1, clip=0.3, granularity="global", delayed="gradient"),
    "adagrad-norm": lambda p: ClippedAdaGrad(p, 0.1, clip=0.3, form="norm", v0=1.0),
    "adam-values": lambda p: ClippedAdam(p, 0.1, clip=0.02, granularity="coordinate"),
    "median": lambda p: MedianMomentum(p, 0.1, tau=0.1),
    "median-global": lambda p: MedianMomentum(p, 0.1, tau=0.1, granularity="global"),
    "median-l1": lambda p: MedianMomentum(p, 0.1, "l1", tau=0.02),
    "spam": lambda p: StableSPAM(p, 0.1, theta=0.5, update_proj_gap=3),
}


def build():
    torch.manual_seed(0)
    # 5 rows on 2 processes leave unequal shards, 1 row an empty one
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def shard(model):
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer)
    return fully_shard(model)


def run(make, wrap, reload_at=-1):
    """Weights and the fraction of active bounds after a few steps, with a save and a load in between."""
    model = wrap(build())
    optimizer = make(model.parameters())
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        batch = torch.randn(7, 6, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        ((30 if step == 3 else 3) * model(batch).square().sum()).backward()
        optimizer.step()
        if step == reload_at:
            saved = optimizer_state(optimizer)
            optimizer = make(model.parameters())
            load_optimizer(optimizer, saved)
    whole = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return {"weights": [p.detach() for p in whole], "active": optimizer.active_fraction()}


def refusal():
    """What collecting from shards says."""
    model = shard(build())
    model(torch.ones(2, 6, dtype=torch.float64)).sum().backward()
    try:
        SampleMedianSGD(model.parameters(), 0.1).collect()
    except NotSupported as error:
        return str(error)
    return ""


def main(rank, world, store, out):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    results = {name: run(make, shard) for name, make in CASES.items()}
    results |= {f"{name}, reloaded": run(make, shard, reload_at=1) for name, make in CASES.items()}
    results["refusal"] = refusal()
    torch.save(results, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])

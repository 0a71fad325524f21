"""Are path gradients of a flow as exact, less noisy, and cheap when the force is carried along?"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor

from binderclip.generate import CouplingFlow, effective_sample_size
from binderclip.losses import forward_kl, reverse_kl
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, one_thread, random_rows

FAST, TWICE, REPARAM, LIKELIHOOD = "fast path", "path in two passes", "reparametrised", "maximum likelihood"
DIM, COUPLINGS, WIDTH, STEPS, BATCH, RATE, DATA, DRAWS, TIMED = 4, 4, 16, 400, 64, 3e-3, 100, 2000, 12
ERROR, ESS, TIME = "largest error of an identity", "effective sample size", "milliseconds of a step"
KL = "KL(p | q) on fresh samples, in nats"
SAME_REVERSE, SAME_FORWARD = "fast against two passes, KL(q | p)", "fast against two passes, KL(p | q)"
OPTIMUM = "the path's gradient where q = p"


def modes(x: Tensor) -> Tensor:
    """The energy of a mixture with modes at +-1 in every coordinate and variance 0.5, as published."""
    return -torch.logaddexp(-(x - 1).square(), -(x + 1).square()).sum(1)


def drawn(count: int, g: torch.Generator) -> Tensor:
    """Samples of it."""
    return 2.0 * torch.randint(2, (count, DIM), generator=g) - 1 + 0.5**0.5 * torch.randn(count, DIM, generator=g)


def trained(how: Any, seed: int, forward: bool) -> float:
    """What a flow reaches after `STEPS` steps of Adam: KL(p | q) if trained by it, else an effective sample size."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    flow, data, fresh = CouplingFlow(DIM, COUPLINGS, WIDTH), drawn(DATA, g), drawn(DRAWS, g)
    optimizer = torch.optim.Adam(flow.parameters(), RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        rows = data[torch.randint(DATA, (BATCH,), generator=g)]
        draw: dict[str, Any] = {"samples": BATCH, "generator": g}
        loss = forward_kl(flow, rows, modes, how) if forward else reverse_kl(flow, modes, how, **draw)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        if forward:  # every coordinate's exp(-energy) has the integral 2 sqrt(pi)
            return float((-modes(fresh) - flow.log_prob(fresh)).mean()) - DIM * math.log(2 * math.pi**0.5)
        x, log_prob = flow.sample(DRAWS, g)
        return float(effective_sample_size(-modes(x) - log_prob))


def _gradient(flow: CouplingFlow, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(flow.parameters()))])


def identities(seed: int) -> list[Row]:
    """Largest differences of gradients, over the largest entry, on a random flow; and at the optimum; float64."""
    torch.manual_seed(seed)
    flow = CouplingFlow(DIM, COUPLINGS, WIDTH).double()
    z = torch.randn(8, DIM, dtype=torch.float64)

    def normal(x: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1)

    # as it starts the flow is the identity, and q the standard normal distribution
    at_optimum = max(float(_gradient(flow, reverse_kl(flow, normal, samples=one[None])).abs().max()) for one in z)
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rows = [Row(ERROR, OPTIMUM, at_optimum)]
    losses: dict[str, Any] = {
        SAME_REVERSE: lambda how: reverse_kl(flow, modes, how, samples=z),
        SAME_FORWARD: lambda how: forward_kl(flow, z, modes, how),
    }
    for name, of in losses.items():
        fast, twice = (_gradient(flow, of(how)) for how in ("fast_path", "path"))
        rows.append(Row(ERROR, name, float((fast - twice).abs().max() / twice.abs().max())))
    return rows


def _times(seed: int) -> list[Row]:
    """The least time of several steps, forward and backward, of 16 dimensions and six couplings, in turns."""
    torch.manual_seed(seed)
    flow, z = CouplingFlow(16, 6, 64), torch.randn(256, 16)
    names: dict[str, Any] = {FAST: "fast_path", TWICE: "path", REPARAM: "reparam"}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(TIMED):
        for name, how in names.items():
            began = time.process_time()
            reverse_kl(flow, modes, how, samples=z).backward()
            seconds[name].append(time.process_time() - began)
    return [Row(TIME, name, 1e3 * min(values)) for name, values in seconds.items()]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    with one_thread():
        rows = identities(seed) + _times(seed)
        for name, how in ((FAST, "fast_path"), (REPARAM, "reparam")):
            rows.append(Row(ESS, name, trained(how, seed, forward=False)))
        for name, how in ((FAST, "fast_path"), (LIKELIHOOD, "ml")):
            rows.append(Row(KL, name, trained(how, seed, forward=True)))
    return rows


def _holds(table: Table) -> tuple[bool, str]:
    worst = {name: float(table.values(ERROR, name).max()) for name in (SAME_REVERSE, SAME_FORWARD, OPTIMUM)}
    return max(worst.values()) < 1e-10, "; ".join(f"{name}: {value:.0e}" for name, value in worst.items())


def null(seed: int) -> list[Row]:
    """Random sizes and times, and identities that miss."""
    return [Row(ERROR, n, 0.5) for n in (SAME_REVERSE, SAME_FORWARD, OPTIMUM)] + random_rows(STUDY.criteria, seed)


PANELS = ((KL, (FAST, LIKELIHOOD)), (ESS, (FAST, REPARAM)), (TIME, (FAST, TWICE, REPARAM)))
STUDY = declared_study(
    __name__, measure, draw=dot_panels(*PANELS, rotation=30), seeds=range(10, 20), null=null, registered="08798f30d3b8"
)

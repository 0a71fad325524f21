"""Does Net-Trim keep more accuracy than magnitude pruning, and find sparse weights from a few samples?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress import NetTrim, net_trim_layer
from binderclip.fit import fit
from binderclip.studies.harness import Row, Table, declared_study
from binderclip.studies.protocols.training import sparse_net

TERMS, SIZES, FACTOR = 4, (32, 64, 128), 8
TRAIN, BATCH, STEPS, WIDTH, HIDDEN = 3000, 64, 300, 64, 2
KAPPA, SAMPLES, ITERATIONS = 0.05, 500, 1500
BEYOND, ERROR = "errors beyond their bound", "relative error of the weights"
ACCURACY, SPARSITY, REFIT = "test accuracy", "zeros", "magnitude, refitted"
TRIM, LEAST, MAGNITUDE, RANDOM, DENSE = "Net-Trim", "least squares", "magnitude", "random", "dense"


def recovery(seed: int, n: int) -> list[Row]:
    """A neuron with four weights that are not zero, taught by 8 s log(n / s) samples."""
    g = torch.Generator().manual_seed(1000 * seed + n)
    x = torch.randn(round(FACTOR * TERMS * math.log(n / TERMS)), n, generator=g, dtype=torch.float64)

    def sparse() -> Tensor:
        weight = torch.zeros(n, 1, dtype=torch.float64)
        signs = torch.randint(2, (TERMS,), generator=g) * 2.0 - 1
        weight[torch.randperm(n, generator=g)[:TERMS], 0] = signs * (1 + torch.rand(TERMS, generator=g)).double()
        return weight

    weight, other = sparse(), sparse()
    y = (x @ weight).relu()
    active = y[:, 0] > 0
    found = {
        TRIM: net_trim_layer(x, y, "relu", 0.0, iterations=20_000, tolerance=1e-11).weight.T,
        LEAST: torch.linalg.lstsq(x[active], y[active], driver="gelsd").solution,
        RANDOM: other,
    }
    return [Row(ERROR, name, float((u - weight).norm() / weight.norm()), f"N = {n}") for name, u in found.items()]


def masked(net: nn.Sequential, zeros: dict[str, float], score: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """A copy in which each layer has lost the given share of its weights, those of least score."""
    pruned = copy.deepcopy(net)
    for name, share in zeros.items():
        weight = pruned.get_parameter(f"{name}.weight").data
        weight[score(weight) <= score(weight).flatten().kthvalue(max(1, round(share * weight.numel()))).values] = 0.0
    return pruned


@torch.no_grad()
def refitted(net: nn.Sequential, pruned: nn.Sequential, x: Tensor) -> nn.Sequential:
    """A copy whose weights that are left, and biases, fit each layer's responses before ReLU by least squares."""
    again = copy.deepcopy(pruned)
    for before, after in zip(net, again, strict=True):
        y = before(x)
        if isinstance(after, nn.Linear):
            for row, kept in enumerate(after.weight != 0):
                known = torch.cat([x[:, kept], torch.ones_like(x[:, :1])], 1)
                solution = torch.linalg.lstsq(known, y[:, row : row + 1], driver="gelsd").solution[:, 0]
                after.weight[row, kept], after.bias[row] = solution[:-1], solution[-1]
        x = y
    return again


@torch.no_grad()
def beyond(net: nn.Sequential, pruned: nn.Sequential, epsilons: dict[str, float], x: Tensor) -> int:
    """How many layers, alone, err by more than epsilon, and how many of the whole by more than the errors' sum."""
    count, bound, through = 0, 0.0, x
    for place, (before, after) in enumerate(zip(net, pruned, strict=True)):
        if not isinstance(before, nn.Linear):
            continue
        follows = torch.relu if place + 1 < len(net) else lambda t: t
        epsilon, target = epsilons[str(place)], follows(before(x))
        count += float((follows(after(x)) - target).norm()) > 1.01 * epsilon
        # ReLU does not stretch: errors of the inputs grow by the layer's largest singular value at most.
        bound = bound * float(torch.linalg.matrix_norm(after.weight, 2)) + epsilon
        x, through = target, follows(after(through))
        count += float((through - target).norm()) > 1.01 * bound
    return count


def trained(seed: int) -> list[Row]:
    """A trained perceptron, pruned without labels or further training."""
    net = sparse_net.perceptron(seed, WIDTH, HIDDEN)
    batches = sparse_net.PoolBatches(sparse_net.training_rows(seed, TRAIN), BATCH, seed)
    fit(lambda b: F.cross_entropy(net(b[0]), b[1]), net, batches, steps=STEPS, lr=2e-3, optimizer="adamw")
    x, own = sparse_net.pictures("train")[0][sparse_net.training_rows(seed, SAMPLES)], copy.deepcopy(net.eval())
    layers = NetTrim(KAPPA, iterations=ITERATIONS, samples=SAMPLES)(own, x)
    zeros = {name: float(torch.eq(own.get_parameter(f"{name}.weight"), 0).float().mean()) for name in layers}
    epsilons = {name: layer.epsilon for name, layer in layers.items()}
    g = torch.Generator().manual_seed(seed)
    models = {
        DENSE: net, TRIM: own, MAGNITUDE: masked(net, zeros, torch.abs),
        RANDOM: masked(net, zeros, lambda w: torch.rand(w.shape, generator=g)),
    }  # fmt: skip
    models[REFIT] = refitted(net, models[MAGNITUDE], x)
    rows = [Row(ACCURACY, name, sparse_net.accuracy_on_test(model)) for name, model in models.items()]
    rows += [Row(SPARSITY, TRIM, share, f"layer {place}") for place, share in enumerate(zeros.values(), start=1)]
    return rows + [Row(BEYOND, name, beyond(net, models[name], epsilons, x)) for name in (TRIM, MAGNITUDE, RANDOM)]


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [*(row for n in SIZES for row in recovery(seed, n)), *trained(seed)]


def none_beyond(table: Table) -> tuple[bool, str]:
    """No seed has an error beyond its bound."""
    counts = table.values(BEYOND, TRIM)
    return bool((counts == 0).all()), f"{int(counts.sum())} of {len(counts) * 2 * (HIDDEN + 1)} errors"


STUDY = declared_study(__name__, measure, seeds=range(20, 32), registered="fbd18c9e17c8")

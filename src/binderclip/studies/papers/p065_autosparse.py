"""Does the share of the gradient that masked weights keep trade sparsity for accuracy, and beat none?"""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from binderclip.compress import AutoSparse, MaskedGradient
from binderclip.fit import fit
from binderclip.optim import param_groups
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training import sparse_net

TRAIN, BATCH, STEPS, RATE = 3000, 64, 300, 0.05
DECAY, THRESHOLD_DECAY, EQUAL_DECAY = 1e-4, 0.03, 0.0307
ACCURACY, SPARSITY = "test accuracy", "zeros"
ANNEALED = {"alpha 0 (STR)": 0.0, "alpha 0.25": 0.25, "alpha 0.5": 0.5, "alpha 0.75": 0.75, "alpha 1": 1.0}
FIXED, EQUAL, MAGNITUDE, DENSE = "alpha 0.5, fixed", "alpha 0.75, zeros of STR", "magnitude", "dense"
SPREAD = "largest less smallest share of zeros of a layer"


def train(
    seed: int, gradient: MaskedGradient | None, threshold_decay: float = THRESHOLD_DECAY
) -> tuple[nn.Sequential, dict[str, float]]:
    """The finalized network and the share of zeros of each layer but the first and the last; None trains densely."""
    net = sparse_net.perceptron(seed)
    sparse = None if gradient is None else AutoSparse(net, gradient)
    groups = param_groups(net, DECAY) if sparse is None else sparse.param_groups(DECAY, threshold_decay=threshold_decay)
    fit(
        lambda batch: F.cross_entropy(net(batch[0]), batch[1]),
        groups,
        sparse_net.PoolBatches(sparse_net.training_rows(seed, TRAIN), BATCH, seed),
        steps=STEPS,
        lr=RATE,
        optimizer={"name": "sgd", "momentum": 0.9},
        callbacks=[] if sparse is None else [sparse],
        module=net,
    )
    if sparse is None:
        return net.eval(), {}
    sparse.finalize()
    return net.eval(), {
        name: float(torch.eq(net.get_parameter(f"{name}.weight"), 0).float().mean()) for name in sparse.layers
    }


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    methods = {name: MaskedGradient("anneal", alpha) for name, alpha in ANNEALED.items()}
    zeros: dict[str, float] = {}
    methods |= {FIXED: MaskedGradient("fixed", 0.5), EQUAL: MaskedGradient("anneal", 0.75)}
    for name, gradient in methods.items():
        net, shares = train(seed, gradient, EQUAL_DECAY if name == EQUAL else THRESHOLD_DECAY)
        zeros = shares if name == "alpha 0.5" else zeros
        rows += [
            Row(ACCURACY, name, sparse_net.accuracy_on_test(net)),
            Row(SPARSITY, name, sum(shares.values()) / len(shares)),
            Row(SPREAD, name, max(shares.values()) - min(shares.values())),
        ]
    dense, _ = train(seed, None)
    pruned = copy.deepcopy(dense)
    for layer, share in zeros.items():
        weight = pruned.get_parameter(f"{layer}.weight").data
        least = weight.abs().flatten().kthvalue(max(1, round(share * weight.numel()))).values
        weight[weight.abs() <= least] = 0.0
    rows += [
        Row(ACCURACY, name, sparse_net.accuracy_on_test(net)) for name, net in ((DENSE, dense), (MAGNITUDE, pruned))
    ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Sparsity by alpha, and accuracy by sparsity."""
    left, right = figure.subplots(1, 2)
    alphas = list(ANNEALED.values())
    for seed in STUDY.seeds:
        shares = [table.values(SPARSITY, name)[list(STUDY.seeds).index(seed)] for name in ANNEALED]
        left.plot(alphas, shares, "o-", color="C0", alpha=0.4, markersize=3)
    left.set(xlabel="alpha at the start", ylabel="share of zeros", title="without a target")
    for number, name in enumerate((*ANNEALED, FIXED, EQUAL)):
        right.plot(table.values(SPARSITY, name), table.values(ACCURACY, name), "o", color=f"C{number}", label=name)
    right.axhline(table.mean(ACCURACY, DENSE), color="0.5", linestyle=":", linewidth=1)
    right.axhline(table.mean(ACCURACY, MAGNITUDE), color="0.5", linestyle="--", linewidth=1)
    right.set(xlabel="share of zeros", ylabel=ACCURACY, title="dotted: dense; dashed: by magnitude")
    right.legend(fontsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(40, 50), registered="28a2178290ae")

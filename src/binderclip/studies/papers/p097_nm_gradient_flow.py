"""Does fading pruned weights out beat SR-STE where N:M sparsity is high?"""

from __future__ import annotations

from typing import Any

from torch.nn import functional as F

from binderclip.compress import SRSTE, MaskDecay, NMMask, SparseTraining, StructureDecay
from binderclip.compress.weights.rules import StraightThrough
from binderclip.fit import fit
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training.sparse_net import PoolBatches, accuracy_on_test, perceptron, training_rows

TRAIN, BATCH, STEPS, RATE, FINISH = 3000, 64, 300, 2e-3, 0.1
ACCURACY = "test accuracy"
DENSE, SR_STE, MASK, STRUCTURE, STE = "dense", "SR-STE", "MdGf, linear", "SdGf, geometric", "straight-through"
HIGH, LOW = "1:16", "2:4"
RUNS = {HIGH: (DENSE, SR_STE, MASK, STRUCTURE, STE), LOW: (SR_STE, MASK)}


def sparse_training(net: Any, method: str, n: int, m: int) -> SparseTraining:
    """The method's pattern, rule and phases; all but the first and the last layer are sparse."""
    return {
        SR_STE: lambda: SparseTraining(net, NMMask(n, m), SRSTE()),
        MASK: lambda: SparseTraining(net, NMMask(n, m), MaskDecay("linear"), finish=FINISH),
        STRUCTURE: lambda: SparseTraining(net, StructureDecay(n, m), StraightThrough(), finish=FINISH),
        STE: lambda: SparseTraining(net, NMMask(n, m), StraightThrough()),
    }[method]()


def train(method: str, pattern: str, seed: int) -> float:
    """Test accuracy of the finalized network."""
    net = perceptron(seed)
    n, m = map(int, pattern.split(":"))
    sparse = None if method == DENSE else sparse_training(net, method, n, m)
    fit(
        lambda batch: F.cross_entropy(net(batch[0]), batch[1]),
        net,
        PoolBatches(training_rows(seed, TRAIN), BATCH, seed),
        steps=STEPS,
        lr=RATE,
        optimizer={"name": "adamw", "weight_decay": 0.01},
        callbacks=[] if sparse is None else [sparse],
    )
    return accuracy_on_test(net if sparse is None else sparse.finalize())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    runs = ((method, pattern) for pattern, methods in RUNS.items() for method in methods)
    return [Row(ACCURACY, method, train(method, pattern, seed), pattern) for method, pattern in runs]


def draw(table: Table, figure: Figure) -> None:
    """Accuracy of every run, one panel a pattern."""
    axes = figure.subplots(1, len(RUNS), sharey=True, width_ratios=[len(methods) for methods in RUNS.values()])
    dense = table.mean(ACCURACY, DENSE, HIGH)
    for ax, (pattern, methods) in zip(axes, RUNS.items(), strict=True):
        for place, method in enumerate(methods):
            values = table.values(ACCURACY, method, pattern)
            ax.plot([place] * len(values), values, "o", markersize=4, alpha=0.5, color="C0")
            ax.plot([place - 0.25, place + 0.25], [values.mean()] * 2, color="C3")
        ax.axhline(dense, color="0.5", linestyle=":", linewidth=1)
        ax.set_xticks(range(len(methods)), [method.replace(", ", ",\n") for method in methods], fontsize=7)
        ax.set(title=pattern, xlim=(-0.5, len(methods) - 0.5))
    axes[0].set_ylabel("test accuracy (dotted: dense)")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="cdefdf28be29")

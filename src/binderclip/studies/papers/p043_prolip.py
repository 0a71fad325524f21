"""Is a re-learned projection, held near its start, good at every learning rate and without validation?"""

from __future__ import annotations

import numpy as np

from binderclip.adapt import ProLIP
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.few_shot_table import (
    HEADS,
    SETS,
    Maker,
    accuracy_rows,
    cell,
    mean_accuracy,
    projection_of_small,
    setting,
)

SHOTS = (1, 4, 16)
RATES = (1e-5, 1e-4, 1e-3, 1e-2)
COMPARED = ("zero-shot", "linear probe", "CLIP-Adapter", "Task residual")
HELD, FREE = "penalty 1/N", "no penalty"


def _name(kind: str, rate: float) -> str:
    return f"ProLIP, {kind}, lr {rate:.0e}"


def _maker(penalty: float | None, rate: float) -> Maker:
    return lambda data: ProLIP(data.bank, projection=projection_of_small(), penalty=penalty, lr=rate)


OWN: dict[str, Maker] = {
    **HEADS,
    **{_name(HELD, rate): _maker(None, rate) for rate in RATES},
    **{_name(FREE, rate): _maker(0.0, rate) for rate in RATES},
}
PROLIP = [name for name in OWN if name.startswith("ProLIP,")]


def measure(seed: int) -> list[Row]:
    """Baselines of the shared table and ProLIP at every learning rate; nobody gets a validation split."""
    rows = accuracy_rows([*COMPARED, *PROLIP], seed, sets=SETS, shots=SHOTS, held=False, makers=OWN)
    for name in SETS:
        for shots in SHOTS:
            for kind in (HELD, FREE):
                values = [cell(name, _name(kind, rate), shots, seed, held=False, makers=OWN).accuracy for rate in RATES]
                rows.append(
                    Row("deviation over learning rates", f"ProLIP, {kind}", float(np.std(values)), setting(name, shots))
                )
        seconds = cell(name, _name(HELD, 1e-3), 16, seed, held=False, makers=OWN).seconds
        rows.append(Row("fit (CPU s)", "ProLIP", seconds, setting(name, 16)))
    return rows


def _quick(table: Table) -> tuple[bool, str]:
    worst = max(float(np.median(table.values("fit (CPU s)", "ProLIP", setting(name, 16)))) for name in SETS)
    return worst < 30, f"{worst:.2f} s of processor time at 16 shots, 300 steps"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against the learning rate at 1 and 16 shots, and against shots."""
    axes = figure.subplots(1, 3)
    for ax, shots in zip(axes, (1, 16), strict=False):
        for kind, color in ((HELD, "C0"), (FREE, "C3")):
            values = [mean_accuracy(table, _name(kind, rate), shots, SETS) for rate in RATES]
            ax.plot(RATES, values, marker="o", markersize=4, color=color, label=f"ProLIP, {kind}")
        for head, style in (("zero-shot", ":"), ("linear probe", "--")):
            ax.axhline(mean_accuracy(table, head, shots, SETS), color="0.4", linestyle=style, label=head)
        ax.set_xscale("log")
        ax.set(title=f"{shots} shot{'s' if shots > 1 else ''}, four sets", xlabel="learning rate", ylabel="accuracy")
    axes[0].legend(fontsize=8)
    for number, head in enumerate((*COMPARED, _name(HELD, 1e-3))):
        color = ("0.6", "C1", "C2", "C4", "C0")[number]
        label = "ProLIP, lr 1e-3" if head.startswith("ProLIP") else head
        values = [mean_accuracy(table, head, n, SETS) for n in SHOTS]
        axes[2].plot(SHOTS, values, marker="o", markersize=4, color=color, label=label)
    axes[2].set(title="Without validation, four sets", xlabel="shots a class", ylabel="accuracy")
    axes[2].set_xscale("log", base=2)
    axes[2].set_xticks(SHOTS, [str(n) for n in SHOTS])
    axes[2].legend(fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="f61f8e28e176")

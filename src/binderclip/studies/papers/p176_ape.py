"""Do pruned channels and weighted examples make a better cache, with few trained parameters?"""

from __future__ import annotations

import numpy as np

from binderclip.adapt import APE
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.tables.few_shot_table import (
    CACHE,
    GAMMAS,
    HEADS,
    SETS,
    SHOTS,
    Maker,
    accuracy_rows,
    cell,
    mean_accuracy,
    setting,
)

COMPARED = ("zero-shot", "Tip-Adapter", "APE", "Tip-Adapter-F", "APE-T")
RIVAL = "GDA"
SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)


def _share(share: float) -> str:
    return f"APE, {share:.0%} of the channels"


def _pruned(share: float) -> Maker:
    return lambda data: APE(data.bank, **CACHE, gammas=GAMMAS, channels=share)


OWN: dict[str, Maker] = {
    **HEADS,
    "APE, authors' grid": lambda data: APE(data.bank),
    "APE, gamma 0": lambda data: APE(data.bank, **CACHE, gammas=(0.0,)),
    **{_share(share): _pruned(share) for share in SHARES},
}


def measure(seed: int) -> list[Row]:
    """The shared table's caches, then the two parts of APE, and its channels, at 16 shots."""
    rows = accuracy_rows(COMPARED, seed)
    parts = ["APE, authors' grid", "APE, gamma 0", *(_share(share) for share in SHARES)]
    rows += accuracy_rows([*parts, RIVAL], seed, shots=(16,), makers=OWN)
    for name in SETS:
        for head in ("Tip-Adapter-F", "APE-T"):
            found = cell(name, head, 16, seed)
            rows.append(Row("trained parameters", head, found.trained, setting(name, 16)))
        for head in COMPARED[1:]:
            rows.append(Row("fit with tuning (CPU s)", head, cell(name, head, 16, seed).seconds, setting(name, 16)))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against shots over all sets, the gain over Tip-Adapter by set, and accuracy against channels."""
    left, middle, right = figure.subplots(1, 3)
    styles = {"zero-shot": "0.6", "Tip-Adapter": "C1", "APE": "C0", "Tip-Adapter-F": "C1", "APE-T": "C0"}
    for head in COMPARED:
        line = "--" if head in ("Tip-Adapter-F", "APE-T") else "-"
        values = [mean_accuracy(table, head, n) for n in SHOTS]
        left.plot(SHOTS, values, line, marker="o", markersize=4, color=styles[head], label=head)
    left.set(title="Mean over the four sets", xlabel="shots a class", ylabel="accuracy")
    left.set_xscale("log", base=2)
    left.set_xticks(SHOTS, [str(n) for n in SHOTS])
    left.legend(loc="upper left")
    left.set_ylim(top=0.78)
    places = np.arange(len(SETS))
    for offset, head in ((-0.2, "APE"), (0.2, "APE-T")):
        gaps = [
            table.values("accuracy", head, setting(name, 16))
            - table.values("accuracy", "Tip-Adapter", setting(name, 16))
            for name in SETS
        ]
        means, errors = [g.mean() for g in gaps], [g.std(ddof=1) if len(g) > 1 else 0.0 for g in gaps]
        color = {"APE": "C0", "APE-T": "C2"}[head]
        middle.bar(places + offset, means, 0.38, yerr=errors, color=color, label=head, ecolor="0.3", capsize=2)
    middle.axhline(0, color="0.3", linewidth=0.8)
    middle.set_xticks(places, [name.replace(" ", "\n").replace("-", "-\n") for name in SETS])
    middle.set(title="Gain over Tip-Adapter, 16 shots", ylabel="accuracy")
    middle.legend()
    for number, name in enumerate(SETS):
        values = [table.mean("accuracy", _share(share), setting(name, 16)) for share in SHARES]
        right.plot([100 * s for s in SHARES], values, marker="o", markersize=4, color=f"C{number + 3}", label=name)
    right.set(title="APE's channels, 16 shots", xlabel="channels kept (%)", ylabel="accuracy")
    right.legend(loc="lower right", ncols=2, fontsize=8)
    right.set_ylim(bottom=0.45)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 30), registered="ac13505fd3c9")

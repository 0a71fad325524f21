"""Do pruned channels and weighted examples make a better cache, with few trained parameters?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from binderclip.adapt import APE
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.few_shot_table import (
    CACHE,
    GAMMAS,
    GUESSING,
    HEADS,
    SETS,
    SHOTS,
    Maker,
    accuracy_rows,
    cell,
    mean_accuracy,
    setting,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARED = ("zero-shot", "Tip-Adapter", "APE", "Tip-Adapter-F", "APE-T")
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
    rows += accuracy_rows(parts, seed, shots=(16,), makers=OWN)
    for name in SETS:
        for head in ("Tip-Adapter-F", "APE-T"):
            found = cell(name, head, 16, seed)
            rows.append(Row("trained parameters", head, found.trained, setting(name, 16)))
        for head in COMPARED[1:]:
            rows.append(Row("fit with tuning (CPU s)", head, cell(name, head, 16, seed).seconds, setting(name, 16)))
    return rows


def _compare(table: Table, ours: str, theirs: str) -> tuple[bool, str]:
    here = {head: mean_accuracy(table, head, 16) for head in (ours, theirs)}
    by_set = [
        table.mean("accuracy", ours, setting(name, 16)) - table.mean("accuracy", theirs, setting(name, 16))
        for name in SETS
    ]
    spread = ", ".join(f"{name} {gap:+.3f}" for name, gap in zip(SETS, by_set, strict=True))
    return here[ours] >= here[theirs], f"{ours} {here[ours]:.4f}, {theirs} {here[theirs]:.4f} ({spread})"


def _tuned_beats_keys(table: Table) -> tuple[bool, str]:
    met, text = _compare(table, "APE-T", "Tip-Adapter-F")
    few, many = (table.mean("trained parameters", head, setting("OpenMoji", 16)) for head in ("APE-T", "Tip-Adapter-F"))
    return met and few < many, f"{text}; OpenMoji: {few:.0f} against {many:.0f} parameters"


def _not_all_channels(table: Table) -> tuple[bool, str]:
    means = {share: mean_accuracy(table, _share(share), 16) for share in SHARES}
    text = ", ".join(f"{share:.0%}: {mean:.3f}" for share, mean in means.items())
    return means[0.5] >= means[1.0], text


def _no_harm(table: Table) -> tuple[bool, str]:
    gaps = {n: mean_accuracy(table, "APE", n) - mean_accuracy(table, "zero-shot", n) for n in SHOTS}
    return min(gaps.values()) >= 0, ", ".join(f"{n}: {gap:+.3f}" for n, gap in gaps.items())


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


PLACES = tuple(setting(name, 16) for name in SETS)

STUDY = Study(
    paper="p176",
    claim="A cache on the channels that tell classes apart, its examples weighted by how badly the texts explain "
    "them, beats Tip-Adapter's without training; a small trained residual beats both.",
    protocol="Features of the bundled `small` for nine groups of OpenMoji, seven clip-art categories, Fashion-MNIST, "
    "digits; 1 to 16 shots a class, as many for validation. Every cache searches the same 15 x 15 grid of alpha and "
    "beta (APE with seven gammas); half the channels; weights, learning rate and epochs (200) as the authors set them "
    "for their ten-class set; the trained caches keep the epoch that is best on validation, as theirs do. The grid's "
    "range was chosen in trials on seeds 100 and 101, which are not used here. A first run of this study kept the last "
    "epoch (APE-T 0.689, Tip-Adapter-F 0.678 at 16 shots) and its verdict was 'not shown'; the rule was fixed before.",
    baseline="Tip-Adapter (all channels, no weights), Tip-Adapter-F, zero-shot.",
    lower_bound=GUESSING,
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired(
            "APE is above Tip-Adapter at 16 shots, mean over sets",
            value_of("accuracy", "APE", *PLACES),
            value_of("accuracy", "Tip-Adapter", *PLACES),
            essential=True,
        ),
        Criterion.paired(
            "APE-T is above APE at 16 shots, mean over sets",
            value_of("accuracy", "APE-T", *PLACES),
            value_of("accuracy", "APE", *PLACES),
            essential=True,
        ),
        Criterion("APE-T is at least Tip-Adapter-F, with fewer parameters", _tuned_beats_keys),
        Criterion("half of the channels are at least as good as all", _not_all_channels),
        Criterion("APE is at least zero-shot at every number of shots on average", _no_harm),
    ),
    draw=draw,
    seeds=(0, 1, 2, 3, 4),
    remeasure=FIRST_RULES,
    stand_in=(
        "`small` instead of CLIP ResNet-50",
        "OpenMoji, clip art, Fashion-MNIST and digits instead of eleven photograph sets",
        "one sentence or two a class instead of GPT-3's descriptions",
        "one view a picture instead of ten random crops, so keys and training pictures are the same features",
    ),
)

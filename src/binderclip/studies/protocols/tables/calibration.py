"""What the studies of the neighbour penalty (p112, p172) share: names, and the reliability of the foreground."""

from __future__ import annotations

from typing import Any

CE, OURS, ORACLE = "CE", "mean, l1", "CE, best temperature"
NAMES = {OURS: "neighbour penalty"}
FOREGROUND, BAND = "ECE, foreground", "ECE, boundary band"
CLASSWISE = "class-wise ECE, foreground"
FIGURED = 10
PILOT = (0, 1, 2)
"""Seeds of the first measurements, by the same protocol: their spread is the pilot's."""
COLOURS = {CE: "C7", "SVLS": "C1", "margin smoothing": "C2", OURS: "C0", ORACLE: "C3", "focal": "C4"}


def reliability(figure: Any, bars: dict[str, Any]) -> None:
    """Accuracy over confidence of the foreground, with the counts of pixels below."""
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for name, found in bars.items():
        colour, there = COLOURS.get(name), found.count > 0
        top.plot(found.confidence[there], found.accuracy[there], "o-", ms=3, color=colour, label=NAMES.get(name, name))
        bottom.stairs(found.count / found.count.sum(), [*found.low, 1.0], color=colour)
    top.set_title(f"Foreground, seed {FIGURED}", fontsize=7.5)
    top.set_ylabel("accuracy", fontsize=8)
    bottom.set_xlabel("confidence", fontsize=8)
    bottom.set_ylabel("share", fontsize=8)
    top.legend(fontsize=7, frameon=False)
    for ax in (top, bottom):
        ax.tick_params(labelsize=7)

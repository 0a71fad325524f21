"""One page for all presets of the segmenter: `python -m binderclip.studies.protocols.segment_page`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from binderclip.errors import UsageError
from binderclip.files import write_whole
from binderclip.segment import PRESETS
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.tables.segment_table import (
    CHANCE,
    LOWER_BOUND,
    ONE_LABEL,
    ORACLE,
    SETS,
    SIZE,
    UPPER_BOUND,
    gain,
    table_rows,
)

SEEDS, SCENES = (20, 21, 22), 14
BASE = "value"
MEASURED = tuple(name for name in PRESETS if name != "dense")  # which is `plain` on a tower with attention


def rows_of(seed: int, *, scenes: int = SCENES, presets: Sequence[str] = MEASURED) -> list[Row]:
    """All presets and bounds on all sets for one seed, each preset against `value`.

    Args:
        seed: of the scenes.
        scenes: number a set.
        presets: names, `value` among them.

    Raises:
        UsageError: `value` is missing.
    """
    if BASE not in presets:
        raise UsageError(f"the page compares with {BASE!r}: name it among the presets")
    against = [(name, BASE) for name in presets if name != BASE]
    return table_rows(presets, seed, against=against, n=scenes)


def segment_page(
    table: Table, *, seeds: Sequence[int] = SEEDS, scenes: int = SCENES, kept: Mapping[str, str] | None = None
) -> str:
    """The page in Markdown: bounds, then presets by their mean, best first.

    Args:
        table: rows of `rows_of` for every seed.
        seeds: for the text.
        scenes: for the text.
        kept: preset -> its line of an earlier page, for presets that the table has not.
    """
    presets = [name for name in table.names("method", "mIoU") if name not in (CHANCE, ONE_LABEL, ORACLE)]
    shown = dict(kept or {})
    for name in presets:
        shown[name] = _line(table, f"`{name}`", name, "" if name == BASE else _said(gain(table, name, BASE)))
    lines = [
        "# Presets of the segmenter, side by side",
        "",
        "Written by `python -m binderclip.studies.protocols.segment_page --out docs/SEGMENTATION.md`; never edited by "
        "hand.",
        "",
        f"The bundled `small`; {scenes} scenes of {SIZE} px a set and seed, seeds {', '.join(map(str, seeds))}; 15 "
        "classes by their names, all of them labels; drawings held out from training. mIoU in percent over the classes "
        "that occur, mean and standard deviation over seeds; the ground does not count, so presets that look for a "
        "background (`...-background`) are measured outside of what they are for. The last column is the "
        "mean difference of single scenes to `value`, with its 95 % interval by the paired bootstrap. Presets with "
        "`small-dino`, `small-sam` or `small-dinoiser` use these stand-ins of ours, not the papers' models.",
        "",
        "| preset | " + " | ".join(SETS) + f" | minus `{BASE}` |",
        "| --- |" + " ---: |" * (len(SETS) + 1),
    ]
    lines += sorted(shown.values(), key=_mean, reverse=True)
    for name in (ORACLE, ONE_LABEL, CHANCE):
        lines.append(_line(table, name, name, ""))
    lines += ["", f"{LOWER_BOUND} {UPPER_BOUND}", ""]
    return "\n".join(lines)


def _line(table: Table, shown: str, name: str, last: str) -> str:
    cells = [100 * table.values("mIoU", name, each) for each in SETS]
    return f"| {shown} | " + " | ".join(f"{v.mean():.1f} ± {v.std(ddof=1):.1f}" for v in cells) + f" | {last} |"


def _mean(line: str) -> float:
    """Of the sets, as the line of a preset gives them."""
    return float(np.mean([float(value) for value in re.findall(r"\| (-?[\d.]+) ±", line)]))


def lines_of(page: str) -> dict[str, str]:
    """Preset -> its line on a page."""
    return {found[1]: found[0] for found in re.finditer(r"^\| `([\w-]+)` \|.*\|$", page, re.MULTILINE)}


def _said(values: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in values)
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m binderclip.studies.protocols.segment_page", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument(
        "--presets",
        default="",
        help="only these, separated by commas, and `value`; the others stay as the file has them",
    )
    args = parser.parse_args()
    chosen = tuple(dict.fromkeys([BASE, *args.presets.split(",")])) if args.presets else MEASURED
    kept = lines_of(args.out.read_text(encoding="utf-8")) if args.presets else {}
    rows: list[Row] = []
    for seed in SEEDS:
        print(f"seed {seed}", file=sys.stderr, flush=True)
        rows += [replace(row, seed=seed) for row in rows_of(seed, presets=chosen)]
    write_whole(args.out, segment_page(Table(rows), kept=kept))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A result on disk: JSON for machines, Markdown for people, a figure for everybody."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.errors import DataError
from binderclip.papers import paper
from binderclip.studies.harness.run import load_study
from binderclip.studies.harness.study import Check, Result, Row, Study, Table


def save(result: Result, folder: Path) -> list[Path]:
    """Write `pNNN.json`, and for a result that did not fail `pNNN.md` and `pNNN.png`; returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{result.paper}.json"]
    written[0].write_text(to_json(result), encoding="utf-8")
    if result.verdict != "failed":
        study = load_study(result.paper)
        written += [folder / f"{result.paper}.md", folder / f"{result.paper}.png"]
        written[1].write_text(markdown(result, study), encoding="utf-8")
        save_figure(result, study, written[2])
    return written


def to_json(result: Result) -> str:
    """A result as JSON, one row a line."""
    document = {
        "paper": result.paper,
        "verdict": result.verdict,
        "reason": result.reason,
        "checks": [vars(check) for check in result.checks],
        "seeds": result.seeds,
        "seconds": round(result.seconds, 1),
        "versions": result.versions,
    }
    rows = ",\n".join(
        "  " + json.dumps([r.metric, r.method, r.setting, r.seed, float(f"{r.value:.6g}")]) for r in result.rows
    )
    head = json.dumps(document, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "columns": ["metric", "method", "setting", "seed", "value"],\n "rows": [\n{rows}\n ]\n}}\n'


def read(path: Path) -> Result:
    """A result from its JSON.

    Raises:
        DataError: not a result.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Result(
            document["paper"],
            document["verdict"],
            document["reason"],
            [Check(**check) for check in document["checks"]],
            [Row(metric, method, value, setting, seed) for metric, method, setting, seed, value in document["rows"]],
            document["seeds"],
            document["seconds"],
            document["versions"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the result of a study ({type(error).__name__}: {error})") from error


def markdown(result: Result, study: Study, *, level: int = 1, figure: str | None = None) -> str:
    """The whole story of a study: claim, verdict, criteria, figures, numbers, and what was not the real thing.

    Args:
        result: what was measured.
        study: what was asked.
        level: of the heading.
        figure: path of the figure; default beside the text.
    """
    source = paper(result.paper)
    link = f"[{source.title}]({source.url})" if source.url else source.title
    lines = [
        f"{'#' * level} {result.paper}: {source.title}",
        "",
        f"{link}, {source.citation}. Verdict: **{result.verdict}**.",
        "",
        f"**Claim.** {study.claim}",
        "",
        f"**Protocol.** {study.protocol} Seeds {', '.join(map(str, result.seeds))}.",
        "",
        f"**Baseline.** {study.baseline} **Lower bound.** {study.lower_bound}"
        + (f" **Upper bound.** {study.upper_bound}" if study.upper_bound else ""),
        "",
        "**Not the real thing.** " + ("; ".join(study.stand_in) or "nothing") + ".",
        "",
        "| criterion | | measured |",
        "| --- | --- | --- |",
    ]
    for check in result.checks:
        kind = "" if check.essential else " (would only weaken)"
        lines.append(f"| {check.text}{kind} | {'met' if check.met else '**not met**'} | {check.measured} |")
    lines += ["", f"![{result.paper}]({figure or result.paper + '.png'})", ""]
    for metric in result.table.names("metric"):
        lines += [*pivot(result.table, metric), ""]
    return "\n".join(lines)


def pivot(table: Table, metric: str) -> list[str]:
    """One metric as a Markdown table: methods down, settings across, mean and standard deviation over seeds."""
    settings = table.names("setting", metric)
    lines = [f"| {metric} | " + " | ".join(settings or [""]) + " |", "| --- |" + " ---: |" * len(settings)]
    for method in table.names("method", metric):
        cells = [
            spread(table.values(metric, method, setting)) if table.has(metric, method, setting) else ""
            for setting in settings
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def spread(values: np.ndarray) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    digits = 3 if abs(values.mean()) < 100 else 1
    text = f"{values.mean():.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {values.std(ddof=1):.{digits}f}"


def save_figure(result: Result, study: Study, path: Path) -> None:
    """Draw the study's figure to a PNG of 256 colours, a third of the size of one of all colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from PIL import Image

    style: dict[Any, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "legend.frameon": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        study.draw(result.table, figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=100)
    few = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, "PNG", optimize=True)


def lines_of(ax: Any, table: Table, metric: str, settings: list[str], x: list[float], methods: list[str]) -> None:
    """One line a method with a band of one standard deviation over seeds, on a matplotlib axis."""
    for number, method in enumerate(methods):
        values = np.stack([table.values(metric, method, setting) for setting in settings])
        mean, deviation = values.mean(axis=1), values.std(axis=1)
        ax.plot(x, mean, marker="o", markersize=4, label=method, color=f"C{number}")
        ax.fill_between(x, mean - deviation, mean + deviation, alpha=0.15, color=f"C{number}", linewidth=0)


def bars_of(ax: Any, table: Table, metrics: Sequence[str], methods: Sequence[str], setting: str = "") -> None:
    """A group of bars a metric, one bar a method with the standard deviation over seeds, on a matplotlib axis."""
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        values = [table.values(metric, method, setting) for metric in metrics]
        place = np.arange(len(metrics)) + width * (number - (len(methods) - 1) / 2)
        errors = [v.std() for v in values]
        means = [v.mean() for v in values]
        ax.bar(place, means, 0.92 * width, yerr=errors, label=method, color=f"C{number}", error_kw={"lw": 1})
    ax.set_xticks(range(len(metrics)), metrics)

"""A result on disk: JSON for machines, Markdown for people, a figure for everybody."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from binderclip.documents import parse_json, read_problem
from binderclip.errors import DataError
from binderclip.files import make_folder, write_whole
from binderclip.papers import CHECKS, paper
from binderclip.studies.harness.check import NO_INTERVAL, Check
from binderclip.studies.harness.columns import Columns
from binderclip.studies.harness.run import load_study
from binderclip.studies.harness.scale import plain
from binderclip.studies.harness.study import FormerVerdict, Result, Study, superseded
from binderclip.studies.harness.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(result: Result, folder: Path, *, figure: bool = True) -> list[Path]:
    """Write `pNNN.json`, and for a result that did not fail `pNNN.md` and `pNNN.png`; returns what was written.

    Args:
        result: what was measured.
        folder: made where it is missing.
        figure: whether the figure is drawn; some need minutes.
    """
    make_folder(folder)
    written = [folder / f"{result.paper}.json"]
    write_whole(written[0], to_json(result))
    if result.verdict != "failed":
        study = load_study(result.paper)
        written.append(folder / f"{result.paper}.md")
        write_whole(written[1], markdown(result, study))
        if figure:
            written.append(folder / f"{result.paper}.png")
            save_figure(result, study, written[2])
    return written


def to_json(result: Result) -> str:
    """A result as JSON, one row a line."""
    document = {
        "paper": result.paper,
        "verdict": result.verdict,
        "reason": result.reason,
        "criteria": result.criteria,
        "history": [vars(former) for former in result.history],
        "notes": result.notes,
        "checks": [_rounded(vars(check)) for check in result.checks],
        "seeds": result.seeds,
        "seconds": round(result.seconds, 1),
        "versions": result.versions,
    }
    rows = ",\n".join("  " + json.dumps(_row(row)) for row in result.rows)
    head = json.dumps(document, indent=1, ensure_ascii=False)
    return f'{head[:-2]},\n "columns": ["metric", "method", "setting", "seed", "value"],\n "rows": [\n{rows}\n ]\n}}\n'


def _row(row: Row) -> list[Any]:
    """A row as a list: five columns, and the values of the items where they are kept."""
    items = [[float(f"{item:.6g}") for item in row.items]] if row.items else []
    return [row.metric, row.method, row.setting, row.seed, float(f"{row.value:.6g}"), *items]


def _rounded(check: dict[str, Any]) -> dict[str, Any]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in check.items()}


def read(path: Path) -> Result:
    """A result from its JSON.

    Raises:
        DataError: not a result.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        return Result(
            document["paper"],
            document["verdict"],
            document["reason"],
            [Check(**check) for check in document["checks"]],
            [
                Row(metric, method, value, setting, seed, *map(tuple, items))
                for metric, method, setting, seed, value, *items in document["rows"]
            ],
            document["seeds"],
            document["seconds"],
            document["versions"],
            document["criteria"],
            [FormerVerdict(**former) for former in document["history"]],
            document["notes"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the result of a study ({read_problem(error)})") from error


def markdown(result: Result, study: Study, *, level: int = 1, figure: str | None = None) -> str:
    """The whole story of a study: what it means first, then what was measured, how, and how often it was judged.

    Args:
        result: what was measured.
        study: what was asked.
        level: of the heading.
        figure: path of the figure; default beside the text.
    """
    source = paper(result.paper)
    columns = Columns(source, result)
    link = f"[{source.title}]({source.url})" if source.url else source.title
    lines = [
        f"{'#' * level} {result.paper}: {source.title}",
        "",
        f"{link}, {source.citation}. In binderclip: {', '.join(f'`{name}`' for name in source.names)}.",
        "",
        *_story(columns, study),
        *(["**Note.** " + " ".join(result.notes), ""] if result.notes else []),
        "| part of the claim | | effect (95 % interval) |",
        "| --- | --- | --- |",
        *map(_check_line, result.checks),
        "",
        f"![{result.paper}]({figure or result.paper + '.png'})",
        "",
        *(_to_come(result, study) if superseded(result, study) else _asked(result, study)),
        *(["**At paper scale.** " + f"`{source.at_paper_scale}`", ""] if source.at_paper_scale else []),
        "**Implementation.** Held against "
        + ", ".join(f"[{CHECKS[kind]}](../../{test})" for kind, test in source.checked)
        + ".",
        "",
    ]
    for metric in result.table.names("metric"):
        lines += [*pivot(result.table, metric), ""]
    return "\n".join([*lines, *_history(result, study)])


def _story(columns: Columns, study: Study) -> list[str]:
    """What the paper says, what was run, what was seen, and what that means for choosing it."""
    stand_ins = "; ".join(study.stand_in).rstrip(".") or "nothing"
    found = f"**{columns.claim.partition(';')[0]}**"
    if columns.seen[1]:
        found += ", {} of {} essential parts of the claim".format(*columns.seen)
    if columns.why_not:
        found += f", because of this: {columns.why_not}"
    elif columns.effect:
        found += f". What decides: {columns.effect}"
    if columns.rival is not None:
        rival = columns.rival
        found += f". Against the strongest cheap rival: **{rival.word}**, {rival.shown}; asked: {plain(rival.text)}"
    return [
        f"- **The paper says:** {study.claim}",
        f"- **Compared with:** {study.baseline}",
        f"- **Not as in the paper:** {stand_ins}.",
        f"- **Seen:** {found}.",
        f"- **For choosing:** {columns.means}",
        "",
    ]


def _asked(result: Result, study: Study) -> list[str]:
    """What the numbers were measured by."""
    return [
        f"**Protocol.** {study.protocol} Seeds {_listed(result.seeds)}; {result.seconds / 60:.1f} minutes in all.",
        "",
        *(["**Power.** " + ". ".join(study.power) + ".", ""] if study.power else []),
        f"**Lower bound.** {study.lower_bound}"
        + (f" **Upper bound.** {study.upper_bound}" if study.upper_bound else ""),
        "",
    ]


def _to_come(result: Result, study: Study) -> list[str]:
    """That the numbers below are older than the study as it stands, and what will replace them."""
    by = f"criteria {result.criteria}" if result.criteria else "criteria that were written or changed afterwards"
    return [
        f"**Registered again, not measured yet.** The verdict, the table, the figure and the numbers are of an earlier "
        f"measurement on seeds {_listed(result.seeds)}, judged by {by}; its protocol stands in the history of the "
        "study's file.",
        "",
        f"**To come.** Criteria {study.registered} on seeds {_listed(study.seeds)}. {study.protocol} Baseline: "
        f"{study.baseline} Not the real thing: {'; '.join(study.stand_in) or 'nothing'}.",
        "",
    ]


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _history(result: Result, study: Study) -> list[str]:
    """When the criteria were registered, every former verdict with its reason, and what is to be measured again."""
    if result.criteria:
        lines = [f"- Criteria {result.criteria}, registered before the measurement."]
    else:
        lines = ["- These criteria were written or changed after the measurement."]
    lines += [f"- Former verdict: {former.verdict}; {former.why}." for former in result.history]
    lines += [f"- To be measured again: {study.remeasure}"] if study.remeasure else []
    return ["**History.**", "", *lines, ""]


def _check_line(check: Check) -> str:
    kind = {"rival": " (strongest cheap rival)", "precondition": " (precondition)"}.get(check.role, "")
    if check.role == "criterion" and not check.essential:
        kind = " (not essential)"
    outcome = check.word if check.word in ("seen", "beaten") else f"**{check.word}**"
    if check.limit:
        outcome += f": no {check.limit}"
    measured = check.shown or check.measured
    if check.how.startswith(("exact", NO_INTERVAL)):
        measured += f" ({check.how})"
    return f"| {cell(plain(check.text))}{kind} | {outcome} | {cell(measured)} |"


def cell(text: str) -> str:
    """Text that stays in one cell of a Markdown table: a bar would begin the next."""
    return text.replace("|", "\\|")


def pivot(table: Table, metric: str) -> list[str]:
    """One metric as a Markdown table: methods down, settings across, mean and standard deviation over seeds."""
    settings = table.names("setting", metric)
    head = " | ".join(map(cell, [metric, *(settings or [""])]))
    lines = [f"| {head} |", "| --- |" + " ---: |" * len(settings)]
    for method in table.names("method", metric):
        cells = [
            spread(table.values(metric, method, setting)) if table.has(metric, method, setting) else ""
            for setting in settings
        ]
        lines.append(f"| {cell(method)} | " + " | ".join(cells) + " |")
    return lines


def spread(values: np.ndarray) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    digits = 3 if abs(values.mean()) < 100 else 1
    text = f"{values.mean():.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {values.std(ddof=1):.{digits}f}"


def _draw_needs(result: Result, figure: Figure) -> None:
    """What was measured before a study stopped: every seed of the rows that its preconditions read."""
    metrics = result.table.names("metric")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        methods = result.table.names("method", metric)
        for place, method in enumerate(methods):
            values = [row.value for row in result.rows if (row.metric, row.method) == (metric, method)]
            axes.plot(values, [place] * len(values), "o", color=f"C{place}", alpha=0.6)
        axes.set_yticks(range(len(methods)), methods)
        axes.set(xlabel=metric, ylim=(-0.5, len(methods) - 0.5))


def save_figure(result: Result, study: Study, path: Path) -> None:
    """Draw the study's figure to a PNG of 256 colours, a third of the size of one of all colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from PIL import Image

    from binderclip.studies.harness.panels import effects

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
        if result.stopped:
            _draw_needs(result, figure)
        elif study.draw is None:
            effects(figure, result.checks)
        else:
            study.draw(result.table, figure)
        drawn = io.BytesIO()
        figure.savefig(drawn, dpi=100)
    few = Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, "PNG", optimize=True)

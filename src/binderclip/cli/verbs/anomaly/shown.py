"""What `binderclip anomaly` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from binderclip.cli.shared.output import print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.photographs import note_weak_on_photographs
from binderclip.tasks.verbs.anomaly.inspection import AnomalyRequest, Inspection, figures
from binderclip.tasks.verbs.anomaly.run import carry_out

SHOWN = 10
FAILED = 3
"""Exit code where a picture is at or above --threshold: told apart from an error, which is 1."""


def inspect(request: AnomalyRequest) -> int:
    """Score, measure, write and print; the exit code."""
    with stages("looking at the folder"):
        done, _, report = carry_out(request)
    request = done.request
    _show(done, request, report)
    if not request.json:
        note_weak_on_photographs(request.model, [entry.path for entry in done.pictures])
    warn_skipped(done.skipped)
    return FAILED if done.failed() else 0


def _show(done: Inspection, request: AnomalyRequest, report: Path) -> None:
    rows = done.order()
    if request.json:
        print_json(
            {
                "folder": done.folder.root,
                "method": request.method,
                "model": request.model,
                "normal": done.normal,
                "images": [
                    {
                        "image": done.pictures[row].path,
                        "score": float(done.found.scores[row]),
                        "p": done.chance(row),
                        "kind": done.pictures[row].kind,
                        "damaged": done.pictures[row].damaged,
                        "overlay": done.overlays.get(row),
                        **({} if done.threshold is None else {"fails": done.fails(row)}),
                    }
                    for row in rows
                ],
                "measured": None if done.score is None else figures(done.score),
                "masks": done.masks,
                "threshold": done.threshold,
                "failed": None if done.threshold is None else done.failed(),
                "skipped": [{"image": key, "reason": reason} for key, reason in done.skipped],
                "report": report,
            }
        )
        return
    against = f"{len(done.normal)} normal pictures" if done.normal else "words alone"
    columns = [
        "image",
        "score",
        *(["p"] if done.held is not None else []),
        *(["known"] if done.folder.labelled else []),
        *(["result"] if done.threshold is not None else []),
    ]
    shown = []
    for row in rows[:SHOWN]:
        cells: list[Any] = [short_path(done.pictures[row].path), float(done.found.scores[row])]
        cells += [done.chance(row)] * (done.held is not None) + [done.label(row)] * done.folder.labelled
        cells += [done.verdict(row)] * (done.threshold is not None)
        shown.append(cells)
    print_table(
        f"{short_path(done.folder.root)}: the {len(shown)} most anomalous of {number_of(len(rows), 'picture')}, "
        f"{request.method}, {request.model}, {against}",
        columns,
        shown,
    )
    if done.score is not None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in figures(done.score).items())
        masks = f" ({number_of(done.masks, 'mask')})" if done.masks else ""
        typer.echo(f"{values}{masks}" if values else "only one kind of picture: nothing to measure")
    if done.threshold is not None:
        typer.echo(
            f"{done.failed()} of {number_of(len(rows), 'picture')} failed, with a score "
            f"at or above {done.threshold:.4g}"
        )
    typer.echo(f"report {report}")

"""`binderclip explain`: where in the image, or in the caption, the evidence is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import typer
from rich.text import Text

from binderclip.cli.shared.output import console, note, print_json, print_table
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks import explain

if TYPE_CHECKING:
    from binderclip.tasks.verbs.explain.caption import CaptionReport
    from binderclip.tasks.verbs.explain.comparison import ComparisonReport
    from binderclip.tasks.verbs.explain.run import ExplainReport


def show(result: ExplainReport | ComparisonReport | CaptionReport, json: bool) -> None:
    """Print a result."""
    if json:
        print_json(result.as_dict())
        return
    if result.request.words:
        words = cast("CaptionReport", result).found
        console.print(coloured(words.words()[0], words.flagged[0]))
    elif result.request.compare:
        print_table(cast("ComparisonReport", result).title, *result.table())
    for line in result.lines():
        console.print(line, soft_wrap=True)
    for line in result.remarks():
        note(line)


def coloured(words: Sequence[tuple[str, float | None]], flagged: Sequence[bool]) -> Text:
    """The caption for a terminal: green speaks for the image, red against; what does not fit is underlined."""
    top = max((abs(score) for _, score in words if score is not None), default=0.0) or 1.0
    line = Text()
    for place, ((word, score), wrong) in enumerate(zip(words, flagged, strict=True)):
        line.append(" " if place else "")
        line.append(word, style="dim strike" if score is None else _shade(score / top) + " underline" * wrong)
    return line


def _shade(share: float) -> str:
    if abs(share) < 0.1:
        return "default"
    strong = "bold " if abs(share) > 0.5 else ""
    return strong + ("green" if share > 0 else "red")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, explain, show)

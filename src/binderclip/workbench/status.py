"""The line that says how a run is, and the lines that give its result again, as HTML."""

from __future__ import annotations

import html
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.workbench.commands import Equivalent
from binderclip.workbench.jobs import JobView


def result_values(again: Equivalent | None, files: Sequence[Path] = ()) -> list[Any]:
    """Values of the two parts of `ResultParts`."""
    given = [str(path) for path in files]
    return [gr.update(value=given or None, visible=bool(given)), lines_html(again)]


def lines_html(again: Equivalent | None) -> str:
    """The lines that give a result again, to be opened and copied; nothing where there are none."""
    if again is None:
        return ""
    lines = (("Shell", again.shell), ("Python", again.python), ("Request, for --from", again.request))
    parts = "".join(_line(name, text) for name, text in lines if text)
    return f'<details class="lines"><summary>The same without this page</summary>{parts}</details>'


def _line(name: str, text: str) -> str:
    copy = "navigator.clipboard.writeText(this.nextElementSibling.innerText)"
    button = f'<button type="button" aria-label="Copy the lines of {name}" onclick="{copy}">Copy</button>'
    shown = f'<pre tabindex="0" role="region" aria-label="{name}">{html.escape(text)}</pre>'
    return f'<div class="line"><h3>{name}</h3>{button}{shown}</div>'


_told = itertools.count()


def said_html(message: str, *, failed: bool = False, state: str = "", bar: str = "") -> str:
    """A line of status.

    Args:
        message: is escaped.
        failed: whether it says what went wrong, at once and loudly.
        state: further class. bar: HTML below it.
    """
    role = 'role="alert"' if failed else 'role="status" aria-live="polite"'
    # A number makes every line a new one: the same error twice is read aloud twice.
    kind = f"status {'failed' if failed else state}".strip()
    return f'<div class="{kind}" data-line="{next(_told)}" {role}>{html.escape(message)}{bar}</div>'


def status_html(view: JobView | None, message: str = "") -> str:
    """The line above the buttons: what a run does, its place in line, or how it ended."""
    if view is None:
        return said_html("")
    if view.state == "failed":
        return said_html(view.text, failed=True)
    bar = ""
    if view.state == "waiting":
        runs = "1 run" if view.place == 1 else f"{view.place} runs"
        text = f"Waiting: {runs} before this one" if view.place else "Starting"
    elif view.state == "running":
        text = view.text[:1].upper() + view.text[1:] if view.text else "Working"
        if view.fraction is not None:
            text += f", {view.fraction:.0%}"
            bar = f'<progress max="1" value="{view.fraction:.3f}" aria-label="progress"></progress>'
        if view.seconds_left is not None:
            text += f", {short_time(view.seconds_left)} left"
    elif view.state == "stopped":
        text = "Stopped"
    else:
        text = f"Done in {short_time(view.seconds)}"
    text += f". {message}" if message else ""
    return said_html(text, state=view.state, bar=bar)


def short_time(seconds: float) -> str:
    """Seconds as people say them: `0.4 s`, `12 s`, `3 min`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

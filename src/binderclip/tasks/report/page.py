"""One self-contained HTML page: sections of text, pictures (inlined) and tables, readable without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from binderclip.files import write_whole
from binderclip.tasks.files.maker import META

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #5d6470; --line: #d9dde3; --paper: #fff; --code: #f3f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3af; --line: #353a42; --paper: #16181c; --code: #22262c; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1060px; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; } h2 { font-size: 1.3rem; margin: 2.6rem 0 .4rem; }
p { max-width: 46rem; margin: .5rem 0; } .lead, figcaption { color: var(--soft); }
code, pre { font: .87rem/1.5 ui-monospace, monospace; background: var(--code); border-radius: 5px; }
code { padding: .1rem .3rem; overflow-wrap: anywhere; }
pre { padding: .7rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .93rem;
  display: block; max-width: 100%; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0; } figure img { max-width: 100%; border-radius: 6px; background: #fff; }
figcaption { font-size: .88rem; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; } .strip figure { margin: 0; max-width: 100%; }
.strip img { width: 100%; }
nav a { margin-right: 1rem; } a { color: inherit; }
"""


@dataclass
class Page:
    """A page that grows section by section and is saved whole.

    Args:
        title: heading of the page.
        lead: a sentence below it.
    """

    title: str
    lead: str
    _body: list[str] = field(default_factory=list)
    _sections: list[tuple[str, str]] = field(default_factory=list)

    def section(self, name: str, text: str, command: str | None = None) -> None:
        """Begin a section; `command` is what a user types to get the same."""
        anchor = name.lower().replace(" ", "-")
        self._sections.append((anchor, name))
        self._body.append(f'<h2 id="{anchor}">{escape(name)}</h2>\n<p>{text}</p>')
        if command:
            self.command(command)

    def command(self, command: str) -> None:
        """What a user types, in a box."""
        self._body.append(f"<pre>{escape(command)}</pre>")

    def text(self, text: str) -> None:
        """A paragraph (HTML allowed)."""
        self._body.append(f"<p>{text}</p>")

    def picture(self, source: Any, caption: str = "") -> None:
        """One picture at its own width: a path of a PNG, or a PIL image."""
        self._body.append(_figure(source, caption))

    def strip(self, pictures: Sequence[tuple[Any, str]], *, width: int = 150) -> None:
        """Pictures side by side, each with a caption and `width` pixels wide."""
        inner = "\n".join(_figure(source, caption, width) for source, caption in pictures)
        self._body.append(f'<div class="strip">\n{inner}\n</div>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table; numbers are aligned right."""
        numeric = [bool(rows) and isinstance(rows[0][i], (int, float)) for i in range(len(columns))]
        mark = [' class="n"' if flag else "" for flag in numeric]
        head = "".join(f"<th{m}>{escape(c)}</th>" for c, m in zip(columns, mark, strict=True))
        body = "\n".join(
            "<tr>" + "".join(f"<td{m}>{escape(_cell(c))}</td>" for c, m in zip(row, mark, strict=True)) + "</tr>"
            for row in rows
        )
        self._body.append(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>")

    def save(self, path: str | Path) -> Path:
        """Write the page.

        Raises:
            OutputError: it cannot be written; what was there before still is.
        """
        path = Path(path)
        nav = " ".join(f'<a href="#{anchor}">{escape(name)}</a>' for anchor, name in self._sections)
        return write_whole(
            path,
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n{META}\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style></head>\n<body>\n<h1>{escape(self.title)}</h1>\n"
            f'<p class="lead">{self.lead}</p>\n<nav>{nav}</nav>\n' + "\n".join(self._body) + "\n</body></html>\n",
        )


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _figure(source: Any, caption: str, width: int | None = None) -> str:
    style = f' style="width: {width}px"' if width else ""
    return (
        f'<figure{style}><img alt="{escape(caption)}" src="data:image/png;base64,{_png(source)}">'
        + (f"<figcaption>{escape(caption)}</figcaption>" if caption else "")
        + "</figure>"
    )


def _png(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return base64.b64encode(Path(source).read_bytes()).decode()
    import io

    buffer = io.BytesIO()
    source.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()

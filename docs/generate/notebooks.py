"""A notebook run from nothing and written as Markdown, its outputs in it; in git a notebook has none."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

SHOWN = ("text/html", "image/png", "text/plain")
"""Forms of an output, the best first."""


def run(path: Path, folder: Path) -> Any:
    """The notebook after all its cells were run in a kernel of their own.

    Args:
        path: of the `.ipynb`; it is not changed.
        folder: the kernel's working folder.

    Raises:
        CellExecutionError: a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, startup_timeout=240, kernel_name="python3", resources=where).execute()
    return notebook


def to_markdown(notebook: Any) -> str:
    """Cells as Markdown: text as it is, code in fences, outputs below as HTML."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += [shown for output in cell.outputs if (shown := _output(output))]
    return "\n\n".join(parts) + "\n"


def _output(output: Any) -> str:
    """One output; what a cell prints on stderr, such as progress, is left out."""
    if output.output_type == "stream":
        return "" if output.name == "stderr" else _plain(output.text)
    data = output.get("data", {})
    kind = next((kind for kind in SHOWN if kind in data), "")
    if kind == "text/html":
        # one block without blank lines, which would end it
        line = re.sub(r"\s*\n\s*", " ", data[kind])
        return f'<div class="output">{line}</div>'
    if kind == "image/png":
        return f'<div class="output"><img alt="figure" src="data:image/png;base64,{data[kind].strip()}"></div>'
    return _plain(data[kind]) if kind else ""


def _plain(text: str) -> str:
    lines = "&#10;".join(escape(line, quote=False) for line in text.rstrip("\n").split("\n"))
    return f'<div class="output"><pre>{lines}</pre></div>'

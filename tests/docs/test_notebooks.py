"""The notebooks run from nothing, show what they promise, and carry no outputs in git."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
PICTURES = {"see-pictures": 12, "adapt-on-your-folder": 1, "clip-your-gradients": 2}
"""Pictures that the page of a notebook has at least."""

_spec = importlib.util.spec_from_file_location("notebooks", DOCS / "generate" / "notebooks.py")
notebooks = sys.modules["notebooks"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(notebooks)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_its_pictures(path, tmp_path, monkeypatch):
    monkeypatch.setenv("BINDERCLIP_CACHE", str(tmp_path / "cache"))
    ran = notebooks.run(path, tmp_path)
    assert [cell.execution_count for cell in ran.cells if cell.cell_type == "code"] == list(
        range(1, 1 + sum(cell.cell_type == "code" for cell in ran.cells))
    )
    page = notebooks.to_markdown(ran)
    assert page.count("data:image/png;base64,") >= PICTURES[path.stem]
    assert "Traceback" not in page
    # an object without a face of its own would show its address
    assert " object at 0x" not in page


def test_the_clip_of_the_notebook_was_worth_it(tmp_path):
    path = DOCS / "notebooks" / "clip-your-gradients.ipynb"
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    given = {}
    exec(cells[0], given)
    assert [spike.step for spike in given["log"].spikes] == [121, 161, 201]
    assert sum(given["clipped"][-30:]) < sum(given["plain"][-30:]) / 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_in_git(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
    )
    assert cells[0]["source"][0].startswith("# ")


def test_outputs_become_single_blocks_of_html():
    made = notebooks.nbformat.v4
    outputs = [
        made.new_output("display_data", {"text/html": "<p>a\n\nb</p>", "text/plain": "x"}),
        made.new_output("stream", name="stdout", text="1 < 2\n\n3\n"),
        made.new_output("stream", name="stderr", text="progress"),
        made.new_output("display_data", {"image/png": "QUJD\n"}),
    ]
    cell = made.new_code_cell("x = 1", outputs=outputs)
    page = notebooks.to_markdown(made.new_notebook(cells=[made.new_markdown_cell("# T"), cell]))
    blocks = page.strip().split("\n\n")
    assert blocks == [
        "# T",
        "```python\nx = 1\n```",
        '<div class="output"><p>a b</p></div>',
        '<div class="output"><pre>1 &lt; 2&#10;&#10;3</pre></div>',
        '<div class="output"><img alt="figure" src="data:image/png;base64,QUJD"></div>',
    ]

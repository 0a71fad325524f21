"""Options that became verbs of their own stand nowhere as options any more: neither in pages nor in what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from binderclip import tasks
from binderclip.tasks import VerbTask

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
TEXTS += [path for folder in ("src", "docs") for path in (ROOT / folder).rglob("*") if path.suffix in (
    ".py", ".md", ".toml", ".ipynb", ".html")]  # fmt: skip
MOVED = [
    (task.request.task, option)
    for name in tasks.__all__
    if isinstance(task := getattr(tasks, name), VerbTask)
    for option in task.request.moved
]


def spelled(text: str, verb: str, option: str) -> list[str]:
    """Commands with the option, in one line and one piece of code."""
    return re.findall(rf"binderclip {verb} [^\n`<]*{option}\b[^\n`<]*", text)


@pytest.mark.parametrize(("verb", "option"), MOVED)
def test_no_text_offers_an_option_that_has_moved(verb: str, option: str) -> None:
    assert spelled(f"<code>binderclip {verb} a.jpg {option} x</code>", verb, option)
    assert len(TEXTS) > 1500
    found = {str(path.relative_to(ROOT)): spelled(path.read_text(encoding="utf-8"), verb, option) for path in TEXTS}
    assert not {path: lines for path, lines in found.items() if lines}

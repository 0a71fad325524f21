"""`binderclip search`: what is said of the model, by both of its commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[..., Any]


def test_a_query_says_of_the_model_what_the_index_said(command: Command, pictures: Path) -> None:
    Path("photos").mkdir()
    for name in ("cat", "coffee"):
        shutil.copy(pictures / f"{name}.jpg", "photos")
    index = command("search", "index", "photos", "--model", "small")
    query = command("search", "query", "a cat", "--index", "photos")
    said = [[line for line in done.err.splitlines() if "weak on photographs" in line] for done in (index, query)]
    assert said[0] == said[1]
    assert len(said[1]) == 1
    assert "weak on photographs" not in command("search", "query", "a cat", "--index", "photos", "--json").err

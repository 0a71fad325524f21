"""Models that a page has made: they stay as long as it is open, and every tab of it takes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from binderclip.workbench.look import could_not_be_read, packed
from binderclip.workbench.tab import Run

MOST_NAME = 60
"""Letters of a model's name that its successor keeps."""


def keep_model(run: Run, folder: Path, made_of: str, what: str) -> tuple[Path, Path]:
    """Move a finished model to where it stays as long as its page; its folder there, and that folder packed as a ZIP.

    Args:
        run: that made it. folder: of the model.
        made_of: name or folder of the model that it came from. what: it is, a word.
    """
    run.say("packing the model")
    run.models.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", Path(made_of).name if Path(made_of).exists() else made_of)[-MOST_NAME:].strip(".-")
    kept = run.models / f"{name}-{what}-{len(list(run.models.iterdir())) + 1}"
    os.replace(folder, kept)
    return kept, packed(run.models, sorted(kept.rglob("*")), f"{kept.name}.zip", into=run.folder)


def said_of(model: Path, unread: int = 0) -> str:
    """Sentences for the status line: where a kept model is found, and how many pictures could not be read."""
    return " ".join(filter(None, [f"{model.name} can be chosen at the top of the page.", could_not_be_read(unread)]))

"""`click`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.click.request import ClickRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.click.run import ClickReport

__all__ = ["click"]


def _run(request: ClickRequest) -> ClickReport:
    from binderclip.tasks.verbs.click.run import run

    return run(request)


click = VerbTask(ClickRequest, _run)

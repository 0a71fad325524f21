"""`locate`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.locate.request import LocateRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.locate.run import LocateReport

__all__ = ["locate"]


def _run(request: LocateRequest) -> LocateReport:
    from binderclip.tasks.verbs.locate.run import run

    return run(request)


locate = VerbTask(LocateRequest, _run)

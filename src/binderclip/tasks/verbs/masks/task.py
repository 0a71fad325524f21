"""`masks`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.masks.request import MasksRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.masks.run import MasksReport

__all__ = ["masks"]


def _run(request: MasksRequest) -> MasksReport:
    from binderclip.tasks.verbs.masks.run import run

    return run(request)


masks = VerbTask(MasksRequest, _run)

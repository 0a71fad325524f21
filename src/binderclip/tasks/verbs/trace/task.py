"""`trace`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.trace.request import TraceRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.trace.run import TraceReport

__all__ = ["trace"]


def _run(request: TraceRequest) -> TraceReport:
    from binderclip.tasks.verbs.trace.run import run

    return run(request)


trace = VerbTask(TraceRequest, _run)

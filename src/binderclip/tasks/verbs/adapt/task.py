"""`adapt`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.adapt.request import AdaptRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.adapt.run import AdaptReport

__all__ = ["adapt"]


def _run(request: AdaptRequest) -> AdaptReport:
    from binderclip.tasks.verbs.adapt.run import run

    return run(request)


adapt = VerbTask(AdaptRequest, _run)
"""`binderclip adapt`: the best classifier for your labelled pictures, how sure it is, and where it fails."""

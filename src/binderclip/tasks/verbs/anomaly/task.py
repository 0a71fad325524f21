"""`anomaly`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.anomaly.request import AnomalyRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.anomaly.inspection import Inspection

__all__ = ["anomaly"]


def _run(request: AnomalyRequest) -> Inspection:
    from binderclip.tasks.verbs.anomaly.run import run

    return run(request)


anomaly = VerbTask(AnomalyRequest, _run)

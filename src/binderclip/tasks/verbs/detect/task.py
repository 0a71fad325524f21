"""`detect`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.detect.request import DetectRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.detect.run import Detected
    from binderclip.tasks.verbs.detect.train import TrainedDetector

__all__ = ["detect"]


def _run(request: DetectRequest) -> Detected | TrainedDetector:
    if request.train is not None:
        from binderclip.tasks.verbs.detect.train import train

        return train(request)
    from binderclip.tasks.verbs.detect.run import run

    return run(request)


detect = VerbTask(DetectRequest, _run)

"""What `detect` does of what it can do: each way is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binderclip.tasks.verbs.detect.request import DetectRequest
    from binderclip.tasks.verbs.detect.run import Detected
    from binderclip.tasks.verbs.detect.train import TrainedDetector


def run(request: DetectRequest) -> Detected | TrainedDetector:
    if request.train is not None:
        from binderclip.tasks.verbs.detect.train import train

        return train(request)
    from binderclip.tasks.verbs.detect.run import run

    return run(request)

"""`evaluate`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.evaluate.request import EvaluateRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.evaluate.run import Evaluated

__all__ = ["evaluate"]


def _run(request: EvaluateRequest) -> Evaluated:
    from binderclip.tasks.verbs.evaluate.run import run

    return run(request)


evaluate = VerbTask(EvaluateRequest, _run)
"""`binderclip evaluate`: retrieval and zero-shot accuracy of a model on a data set."""

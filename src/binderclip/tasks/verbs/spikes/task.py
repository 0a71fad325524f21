"""`spikes`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.spikes.request import SpikesRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.spikes.run import SpikesReport

__all__ = ["spikes"]


def _run(request: SpikesRequest) -> SpikesReport:
    from binderclip.tasks.verbs.spikes.run import run

    return run(request)


spikes = VerbTask(SpikesRequest, _run)

"""`probe`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.probe.request import ProbeRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.probe.result import Probe

__all__ = ["probe"]


def _run(request: ProbeRequest) -> Probe:
    from binderclip.tasks.verbs.probe.run import run

    return run(request)


probe = VerbTask(ProbeRequest, _run)

"""`heads`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.heads.request import HeadsRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.heads.result import Heads

__all__ = ["heads"]


def _run(request: HeadsRequest) -> Heads:
    from binderclip.tasks.verbs.heads.run import run

    return run(request)


heads = VerbTask(HeadsRequest, _run)
"""`binderclip heads`: what every attention head of a model says, in words."""

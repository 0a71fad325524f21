"""`attack`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.attack.request import AttackRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.attack.run import AttackReport

__all__ = ["attack"]


def _run(request: AttackRequest) -> AttackReport:
    from binderclip.tasks.verbs.attack.run import run

    return run(request)


attack = VerbTask(AttackRequest, _run)

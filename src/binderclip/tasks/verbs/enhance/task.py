"""`enhance`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.enhance.request import EnhanceRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.enhance.run import EnhancedPictures

__all__ = ["enhance"]


def _run(request: EnhanceRequest) -> EnhancedPictures:
    from binderclip.tasks.verbs.enhance.run import run

    return run(request)


enhance = VerbTask(EnhanceRequest, _run)

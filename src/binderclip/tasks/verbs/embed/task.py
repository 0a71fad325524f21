"""`embed`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.embed.request import EmbedRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.embed.run import EmbeddedPool

__all__ = ["embed"]


def _run(request: EmbedRequest) -> EmbeddedPool:
    from binderclip.tasks.verbs.embed.run import run

    return run(request)


embed = VerbTask(EmbedRequest, _run)

"""`curate`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.curate.request import CurateRequest

if TYPE_CHECKING:
    from binderclip.tasks.plan import PlannedWork
    from binderclip.tasks.verbs.curate.listing import CurationListing
    from binderclip.tasks.verbs.curate.run import CurationDone

__all__ = ["curate"]


def _run(request: CurateRequest) -> CurationDone | CurationListing | PlannedWork:
    if request.listing:
        from binderclip.tasks.verbs.curate.listing import listed

        return listed(request)
    if request.plan:
        from binderclip.tasks.verbs.curate.plan import planned

        return planned(request)
    from binderclip.tasks.verbs.curate.run import run

    return run(request)


curate = VerbTask(CurateRequest, _run)

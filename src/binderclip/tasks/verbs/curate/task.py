"""What `curate` does of what it can do: each way is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binderclip.tasks.plan import PlannedWork
    from binderclip.tasks.verbs.curate.listing import CurationListing
    from binderclip.tasks.verbs.curate.request import CurateRequest
    from binderclip.tasks.verbs.curate.run import CurationDone


def run(request: CurateRequest) -> CurationDone | CurationListing | PlannedWork:
    if request.listing:
        from binderclip.tasks.verbs.curate.listing import listed

        return listed(request)
    if request.plan:
        from binderclip.tasks.verbs.curate.plan import planned

        return planned(request)
    from binderclip.tasks.verbs.curate.run import run

    return run(request)

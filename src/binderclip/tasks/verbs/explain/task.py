"""`explain`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.explain.request import ExplainRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.explain.caption import CaptionReport
    from binderclip.tasks.verbs.explain.comparison import ComparisonReport
    from binderclip.tasks.verbs.explain.run import ExplainReport

__all__ = ["explain"]


def _run(request: ExplainRequest) -> ExplainReport | ComparisonReport | CaptionReport:
    if request.words:
        from binderclip.tasks.verbs.explain.caption import score_caption

        return score_caption(request)
    if request.compare:
        from binderclip.tasks.verbs.explain.comparison import compare_methods

        return compare_methods(request)
    from binderclip.tasks.verbs.explain.run import explain_pictures

    return explain_pictures(request)


explain = VerbTask(ExplainRequest, _run)

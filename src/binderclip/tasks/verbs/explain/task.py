"""What `explain` does of what it can do: each way is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.verbs.functions import explain as explain

if TYPE_CHECKING:
    from binderclip.tasks.verbs.explain.caption import CaptionReport
    from binderclip.tasks.verbs.explain.comparison import ComparisonReport
    from binderclip.tasks.verbs.explain.request import ExplainRequest
    from binderclip.tasks.verbs.explain.run import ExplainReport


def run(request: ExplainRequest) -> ExplainReport | ComparisonReport | CaptionReport:
    if request.words:
        from binderclip.tasks.verbs.explain.caption import score_caption

        return score_caption(request)
    if request.compare:
        from binderclip.tasks.verbs.explain.comparison import compare_methods

        return compare_methods(request)
    from binderclip.tasks.verbs.explain.run import explain_pictures

    return explain_pictures(request)

"""`descriptions`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.descriptions.request import DescriptionsRequest

if TYPE_CHECKING:
    from binderclip.tasks.verbs.descriptions.run import DescribedLabels

__all__ = ["descriptions"]


def _run(request: DescriptionsRequest) -> DescribedLabels:
    from binderclip.tasks.verbs.descriptions.run import run

    return run(request)


descriptions = VerbTask(DescriptionsRequest, _run)

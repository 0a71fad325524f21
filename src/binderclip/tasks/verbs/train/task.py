"""`train`, which loads what it works with when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs.train.request import TrainRequest

if TYPE_CHECKING:
    from binderclip.tasks.plan import PlannedWork
    from binderclip.tasks.verbs.train.check import RecipeText
    from binderclip.tasks.verbs.train.grid import CheckedGrid, TrainedGrid
    from binderclip.tasks.verbs.train.run import TrainedRun

__all__ = ["train"]


def _run(request: TrainRequest) -> TrainedRun | TrainedGrid | CheckedGrid | PlannedWork | RecipeText:
    from binderclip.tasks.verbs.train import check, grid, run

    if request.grid is not None:
        return grid.costs(request) if request.check else grid.run(request)
    if request.plan:
        return check.planned(request)
    if request.as_ is not None:
        return check.other_program(request)
    return check.checked(request) if request.check else run.run(request)


train = VerbTask(TrainRequest, _run)

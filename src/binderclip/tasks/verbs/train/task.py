"""What `train` does of what it can do: each way is loaded when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binderclip.tasks.plan import PlannedWork
    from binderclip.tasks.verbs.train.check import RecipeText
    from binderclip.tasks.verbs.train.grid import CheckedGrid, TrainedGrid
    from binderclip.tasks.verbs.train.request import TrainRequest
    from binderclip.tasks.verbs.train.run import TrainedRun


def run(request: TrainRequest) -> TrainedRun | TrainedGrid | CheckedGrid | PlannedWork | RecipeText:
    from binderclip.tasks.verbs.train import check, grid, run

    if request.grid is not None:
        return grid.costs(request) if request.check else grid.run(request)
    if request.plan:
        return check.planned(request)
    if request.as_ is not None:
        return check.other_program(request)
    return check.checked(request) if request.check else run.run(request)

"""`train --grid`: every run of a grid, or only what there would be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.tasks.events import warn
from binderclip.tasks.request import VerbResult

if TYPE_CHECKING:
    from binderclip.tasks.verbs.train.request import TrainRequest
    from binderclip.train import Cost, ScalingStudy, StudyTable


@dataclass(frozen=True)
class TrainedGrid(VerbResult):
    """The runs of a grid.

    Attributes:
        out: the grid's folder.
        title: its name. study: table of errors against operations.
    """

    request: TrainRequest
    out: Path
    title: str
    study: StudyTable
    whole = True

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a cell."""
        columns, rows = self.study.rows()
        return tuple(columns), [tuple(row) for row in rows]

    def remarks(self) -> list[str]:
        """Power laws, and why there is none."""
        laws = self.study.laws(resamples=500)
        lines = [f"{name}: error = {law}, x in {self.study.x}" for name, law in laws.items()]
        return lines + [f"{name}: no power law: {why}" for name, why in self.study.without_law().items()]

    def places(self) -> list[str]:
        """Where table, picture and runs are."""
        out = self.out
        return [f"table: {out / 'table.json'}   picture: {out / 'frontier.png'}   runs: {out / 'runs'}"]

    def as_dict(self) -> dict[str, Any]:
        return {"out": self.out, **self.study.document(), "request": self.request.as_document()}


@dataclass(frozen=True)
class CheckedGrid(VerbResult):
    """The runs that a grid would have.

    Attributes:
        study: the grid. costs: of each run, by its folder.
    """

    request: TrainRequest
    study: ScalingStudy
    costs: dict[str, Cost]
    whole = True

    @property
    def title(self) -> str:
        return self.study.name

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a run."""
        costs = self.costs.items()
        return ("run", "FLOPs"), [(folder, "?" if c.flops is None else f"{c.flops:.3g}") for folder, c in costs]

    def remarks(self) -> list[str]:
        """What the costs leave out."""
        return list(dict.fromkeys(remark for cost in self.costs.values() for remark in cost.remarks))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        runs = [
            {"folder": run.folder, "levels": run.levels, "seed": run.seed, "flops": self.costs[run.folder].flops}
            for run in self.study.runs
        ]
        return {"runs": runs, "request": self.request.as_document()}


def costs(request: TrainRequest) -> CheckedGrid:
    """What every run of a grid would cost."""
    study = _grid(request)
    return CheckedGrid(request, study, dict(study.costs(allow_pipe=request.allow_pipe)))


def run(request: TrainRequest) -> TrainedGrid:
    """Train every run of a grid.

    Raises:
        Others: as `ScalingStudy.run`.
    """
    from binderclip.tasks.verbs.train.events import StageEvents

    study = _grid(request)
    out = Path(request.out or Path("runs", Path(str(request.grid)).stem))
    try:
        table = study.run(
            out, resume=request.resume, device=request.device, progress=StageEvents, allow_pipe=request.allow_pipe
        )
    except KeyboardInterrupt:
        if (out / "runs").is_dir():
            warn(f"interrupted: the same command with --resume goes on with the runs in {out}")
        raise
    return TrainedGrid(request, out, study.name, table)


def _grid(request: TrainRequest) -> ScalingStudy:
    from binderclip.train import load_grid

    assert request.grid is not None
    return load_grid(request.grid, set=request.overrides)

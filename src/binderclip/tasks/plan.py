"""`--plan` of a request: what its work would cost on machines, before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import Saved, emit
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.request import Option, Request, VerbResult, option_of

if TYPE_CHECKING:
    from binderclip.data import ClusterPlan, Machines

PANEL = "Plan"
GB = 1e9
MANY = 1_000_000


def plan_option(help: str) -> Option:
    """An option of a plan that is a number."""
    return Option(help, panel=PANEL, metavar="NUMBER")


class PlannedRequest(Request):
    """Base of requests that `--plan` can tell the cost of; its fields are None where they were not given."""

    plan: Annotated[
        bool, Option("Run nothing: print passes, bytes, memory, hours and cost of it.", ("--plan",), panel=PANEL)
    ] = False
    samples: Annotated[float | None, Field(ge=1, le=1e15), plan_option("Pairs of the pool, such as 1e9.")] = None
    machines: Annotated[int | None, Field(ge=1, le=MANY), plan_option("Machines that work on it [default: 1].")] = None
    cores: Annotated[
        int | None, Field(ge=1, le=MANY), plan_option("Cores of each, or GPUs that a model runs on [default: 16].")
    ] = None
    memory: Annotated[float | None, Field(ge=1e-3, le=1e9), plan_option("Memory of each in GB [default: 64].")] = None
    price: Annotated[
        float | None, Field(ge=0, le=1e9), plan_option("Of a machine for an hour, in any currency [default: 1].")
    ] = None
    bandwidth: Annotated[
        float | None,
        Field(ge=1e-6, le=1e9),
        plan_option("Of a machine to storage and to the others in GB/s [default: 1.25]."),
    ] = None
    picture_bytes: Annotated[
        float | None, Field(ge=1, le=1e9), plan_option("Of an encoded picture [default: 30000].")
    ] = None

    @model_validator(mode="after")
    def _belongs(self) -> PlannedRequest:
        for name in () if self.plan else self.given():
            option = option_of(type(self).model_fields[name])
            if option.panel == PANEL:
                raise UsageError(f"{option.flag(name)} belongs to a plan: add --plan, or leave it out")
        return self

    def needed_samples(self) -> float:
        """The number of samples.

        Raises:
            UsageError: none was given.
        """
        if self.samples is None:
            raise UsageError("--plan needs the size of the pool: --samples 1e9")
        return self.samples

    def bytes_of_picture(self) -> dict[str, Any]:
        """`picture_bytes` where it was given: the functions that plan have its default."""
        return {} if self.picture_bytes is None else {"picture_bytes": self.picture_bytes}

    def counted_machines(self, operations: float | None = None) -> Machines:
        """The machines; what was not given has its default.

        Args:
            operations: floating-point operations a second of one.

        Raises:
            UsageError: as of `data.Machines`.
        """
        from binderclip.data import Machines

        asked = {
            "count": self.machines, "cores": self.cores, "memory": None if self.memory is None else self.memory * GB,
            "price": self.price, "bandwidth": None if self.bandwidth is None else self.bandwidth * GB,
            "operations": operations,
        }  # fmt: skip
        return Machines(**{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class PlannedWork(VerbResult):
    """What the work of a request would cost.

    Attributes:
        plan: its passes.
        subject: what is planned.
        files: that were written.
    """

    request: PlannedRequest
    plan: ClusterPlan
    subject: str
    files: list[Path]
    whole = True

    @property
    def title(self) -> str:
        return _heading(self.plan, self.subject)

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a pass."""
        columns, rows = self.plan.rows()
        return tuple(columns), [tuple(row) for row in rows]

    def conclusion(self) -> list[str]:
        """What stops it from going further."""
        return [self.plan.stops]

    def remarks(self) -> list[str]:
        """What is not known, what more machines do not make faster, and what was assumed."""
        from binderclip.data.parallel.plan import hours_text

        lines = []
        if unknown := self.plan.unknown:
            lines.append(f"unknown, so that the total is at least what it says: {', '.join(unknown)}")
        if single := self.plan.single_hours:
            lines.append(f"{hours_text(single)} of the hours are one process's, which more machines do not make fewer")
        return [*lines, *self.plan.notes]

    def places(self) -> list[str]:
        """The files."""
        return [f"written: {', '.join(map(str, self.files))}"] if self.files else []

    def as_dict(self) -> dict[str, Any]:
        return {**self.plan.as_dict(), "request": self.request.as_document()}


def planned_work(request: PlannedRequest, plan: ClusterPlan, subject: str, out: str | None) -> PlannedWork:
    """A plan as a result, with `plan.html` and `plan.json` where a folder is named.

    Args:
        request: what was asked.
        plan: of its work.
        subject: what is planned.
        out: folder.

    Raises:
        UsageError: the folder is an object's, or a file.
    """
    return PlannedWork(request, plan, subject, [] if out is None else _written(plan, _heading(plan, subject), out))


def _heading(plan: ClusterPlan, subject: str) -> str:
    machines = plan.machines
    return (
        f"{subject}: {plan.samples:,.0f} samples on {number_of(machines.count, 'machine')} of "
        f"{number_of(machines.cores, 'core')}, {machines.memory / GB:,.0f} GB, {machines.bandwidth / GB:g} GB/s, "
        f"{machines.price:g} an hour"
    )


def _written(plan: ClusterPlan, heading: str, out: str) -> list[Path]:
    from binderclip.data.storage import is_object
    from binderclip.tasks.report.page import Page

    if is_object(out):
        raise UsageError(f"--out {out}: a plan is written to a folder of files")
    folder = output_folder(out)
    files = writable_paths([folder / "plan.html", folder / "plan.json"])
    columns, rows = plan.rows()
    page = Page("What it will cost", escape(heading))
    page.section("Passes", escape(plan.stops))
    page.table(columns, rows)
    page.section("What was assumed", "")
    for text in plan.notes:
        page.text(escape(text))
    page.save(files[0])
    write_json(plan.as_dict(), files[1])
    for file in files:
        emit(Saved(file))
    return files

"""`--plan` and the options beside it: what a verb's work would cost on machines, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import finite
from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.writing import write_json

if TYPE_CHECKING:
    from binderclip.data import ClusterPlan, Machines
    from binderclip.tasks.plan import PlannedWork

PANEL = "Plan"
GB = 1e9


def bounded(name: str, help: str, least: float, most: float) -> Any:
    """An option of a plan that is a number within bounds."""
    return typer.Option(
        name, help=help, min=least, max=most, callback=finite, metavar="NUMBER", rich_help_panel=PANEL
    )  # fmt: skip


Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Run nothing: print passes, bytes, memory, hours and cost of it.", rich_help_panel=PANEL
    ),
]
MANY = 1_000_000
Samples = Annotated[float | None, bounded("--samples", "Pairs of the pool, such as 1e9.", 1, 1e15)]
MachineCount = Annotated[int | None, bounded("--machines", "Machines that work on it [default: 1].", 1, MANY)]
Cores = Annotated[int | None, bounded("--cores", "Cores of each, or GPUs that a model runs on [default: 16].", 1, MANY)]
Memory = Annotated[float | None, bounded("--memory", "Memory of each in GB [default: 64].", 1e-3, 1e9)]
Price = Annotated[float | None, bounded("--price", "Of a machine for an hour, in any currency [default: 1].", 0, 1e9)]
Bandwidth = Annotated[
    float | None,
    bounded("--bandwidth", "Of a machine to storage and to the others in GB/s [default: 1.25].", 1e-6, 1e9),
]
PictureBytes = Annotated[float | None, bounded("--picture-bytes", "Of an encoded picture [default: 30000].", 1, 1e9)]


@dataclass(frozen=True)
class PlanOptions:
    """The options of a plan that verbs share, None where they were not given.

    Args:
        samples, machines, cores, memory, price, bandwidth, picture_bytes: as typed; GB and GB/s.
        more: the verb's own options -> values.
    """

    samples: float | None
    machines: int | None
    cores: int | None
    memory: float | None
    price: float | None
    bandwidth: float | None
    picture_bytes: float | None
    more: Mapping[str, object]

    def refuse_without(self, plan: bool) -> None:
        """Refuse any of them where `--plan` was not given.

        Raises:
            UsageError: names the first of them.
        """
        shared = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items() if name != "more"}
        given = [option for option, value in {**shared, **self.more}.items() if value is not None]
        if given and not plan:
            raise UsageError(f"{given[0]} belongs to a plan: add --plan, or leave it out")

    @property
    def needed_samples(self) -> float:
        """The number of samples.

        Raises:
            UsageError: none was given.
        """
        if self.samples is None:
            raise UsageError("--plan needs the size of the pool: --samples 1e9")
        return self.samples

    @property
    def bytes_of_picture(self) -> dict[str, float]:
        """`picture_bytes` where it was given: the functions that plan have its default."""
        return {} if self.picture_bytes is None else {"picture_bytes": self.picture_bytes}

    def counted_machines(self, operations: float | None = None) -> Machines:
        """The machines; what was not given has its default.

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


def show_planned(result: PlannedWork, json: bool) -> None:
    """Print what a task's work would cost, or its document."""
    if json:
        print_json(result.as_dict())
        return
    print_table(result.title, *result.table())
    typer.echo(result.plan.stops)
    for line in [*result.remarks(), *result.places()]:
        note(line)


def show_plan(plan: ClusterPlan, title: str, out: str | Path | None, *, json: bool) -> None:
    """Print a plan, and write `plan.html` and `plan.json` where a folder is named.

    Args:
        plan: to be shown.
        title: what is planned.
        out: folder.
        json: print JSON instead of a table.

    Raises:
        UsageError: the folder is an object's, or a file.
    """
    from binderclip.data.parallel.plan import hours_text

    columns, rows = plan.rows()
    machines = plan.machines
    heading = (
        f"{title}: {plan.samples:,.0f} samples on {number_of(machines.count, 'machine')} of "
        f"{number_of(machines.cores, 'core')}, "
        f"{machines.memory / GB:,.0f} GB, {machines.bandwidth / GB:g} GB/s, {machines.price:g} an hour"
    )
    if json:
        print_json(plan.as_dict())
    else:
        print_table(heading, columns, rows)
        typer.echo(plan.stops)
    unknown = plan.unknown
    if unknown:
        note(f"unknown, so that the total is at least what it says: {', '.join(unknown)}")
    if single := plan.single_hours:
        note(f"{hours_text(single)} of the hours are one process's, which more machines do not make fewer")
    for text in plan.notes:
        note(text)
    if out is not None:
        _write(plan, heading, str(out))


def _write(plan: ClusterPlan, heading: str, out: str) -> None:
    from binderclip.data.storage import is_object
    from binderclip.tasks.report.page import Page

    if is_object(out):
        raise UsageError(f"--out {out}: a plan is written to a folder of files")
    folder = output_folder(out)
    writable_paths([folder / "plan.html", folder / "plan.json"])
    columns, rows = plan.rows()
    page = Page("What it will cost", escape(heading))
    page.section("Passes", escape(plan.stops))
    page.table(columns, rows)
    page.section("What was assumed", "")
    for text in plan.notes:
        page.text(escape(text))
    page.save(folder / "plan.html")
    write_json(plan.as_dict(), folder / "plan.json")
    note(f"written: {folder / 'plan.html'}, {folder / 'plan.json'}")

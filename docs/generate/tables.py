"""Tables that pages of the site ask for by `<!-- table: NAME -->`, made of the stored results whenever it is built.

Nothing in them is typed: a study that is measured again changes its table at the next build.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from binderclip.adapt import METHODS as HEADS
from binderclip.curate import plan_curation, read_recipe
from binderclip.data import Machines
from binderclip.errors import DataError
from binderclip.optim import METHODS as CLIPS
from binderclip.optim import optimizers
from binderclip.papers import JOBS, Paper, papers
from binderclip.segment import PRESETS
from binderclip.studies import Result
from binderclip.studies.harness.columns import Columns
from binderclip.studies.harness.report import cell, pivot, spread
from binderclip.train import load_recipe, plan_training

Results = Mapping[str, Result]
MARKER = re.compile(r"^<!-- table: ([\w-]+) -->\n(?:\*(?:This table is|These tables are) made .*\*\n?)?", re.MULTILINE)
NOT_RUN = "Not run by the tests: needs the paper's own data"
SHOTS = re.compile(r"^(?P<data>.+), (?P<shots>\d+) shots?$")


def fill(text: str, results: Results, up: str = "../") -> str:
    """A page with its tables in the place of the markers.

    Args:
        text: of the page, in Markdown.
        results: the stored results by paper.
        up: from the page's folder to that of `PAPERS.md`.

    Raises:
        DataError: a table that is not known.
    """

    def made(match: re.Match[str]) -> str:
        if match[1] not in TABLES:
            raise DataError(f"there is no table {match[1]!r}: {', '.join(TABLES)}")
        return "\n".join(TABLES[match[1]](results)).replace("](results/", f"]({up}results/") + "\n"

    return MARKER.sub(made, text)


def link(entry: Paper, results: Results) -> str:
    """Paper and verdict in one cell, linked to the study's page."""
    result = results.get(entry.id)
    if result is None or result.verdict == "failed":
        return f"{entry.id}, not measured"
    return f"[{entry.id}](results/{entry.id}.md): {result.said}"


def evidence(results: Results, ids: Sequence[str]) -> list[str]:
    """One row a study: what decided its verdict with its interval and, where any study has one, its rival.

    Args:
        results: the stored results by paper.
        ids: of the papers, in order; one that is not stored is left out.
    """
    titles = {entry.id: entry.title.split(":")[0] for entry in papers()}
    rows = []
    for identifier in ids:
        result = results.get(identifier)
        if result is None or result.verdict == "failed":
            continue
        head, rival = result.headline, result.rival
        if result.stopped:
            head = next(check for check in result.checks if check.outcome == "missing")
        said = [
            "" if head is None else f"{cell(head.text)}: {cell(head.shown or head.measured) or head.outcome}",
            "" if rival is None else f"{rival.word}; {cell(rival.text)}: {cell(rival.shown)}",
        ]
        rows.append([f"[{identifier}](results/{identifier}.md) {titles[identifier]}", result.said, *said])
    names = ["paper", "verdict", "what decided it: effect (95 % interval), n", "against the strongest cheap rival"]
    if not any(row[-1] for row in rows):
        names, rows = names[:-1], [row[:-1] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows)]


def _rows_of(results: Results) -> list[tuple[str, list[Columns]]]:
    """Title of a job and its methods that were measured, what to try first at the top."""
    found = [Columns(entry, results[entry.id]) for entry in papers(status="done") if entry.id in results]
    ordered = sorted(found, key=lambda row: row.order)
    return [(title, [row for row in ordered if row.paper.job == job]) for job, title in JOBS.items()]


def first_choices(results: Results) -> list[str]:
    """Of each job up to three methods whose claim was seen, in part at least, and that no cheap rival beat or tied."""
    lines = ["| job | try first | why: effect (95 % interval) | cheap rival |", "| --- | --- | --- | --- |"]
    for title, rows in _rows_of(results):
        chosen = [r for r in rows if r.result and r.result.verdict in ("reproduced", "in part")]
        for row in [r for r in chosen if r.rival_word in ("beaten", "")][:3]:
            name = f"[`{row.name}`](results/{row.paper.id}.md)<br>{row.claim}"
            lines.append(f"| {title} | {name} | {cell(row.effect)} | {cell(row.against) or 'none measured'} |")
    return lines


def cheaper_is_better(results: Results) -> list[str]:
    """Every method that lost to its strongest cheap rival, with what was asked."""
    lines = ["| job | method | what did better |", "| --- | --- | --- |"]
    for title, rows in _rows_of(results):
        for row in [r for r in rows if r.rival_word == "lost"]:
            name = f"[`{row.name}`](results/{row.paper.id}.md)"
            lines.append(f"| {title} | {name} | {cell(row.against.removeprefix('lost: '))} |")
    return lines


def criteria(results: Results, paper: str) -> list[str]:
    """One row a comparison of a study that has an interval, and what came out.

    Args:
        results: the stored results by paper.
        paper: the study.
    """
    result = results.get(paper)
    if result is None or result.verdict == "failed":
        return [f"{paper} is not measured."]
    rows = [[cell(c.text), c.word, cell(c.shown)] for c in result.checks if c.shown]
    names = ["compared", "outcome", "effect (95 % interval), n"]
    return ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows)]


def figures(results: Results, ids: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """Of each study the means over seeds of its metrics with these beginnings, or of its first metric."""
    lines: list[str] = []
    for identifier in ids:
        result = results.get(identifier)
        if result is None or result.verdict == "failed":
            continue
        names = result.table.names("metric")
        chosen = [name for name in names if name.startswith(tuple(metrics))] or names[:1]
        title = next(entry.title for entry in papers() if entry.id == identifier)
        lines += [f"### {title}", "", f"[{identifier}](results/{identifier}.md), {_seeds(result)}."]
        for name in chosen:
            lines += ["", *pivot(result.table, name)]
        lines.append("")
    return lines


def _seeds(result: Result) -> str:
    many = len(result.seeds)
    return f"{many} seeds, mean ± standard deviation" if many > 1 else "one seed"


def by_shots(results: Results, ids: Sequence[str]) -> list[str]:
    """Accuracy by pictures a class, one table a data set: every method of every study that measured it there."""
    rows: dict[str, dict[tuple[str, str], dict[int, str]]] = {}
    for identifier in ids:
        result = results.get(identifier)
        if result is None or result.verdict == "failed" or "accuracy" not in result.table.names("metric"):
            continue
        for setting in result.table.names("setting", "accuracy"):
            found = SHOTS.match(setting)
            if found is None:
                continue
            for method in result.table.names("method", "accuracy"):
                if result.table.has("accuracy", method, setting):
                    values = result.table.values("accuracy", method, setting)
                    own = rows.setdefault(found["data"], {}).setdefault((method, identifier), {})
                    own[int(found["shots"])] = spread(values)
    lines: list[str] = []
    for data, methods in rows.items():
        shots = sorted({number for own in methods.values() for number in own})
        heads = [f"{number} a class" for number in shots]
        lines += [f"**{data}**", "", "| method | study | " + " | ".join(heads) + " |"]
        lines.append("| --- | --- |" + " ---: |" * len(shots))
        for (method, identifier), own in methods.items():
            if len(own) < 2 <= len(shots):
                continue  # a variant that was measured at one number alone
            cells = [own.get(number, "") for number in shots]
            lines.append(f"| {cell(method)} | [{identifier}](results/{identifier}.md) | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def methods(results: Results, room: str, known: Mapping[str, Any]) -> list[str]:
    """Every method of a room by name, what it does, and the verdict on its paper where it is one of the 182."""
    lines = ["| name | class | what it does | paper |", "| --- | --- | --- | --- |"]
    for name, method in known.items():
        kind = method.func if isinstance(method, partial) else method
        entry = next((each for each in papers() if f"{room}.{kind.__name__}" in each.names), None)
        said = link(entry, results) if entry is not None else ""
        lines.append(f"| `{name}` | `{kind.__name__}` | {cell(first_sentence(kind))} | {said} |")
    return lines


def presets(results: Results) -> list[str]:
    """Every preset of the segmenter with the verdict on its paper, where it has one among the 182."""
    lines = ["| preset | paper |", "| --- | --- |"]
    for name in PRESETS:
        entry = _paper_of(name) or _paper_of(name.split("-")[0])
        lines.append(f"| `{name}` | {link(entry, results) if entry is not None else 'not among the 182'} |")
    return lines


def _paper_of(preset: str) -> Paper | None:
    return next((each for each in papers() if any(_names(line, preset) for line in each.use)), None)


def _names(line: str, preset: str) -> bool:
    """Whether a command line names this preset, alone or in a list."""
    given = re.search(r"--preset ([\w,-]+)", line)
    return given is not None and preset in given[1].split(",")


def first_sentence(thing: Any) -> str:
    """Of its docstring, in one line."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.;]) ", text)[0].rstrip(";:.")


def at_paper_scale(results: Results) -> list[str]:
    """The command that repeats a paper's own protocol, for every paper that has one, in a block to copy."""
    lines = []
    for entry in papers():
        if entry.at_paper_scale:
            title = f"[{entry.title}]({entry.url})" if entry.url else entry.title
            lines += [f"**{entry.id}** {title}. Here: {link(entry, results)}.", ""]
            lines += [
                '```bash title="Not run by the tests: needs the paper\'s own data"',
                entry.at_paper_scale,
                "```",
                "",
            ]
    return lines


def without_command(results: Results) -> list[str]:
    """What the studies of the others replaced, which is what a run at paper scale would have to put back."""
    lines = ["| paper | what the study put in its place |", "| --- | --- |"]
    for entry in papers(status="done"):
        if not entry.at_paper_scale:
            lines.append(f"| {link(entry, results)} | {cell('; '.join(entry.stand_in)) or 'nothing'} |")
    return lines


PLANS = {
    "curate": "binderclip curate --recipe density-pruning --plan --samples 1e9 --machines 20 --cores 32 --memory 256",
    "train": "binderclip train clipa --plan --samples 1e9 --machines 64 --cores 16 --memory 80 --flops 1e14",
}
"""The commands whose tables the page of clusters shows; a test holds that it names them."""


def planned(results: Results, verb: str) -> list[str]:
    """The plan for a billion pairs that a command prints, with the sentence which step stops scaling first."""
    if verb == "curate":
        plan = plan_curation(read_recipe("density-pruning"), 1e9, Machines(count=20, cores=32, memory=256e9))
    else:
        plan = plan_training(load_recipe("clipa"), 1e9, Machines(count=64, cores=16, memory=80e9, operations=1e14))
    names, rows = plan.rows()
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in (names, ["---"] * len(names), *rows)]
    return [*lines, "", cell(plan.stops), "", *(f"- {cell(note)}" for note in plan.notes), ""]


CLIPPING = ("p002", "p005", "p004", "p052", "p017", "p007", "p009", "p016", "p041")
FEW_SHOT = ("p162", "p176", "p043", "p129", "p061", "p142", "p179", "p115", "p014", "p013", "p021", "p139", "p167")
SEGMENTATION = ("p164", "p170", "p148", "p105", "p029", "p132", "p085")
CLIPPED_OPTIMIZERS = ("StableSPAM", "MedianMomentum", "ClippedAdaGrad", "ClippedAdam")
OPTIMIZERS = {name: getattr(optimizers, name) for name in CLIPPED_OPTIMIZERS}


def released_weights(results: Results) -> list[str]:
    """One row for each release: the paper, whose weights, and what opens them or why nothing does."""
    rows = [
        [f"[{entry.id}]({entry.url or 'PAPERS.md'}) {entry.title.split(':')[0]}", weights.whose,
         f"`{weights.loader}`: {weights.how}" if weights.loader else f"not: {weights.why_not}"]
        for entry in papers(status="done")
        for weights in entry.weights
    ]  # fmt: skip
    names = ["paper", "whose weights", "how they are opened, or why not"]
    return ["| " + " | ".join(row) + " |" for row in (names, ["---"] * len(names), *rows)]


TABLES: dict[str, Callable[[Results], list[str]]] = {
    "clipping-methods": partial(methods, room="optim", known={**CLIPS, **OPTIMIZERS}),
    "clipping-evidence": partial(evidence, ids=CLIPPING),
    "clipping-figures": partial(figures, ids=CLIPPING[:3], metrics=("training loss", "loss spikes", "clean steps")),
    "head-methods": partial(methods, room="adapt", known=HEADS),
    "head-evidence": partial(evidence, ids=FEW_SHOT),
    "head-shots": partial(by_shots, ids=FEW_SHOT),
    "preset-papers": presets,
    "preset-evidence": partial(evidence, ids=SEGMENTATION),
    "preset-figures": partial(figures, ids=SEGMENTATION[:-1], metrics=("mIoU",)),
    "first-choices": first_choices,
    "cheaper-is-better": cheaper_is_better,
    "mixed-search-evidence": partial(criteria, paper="p096"),
    "mixed-search-figures": partial(figures, ids=("p096",), metrics=("NDCG@10", "share of the first 10")),
    "at-paper-scale": at_paper_scale,
    "without-command": without_command,
    "released-weights": released_weights,
    "plan-curate": partial(planned, verb="curate"),
    "plan-train": partial(planned, verb="train"),
}
"""Name -> what makes the table's lines of Markdown from the stored results."""

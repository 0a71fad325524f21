"""Papers: the index of the 182, what each claims and what was measured, and its study to run again."""

from __future__ import annotations

import html
import shlex
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip import papers as index
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.look import table
from binderclip.workbench.status import short_time
from binderclip.workbench.tab import LEARN, Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from pathlib import Path

    from binderclip.papers import Paper
    from binderclip.studies import Result

STATES = [("All", "any"), ("Done", "done"), ("Planned", "planned")]
LENGTHS = [("A minute: one seed, no verdict", "quick"), ("The whole study, with its verdict", "whole")]
FIRST = "p002"
"""The paper that is shown at first."""


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            words = gr.Textbox(label="Words of a title, an author, a name, a room", placeholder="gradient clipping")
            status = gr.Radio(STATES, value="done", label="Which")
            chosen = gr.Dropdown(_choices("", "done"), value=FIRST, label="Paper", filterable=True)
            listing = gr.HTML(_list("", "done"))
        with gr.Column(scale=3, min_width=320):
            card = gr.HTML(_card(FIRST))
            figure = gr.Image(label="Figure of the study", interactive=False, visible=False, buttons=["fullscreen"])
            length = gr.Radio(LENGTHS, value="quick", label="Measure it here")
            controls = bench.controls("Run the study")
            measured = gr.HTML()
            results = bench.results()

    def search(words: str, status: str) -> list[Any]:
        choices = _choices(words, status)
        first = choices[0][1] if choices else None
        return [gr.update(choices=choices, value=first), _list(words, status)]

    def show(request: gr.Request, identifier: str | None) -> list[Any]:
        if not identifier:
            return ["", gr.update(value=None, visible=False)]
        picture = _stored_figure(bench, request, identifier)
        return [_card(identifier), gr.update(value=picture and str(picture), visible=picture is not None)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([words.change, status.change], search, [words, status], [chosen, listing], **quiet)
    # Without triggers: when the page opens, and when another paper is chosen.
    gr.on(None, show, [chosen], [card, figure], **quiet)
    bench.connect(controls, work, [chosen, length], [measured, figure], results, keep=True)


def work(run: Run, identifier: str | None, length: str) -> Outcome:
    """Measure one claim; the rows, the verdict where the whole study was run, and the figure."""
    from binderclip.studies import load_study, run_study, save, stored_result
    from binderclip.studies.harness.report import save_figure

    if not identifier:
        raise UsageError("choose a paper first")
    entry = index.paper(identifier)
    if not entry.study:
        raise UsageError(f"{entry.id} is planned: it has no study yet")
    quick, study = length == "quick", load_study(entry.study)
    stored, count = stored_result(entry.study), 1 if length == "quick" else len(study.seeds)
    expected = None if stored is None else stored.seconds / max(1, len(stored.seeds)) * count
    about = "" if expected is None else f", about {short_time(expected)} in all"
    begun: list[str] = []

    def seed(line: str) -> None:
        begun.append(line)
        run.progress(len(begun) - 1, count, f"{line} ({len(begun)} of {count}){about}")

    result = run_study(entry.study, None, seed, quick=quick)
    if result.verdict == "failed":
        raise UsageError(f"the study of {entry.id} failed: {result.reason}")
    run.say("drawing")
    picture = run.folder / f"{entry.study}.png"
    if quick:
        save_figure(result, study, picture)
        files = [picture]
    else:
        files = save(result, run.folder)
    again = Equivalent(
        f"from binderclip.studies import run_study; print(run_study({entry.study!r}, quick={quick}).verdict)",
        shlex.join(["binderclip", "reproduce", entry.study, *(["--quick"] if quick else [])]),
    )
    shown = _checks(result) if result.checks else _rows(result)
    return Outcome((shown, gr.update(value=str(picture), visible=True)), files, again, f"Verdict: {result.said}")


def _found(words: str, status: str) -> list[Paper]:
    chosen: Any = None if status == "any" else status
    named = [entry for entry in index.papers(status=chosen) if words.strip() and entry.is_named(words)]
    return named or index.papers(words or None, status=chosen)


def _choices(words: str, status: str) -> list[tuple[str, str]]:
    return [(f"{entry.id}  {entry.title}", entry.id) for entry in _found(words, status)]


def _list(words: str, status: str) -> str:
    """Papers with what is said of each, those to try first at the top."""
    from binderclip.studies import columns_of

    entries = sorted((columns_of(entry) for entry in _found(words, status)), key=lambda row: row.order)
    rows = [
        (row.paper.id, row.name, row.implementation, row.claim or row.paper.status, row.rival_word) for row in entries
    ]
    if not rows:
        return '<p class="about">No paper matches.</p>'
    return table(("", "Method", "Implementation", "Claim here", "Cheap rival"), rows, number_of(len(rows), "paper"))


def _card(identifier: str) -> str:
    """A paper as HTML: what it is, how it is used, its claim, and what was measured."""
    from binderclip.studies import columns_of, load_study

    entry = index.paper(identifier)
    source = html.escape(entry.citation)
    if entry.url:
        source += f' <a href="{html.escape(entry.url)}" rel="noreferrer" target="_blank">{html.escape(entry.url)}</a>'
    lines = [f"<h2>{html.escape(entry.id)}: {html.escape(entry.title)}</h2>", f"<p>{source}</p>"]
    if entry.use:
        lines.append(f"<pre>{html.escape(chr(10).join(entry.use))}</pre>")
    if not entry.study:
        return "".join([*lines, "<p>Planned: it has no method and no study yet.</p>"])
    study, columns = load_study(entry.study), columns_of(entry)
    result = columns.result
    lines.append(f"<p><strong>The paper says.</strong> {html.escape(study.claim)}</p>")
    lines.append(f"<p><strong>Implementation.</strong> Held against: {html.escape(columns.implementation)}.</p>")
    if result is None:
        return "".join([*lines, "<p>No result is stored here: run the study below.</p>"])
    figures = {
        "Claim here": columns.claim,
        "Effect": columns.effect,
        "Cheap rival": columns.against,
        "Cost": columns.cost,
        "Why not testable": columns.why_not,
        "For choosing": columns.means,
    }
    lines += [f"<p><strong>{name}.</strong> {html.escape(text)}</p>" for name, text in figures.items() if text]
    lines += [f"<p>{html.escape(remark)}</p>" for remark in result.notes]
    lines.append(_checks(result))
    if study.stand_in:
        lines.append(f"<p><strong>Not the real thing.</strong> {html.escape('; '.join(study.stand_in))}.</p>")
    if entry.at_paper_scale:
        lines.append(f"<p><strong>At paper scale.</strong> <code>{html.escape(entry.at_paper_scale)}</code></p>")
    return "".join(lines)


def _checks(result: Result) -> str:
    rows = [(check.word, check.text, check.shown or check.measured) for check in result.checks]
    return table(("Outcome", "Criterion", "Measured"), rows, f"{result.paper}: {result.said}")


def _rows(result: Result) -> str:
    rows = [(row.metric, row.method, row.setting, float(row.value)) for row in result.rows]
    return table(("Metric", "Method", "Setting", "Value"), rows, f"{result.paper}: {result.said}")


def _stored_figure(bench: Bench, request: gr.Request, identifier: str) -> Path | None:
    """A copy of the stored figure that the browser may read."""
    import shutil

    from binderclip.studies import checkout

    root, entry = checkout(), index.paper(identifier)
    figure = None if root is None or not entry.study else root / "docs" / "results" / f"{entry.study}.png"
    if figure is None or not figure.is_file():
        return None
    folder = bench.sessions.new_results(bench.session(request), str(request.session_hash), "figure")
    return shutil.copyfile(figure, folder / figure.name)


TAB = Tab(
    "Papers",
    "What each paper claims, what was measured here, and its study to run again.",
    build,
    order=80,
    group=LEARN,
)

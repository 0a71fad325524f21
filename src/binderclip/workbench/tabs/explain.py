"""Explain: where in a picture the evidence for a text is, by several methods; which words of a caption fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from binderclip.errors import UsageError
from binderclip.models.files.registry import has_concepts
from binderclip.tasks.files.writing import without_empty_columns
from binderclip.tasks.verbs.explain.caption import words_html
from binderclip.tasks.verbs.explain.request import ExplainRequest
from binderclip.tasks.verbs.explain.task import explain
from binderclip.workbench.commands import Equivalent, named_pictures
from binderclip.workbench.fields import control
from binderclip.workbench.look import check_size, table
from binderclip.workbench.tab import Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.explain.caption import CaptionReport
    from binderclip.tasks.verbs.explain.run import ExplainReport

METHODS_AT_FIRST = ["concepts", "gradcam", "smoothgrad"]
MOST_METHODS = 12
LEGEND = "Green words speak for the picture, red ones against it; underlined: does not fit; struck through: not read."


def build(bench: Bench) -> None:
    from binderclip.explain import METHODS, OPTIMISED

    names = [(f"{name} (minutes)" if name in OPTIMISED else name, name) for name in sorted(METHODS)]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = bench.pictures("Picture", many=False)
            label = control(ExplainRequest, "label", placeholder="a cat")
            methods = gr.CheckboxGroup(names, value=METHODS_AT_FIRST, label="Methods, side by side")
            controls = bench.controls("Show the evidence")
            with gr.Accordion("Which words of a caption fit", open=False):
                caption = gr.Textbox(label="Caption", placeholder="a cat on a red sofa")
                word_controls = bench.controls("Colour the words")
                words = gr.HTML()
                word_results = bench.results()
        with gr.Column(scale=3, min_width=320):
            gallery = gr.Gallery(
                label="Evidence", columns=2, height="auto", object_fit="contain", interactive=False,
                buttons=["fullscreen"],
            )  # fmt: skip
            numbers = gr.HTML()
            results = bench.results()
    bench.connect(controls, work, [picture.files, label, methods], [gallery, numbers], results, also=[label.submit])
    bench.connect(word_controls, colour_words, [picture.files, caption], [words], word_results, also=[caption.submit])


def work(run: Run, file: str | None, label: str, names: list[str]) -> Outcome:
    """All chosen methods on one picture, one after the other, so that the first are seen at once."""
    path = run.pictures(file).paths[0]
    if not label.strip():
        raise UsageError("type what to look for, such as: a cat")
    if not names or len(names) > MOST_METHODS:
        raise UsageError(f"tick 1 to {MOST_METHODS} methods")
    check_size(path)
    if not has_concepts(run.model_name):
        names = [name for name in names if name != "concepts"]
        if not names:
            raise UsageError(f"{run.model_name} has no concepts: tick another method, or choose everyday")
    reports: list[ExplainReport] = []
    again: list[ExplainRequest] = []
    for name in names:
        run.progress(len(reports), len(names), f"looking by {name}")
        # The same without this page is about the picture by the name that its owner knows.
        request = _request(run, [str(path)], label=label.strip(), method=name, out=str(run.folder / f"{name}.png"))
        reports.append(cast("ExplainReport", explain.run(request, progress=run.hear_part)))
        again.append(_request(run, named_pictures([path]), label=label.strip(), method=name, out=f"{name}.png"))
        shown = [(str(each.pictures[0].overlay), each.method) for each in reports]
        run.show(shown, _table(reports))
    return Outcome((shown, _table(reports)), [each.pictures[0].overlay for each in reports], Equivalent.of(*again))


def colour_words(run: Run, file: str | None, caption: str) -> Outcome:
    """The caption with its words coloured by what they do to the match."""
    path = run.pictures(file).paths[0]
    if not caption.strip():
        raise UsageError("type a caption, such as: a cat on a red sofa")
    check_size(path)
    words = caption.strip()
    result = cast("CaptionReport", explain.run(_request(run, [str(path), words], words=True)))
    text = f"{result.misfits[:1].upper()}{result.misfits[1:]}. Cosine {float(result.found.cosine):.3f}"
    if lost := result.found.lost()[0]:
        text += f". Not read, too far back for {run.model_name}: {', '.join(lost)}"
    shown = f"{words_html(result.found)}<p class=legend>{LEGEND}</p>"
    again = Equivalent.of(_request(run, [*named_pictures([path]), words], words=True))
    return Outcome((shown,), again=again, said=text)


def _request(run: Run, images: list[str], **asked: Any) -> ExplainRequest:
    return ExplainRequest(images=images, model=run.model_name, device=run.bench.models.device, **asked)


def _table(reports: list[ExplainReport]) -> str:
    columns: list[tuple[str, ...]] = [("Method", "Strongest evidence at", "Completeness error")]
    for each in reports:
        (picture,) = each.pictures
        error = picture.completeness_error
        place = f"x {picture.peak[0]}, y {picture.peak[1]}" if picture.peak else "finds no place"
        columns.append((each.method, place, "" if error is None else f"{error:.2g}"))
    return table(*without_empty_columns(columns[0], columns[1:]), f"Evidence for {reports[0].text}")


TAB = Tab("Explain", "Where in a picture the evidence for a text is; methods side by side.", build, order=50)

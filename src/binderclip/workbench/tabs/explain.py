"""Explain: where in a picture the evidence for a text is, by several methods; which words of a caption fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.files.registry import has_concepts
from binderclip.tasks.events import Counted, Event, PartialResult
from binderclip.tasks.files.writing import without_empty_columns
from binderclip.tasks.verbs.explain.caption import words_html
from binderclip.tasks.verbs.explain.request import ExplainRequest
from binderclip.tasks.verbs.explain.task import explain
from binderclip.workbench.commands import Equivalent, named_pictures
from binderclip.workbench.fields import control
from binderclip.workbench.look import check_size, hint, sentences, table
from binderclip.workbench.tab import WHY, Bench, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.explain.caption import CaptionReport
    from binderclip.tasks.verbs.explain.run import ExplainedPicture

METHODS_AT_FIRST = ["concepts", "gradcam", "smoothgrad"]
MOST_METHODS = 12
LEGEND = "Green words speak for the picture, red ones against it; underlined: does not fit; struck through: not read."


def build(bench: Bench) -> None:
    from binderclip.explain import METHODS, OPTIMISED

    # What optimises a mask keeps a probability, which one text has none of.
    names = sorted(METHODS.keys() - OPTIMISED)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            picture = bench.pictures("Picture", many=False)
            label = control(ExplainRequest, "label", placeholder="a cat")
            with gr.Accordion(f"Other methods than {', '.join(METHODS_AT_FIRST)}", open=False):
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
            numbers = gr.HTML(
                hint(
                    "Choose a picture, type what to look for, press Show the evidence: what speaks for it lights up, "
                    "method by method."
                )
            )
            results = bench.results()
    bench.connect(controls, work, [picture.files, label, methods], [gallery, numbers], results, also=[label.submit])
    bench.connect(word_controls, colour_words, [picture.files, caption], [words], word_results, also=[caption.submit])


def work(run: Run, file: str | None, label: str, names: list[str]) -> Outcome:
    """All chosen methods on one picture; those that need the same passes share them, and each is shown at once."""
    path = run.picture(file)
    if not label.strip():
        raise UsageError("type what to look for, such as: a cat")
    if not names or len(names) > MOST_METHODS:
        raise UsageError(f"tick 1 to {MOST_METHODS} methods")
    check_size(path)
    if not has_concepts(run.model_name):
        names = [name for name in names if name != "concepts"]
        if not names:
            raise UsageError(f"{run.model_name} has no concepts: tick another method, or choose everyday")
    evidence = _Evidence(run, label.strip(), names)
    asked = partial(_request, run, label=label.strip())
    # One method's file is named, of several the folder.
    several = len(names) > 1
    own = None if several else f"{path.stem}-{names[0]}.png"
    out = str(run.folder / own) if own else str(run.folder)
    report = explain.run(asked([str(path)], method=",".join(names), out=out), progress=evidence.hear)
    maps = evidence.maps()
    # The same without this page is about the picture by the name that its owner knows.
    again = asked(named_pictures([path]), method=",".join(each.method for each in maps), out=own)
    gallery, figures = evidence.values()
    # What was left out stands in the table.
    figures += sentences([line for line in report.remarks() if not line.startswith("left out ")])
    return Outcome((gallery, figures), [each.overlay for each in maps], Equivalent.of(again), evidence.status())


@dataclass
class _Evidence:
    """What the methods found, as far as they have run: by name the picture, or why there is none."""

    run: Run
    label: str
    names: list[str]
    cells: dict[str, ExplainedPicture | str] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        """Show a method as soon as it has run."""
        if isinstance(event, PartialResult):
            self.cells[event.name] = event.outcome
            self.run.show(*self.values())
        if isinstance(event, (PartialResult, Counted)):
            self.run.progress(len(self.cells), len(self.names), f"looking by {number_of(len(self.names), 'method')}")
        else:
            self.run.hear(event)

    def maps(self) -> list[ExplainedPicture]:
        """The pictures, in the order in which the methods were asked for."""
        cells = [self.cells[name] for name in self.names if name in self.cells]
        return [each for each in cells if not isinstance(each, str)]

    def values(self) -> tuple[list[tuple[str, str]], str]:
        """What is shown: the gallery and the table."""
        shown = [(str(each.overlay), each.method) for each in self.maps()]
        columns = ("Method", "Strongest evidence at", "Completeness error")
        rows = [_row(name, self.cells[name]) for name in self.names if name in self.cells]
        return shown, table(*without_empty_columns(columns, rows), f"Evidence for {self.label}")

    def status(self) -> str:
        """How many methods gave no map."""
        missing = sum(isinstance(each, str) for each in self.cells.values())
        return f"{number_of(missing, 'method')} could not be used." if missing else ""


def _row(name: str, outcome: ExplainedPicture | str) -> tuple[str, str, str]:
    if isinstance(outcome, str):
        return name, f"left out: {outcome}", ""
    error = outcome.completeness_error
    place = f"x {outcome.peak[0]}, y {outcome.peak[1]}" if outcome.peak else "finds no place"
    return name, place, "" if error is None else f"{error:.2g}"


def colour_words(run: Run, file: str | None, caption: str) -> Outcome:
    """The caption with its words coloured by what they do to the match."""
    path = run.picture(file)
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


TAB = Tab("Explain", "Where in a picture the evidence for a text is; methods side by side.", build, order=50, group=WHY)

"""Personalise: a word for what is on a few pictures, taught to a diffusion model and used in Generate and Inpaint."""

from __future__ import annotations

import html
from pathlib import Path

import gradio as gr

from binderclip.models.files.folders import WEIGHTS
from binderclip.tasks import personalize
from binderclip.tasks.verbs.personalize.request import PersonalizeRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.forms import Form
from binderclip.workbench.look import could_not_be_read, hint, packed, result_html
from binderclip.workbench.tab import MAKE, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.words import NONE, WORDS

FORM = Form(
    PersonalizeRequest,
    first=("class_name", "token", "steps", "model"),
    without=("images",),
    own={
        "class_name": {"label": "What it is one of", "placeholder": "dog", "info": "a word that the model knows"},
        "token": {"label": "The new word", "info": "in angle brackets"},
        "steps": {"minimum": 1, "maximum": 2000, "step": 1},
        "init": {"label": "Words that it begins as"},
        "preserve": {"label": "Weight of its class", "minimum": 0, "maximum": 10, "step": 0.1},
        "released": {"label": "As the authors' code does"},
        "lr": {"label": "Learning rate"},
        "word_lr": {"label": "Learning rate of the word"},
    },
)


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Three to six pictures of one thing")
            inputs = FORM.build(bench)
            controls = bench.controls("Learn the word")
        with gr.Column(scale=3, min_width=320):
            figures = gr.HTML(
                hint(
                    "Drop pictures of one thing, say what it is one of, press Learn the word: from then on Generate "
                    "and Inpaint have the word in a list."
                )
            )
            results = bench.results()
    bench.connect(controls, work, [*pictures.inputs, *inputs], [figures, *bench.word_lists], results, keep=True)


def work(run: Run, files: list[str] | None, folder: str | None, *values: object) -> Outcome:
    """Teach the word as the verb does; where it is stopped, the word so far can be used and taken along."""
    chosen = run.pictures(files, folder)
    with FORM.labelled():
        request = FORM.asked(run, values, images=chosen.arguments)
        place = WORDS.new(run, request.token.strip("<>"))
        again = Equivalent.of(request.replaced(images=chosen.names()))
        try:
            result = personalize.run(request.replaced(out=str(place)))
        except KeyboardInterrupt:
            if (place / WEIGHTS).is_file():  # the last file: a stop that came when all was saved
                text = f"Stopped early: {html.escape(request.token)} knows what was learned until then."
                run.leave(_kept(run, request, place, f"<p>{text}</p>", again))
            raise
    skipped = [*chosen.skipped, *result.skipped]
    done = _kept(run, request, place, result_html(result, skipped), again, could_not_be_read(len(skipped)))
    if result.concept.interrupted:  # the training has taken the stop for its own end
        run.leave(done)
    return done


def _kept(
    run: Run, request: PersonalizeRequest, place: Path, about: str, again: Equivalent, unread: str = ""
) -> Outcome:
    """What the page shows of a word, and the lists that have it now."""
    phrase = html.escape(f"{request.token} {request.class_name}")
    use = f"<p>In Generate or Inpaint, choose it as Learned word and write: a {phrase}.</p>"
    lists = gr.update(choices=[NONE, *WORDS.choices(run.bench, run)])
    archive = packed(place.parent, sorted(place.iterdir()), f"{place.name}.zip", into=run.folder)
    return Outcome((about + use, *[lists] * len(run.bench.word_lists)), [archive], again, unread)


TAB = Tab(
    "Personalise", "A word of your own for what is on a few pictures, for Generate and Inpaint.", build, order=59,
    group=MAKE,
)  # fmt: skip

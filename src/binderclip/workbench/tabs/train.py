"""Train: carry out a recipe, with its loss and gradient norms while it goes on; stop it, go on later."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.tasks import train
from binderclip.tasks.verbs.train.request import TrainRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.look import hint, remarks_html, table
from binderclip.workbench.recipe_check import check_recipe
from binderclip.workbench.tab import LEARN, Bench, Outcome, Run, Tab
from binderclip.workbench.trained.page_models import keep_model, said_of

if TYPE_CHECKING:
    from binderclip.train import Recipe, RunResult

FIRST = "scratch-64"
AS_IN_RECIPE = "(as in the recipe)"
LOOK_EVERY = 1.0
"""Seconds between two looks at the run's files."""


def build(bench: Bench) -> None:
    from binderclip.optim import METHODS
    from binderclip.train import list_recipes

    folders = [("(those of the recipe)", ""), *((str(folder), str(folder)) for folder in bench.below())]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            recipe = control(
                TrainRequest, "recipe", choices=list_recipes(), value=FIRST,
                info="finetune teaches small your own pictures, scratch-64 starts from nothing: minutes; those that "
                "made the bundled models take hours, and their teachers",
            )  # fmt: skip
            folder = control(
                TrainRequest, "data", choices=folders, value="", visible=bool(bench.folders),
                info="a folder on this machine, with one for each class (dogs, cats ...), or with captions in a table "
                "or in .txt files beside the pictures",
            )  # fmt: skip
            length = gr.Slider(0.02, 1.0, value=1.0, step=0.02, label="Length, as a share of the recipe's")
            clip = control(TrainRequest, "clip", choices=[AS_IN_RECIPE, *sorted(METHODS)], value=AS_IN_RECIPE)
            settings = control(TrainRequest, "set", value="", lines=2, placeholder="stage.lr=3e-4\nseed=1")
            goes_on = gr.Checkbox(
                label="Go on where the last run of this page stopped", value=False, interactive=False,
            )  # fmt: skip
            controls = bench.controls("Train")
        with gr.Column(scale=3, min_width=320):
            loss = gr.Image(label="Loss", interactive=False, buttons=["fullscreen"])
            norm = gr.Image(label="Gradient norm, its limit, spikes marked", interactive=False, buttons=["fullscreen"])
            figures = gr.HTML(
                hint("Choose a recipe, press Train: loss and gradient norm are drawn here while the model learns.")
            )
            results = bench.results()
    last = gr.State("")
    inputs = [recipe, folder, length, clip, settings, goes_on, last]
    bench.connect(controls, work, inputs, [loss, norm, figures, goes_on, last], results, keep=True, makes_model=True)


def work(
    run: Run, name: str, folder: str, length: float, clip: str, settings: str, goes_on: bool, last: str
) -> Outcome:
    """Train in a folder of the page, which it shows while it fills."""
    from binderclip.tasks.verbs.train.run import TrainedRun
    from binderclip.train import load_recipe

    changes = [line.strip() for line in (settings or "").splitlines() if line.strip()]
    given = None if clip == AS_IN_RECIPE else clip
    asked = TrainRequest(recipe=name, set=changes, clip=given, device=run.bench.models.device)
    recipe = load_recipe(name, set=asked.overrides)
    check_recipe(recipe, load_recipe(name), run.bench.open_folder)
    data = str(run.bench.open_folder(folder)) if folder else None
    asked = asked.replaced(data=data, set=[*changes, *_shorter(recipe, length)])
    out = Path(last) if goes_on and last else run.folder / "run"
    watcher = _RunWatcher(run, out)
    watcher.start()
    try:
        done = train.run(asked.replaced(out=str(out), resume=goes_on))
    finally:
        watcher.finish()
    assert isinstance(done, TrainedRun)
    result = done.result
    model, archive = keep_model(run, out / "model", Path(name).stem, "trained")
    files = [archive, out / "summary.json"]
    pictures = [*sorted((out / "plots").glob("*.png"))]
    progress = watcher.look()
    return Outcome(
        (*progress, _figures(result) + remarks_html(done), gr.update(value=False, interactive=False), ""),
        [path for path in [*files, *pictures] if path.is_file()],
        Equivalent.of(asked),
        f"{result.summary['parameters']:,} parameters trained. {said_of(model)}",
    )


def _shorter(recipe: Recipe, length: float) -> list[str]:
    """The changes that make every stage this share of its length."""
    if length >= 1:
        return []
    changes = []
    for index, stage in enumerate(recipe.scaled(length).stage):
        key, value = ("epochs", stage.epochs) if stage.samples is None else ("samples", stage.samples)
        changes.append(f"stage.{index}.{key}={value:g}" if key == "epochs" else f"stage.{index}.{key}={value}")
        if stage.warmup >= 1:
            changes.append(f"stage.{index}.warmup={stage.warmup:g}")
    return changes


class _RunWatcher(threading.Thread):
    """Shows what the run has written, about once a second, until `finish`."""

    def __init__(self, run: Run, out: Path) -> None:
        super().__init__(name="workbench-train-watcher", daemon=True)
        self.run_, self.out = run, out
        self._ended = threading.Event()
        self._drawn = -1
        self._pictures: tuple[str | None, str | None] = (None, None)

    def run(self) -> None:
        while not self._ended.wait(LOOK_EVERY):
            progress = self.look()
            if progress[0] is not None:
                self.run_.show(*progress, gr.skip(), gr.update(value=True, interactive=True), str(self.out))

    def finish(self) -> None:
        """End the thread; what is drawn half is finished."""
        self._ended.set()
        self.join(30)

    def look(self) -> tuple[str | None, str | None]:
        """The newest pictures of loss and gradient norm."""
        from binderclip.train.engine.live import read_progress

        progress = read_progress(self.out)
        if progress.steps > self._drawn and progress.history:
            self._drawn = progress.steps
            # A file of a new name, since the browser keeps what it has.
            made = {path.name: path for path in progress.plot(self.run_.folder / f"plots-{progress.steps}")}
            self._pictures = (_text(made.get("loss.png")), _text(made.get("gradient-norm.png")))
        return self._pictures


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _figures(result: RunResult) -> str:
    from binderclip.train.engine.evaluator import short_names, split_figure

    named = [(*split_figure(name), float(value)) for name, value in result.figures.items()]
    short = short_names({data for data, _, _ in named})
    rows = [
        (short[data], measure.replace("/", ", ").replace("_", " "), int(value) if measure == "count" else value)
        for data, measure, value in named
    ]
    return (
        table(("Held out", "Measure", "Value"), rows, f"{result.recipe.name}, {result.seconds:.0f} s") if rows else ""
    )


TAB = Tab(
    "Train",
    "Teach a model your own pictures, or start from nothing, and watch it learn; stop it, and go on.",
    build,
    order=70,
    group=LEARN,
)

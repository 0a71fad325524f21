"""Classify: which label fits each picture; pools, views and heads side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks import classify
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.events import Counted, Event
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.verbs.classify.request import ClassifyRequest
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import GalleryPicture
from binderclip.workbench.labels.labelling import MOST_SHOWN, LabelActions, hold, labelling_gallery
from binderclip.workbench.look import could_not_be_read, gallery, hint, left_out, remarks_html, sentences, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.classify.run import Classified

SHOWN = 60
"""Pictures in the gallery where each may have several labels; the table has all."""
MOST_SETTINGS = 12
VIEWS = [("Whole picture", "whole"), ("Tiles, 3 x 3", "tiles"), ("Crops around the object", "crops")]
POOLS = [
    ("Mean of the texts", ""),
    ("Mean of the cosines (mean)", "mean"),
    ("Best sentence (max)", "max"),
    ("Weighed for each picture (auto)", "auto"),
]
NONE = "(none)"


def build(bench: Bench) -> None:
    from binderclip.adapt import shipped_descriptions
    from binderclip.models.text.templates import TEMPLATES

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures()
            labels = control(
                ClassifyRequest,
                "labels",
                value="",
                placeholder="cat, dog, a cup of coffee",
                info="empty: everyday words",
            )
            with gr.Accordion("Compare two models", open=False):
                second = bench.model_list(
                    label="Second model", value=None,
                    info="asked beside the one at the top; what it calls otherwise is listed",
                )  # fmt: skip
            with gr.Accordion("Ways to look, side by side", open=False):
                views = gr.CheckboxGroup(VIEWS, value=["whole"], label="What of each picture is seen")
                pools = gr.CheckboxGroup(POOLS, value=[""], label="How several sentences of a label become one score")
                templates = control(
                    ClassifyRequest, "templates", choices=["(as described)", *TEMPLATES], value="simple"
                )
                descriptions = control(
                    ClassifyRequest, "descriptions", choices=[NONE, *shipped_descriptions()], value=NONE
                )
                heads = bench.head_list(
                    _heads_below(bench.folders), label="Heads: classifiers that Adapt has learned",
                    info="that of this page, and folders with a head.json where the workbench was opened",
                )  # fmt: skip
            controls = bench.controls("Classify")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(
                hint("Drop pictures, type labels if you have some, press Classify: each appears with its label.")
            )
            actions = LabelActions.build(bench)
            answers = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, labels, views, pools, templates, descriptions, heads, second]
    bench.connect(controls, work, inputs, [shown, answers], results, also=[labels.submit])
    actions.connect(bench, [shown, answers], results)


def work(
    run: Run, files: list[str] | None, folder: str | None, labels: str, views: list[str], pools: list[str],
    templates: str, descriptions: str, heads: list[str], second: str | None = None,
) -> Outcome:  # fmt: skip
    """Classify by every setting, and lay them side by side; by the first of them ask a second model as well."""
    from binderclip.tasks.verbs.classify.zero_shot import zero_shot_options

    chosen = run.pictures(files, folder)
    described = None if descriptions == NONE else _shipped(descriptions)
    # Sentences that were written for the labels are taken as they are.
    template = templates if described is None and templates in _template_names() and templates != "simple" else None
    asked: dict[str, Any] = {"images": chosen.arguments, "device": run.bench.models.device}
    texts: dict[str, Any] = {"model": run.model_name, "templates": template, "descriptions": described}
    names = parse_labels(labels.strip(), "Labels", files=False) if labels.strip() else None
    against = (second or "").strip() or None
    if against == run.model_name:
        raise UsageError(f"{against} is the model at the top already: choose another one as the second")
    requests: dict[str, ClassifyRequest] = {}
    # Heads have labels of their own; without them pictures are named by everyday words.
    by_words = names or not heads
    for view, pool in [(view, pool) for view in views or ["whole"] for pool in pools or [""]] if by_words else []:
        name = view + (f", {pool}" if pool else "")
        requests[name] = ClassifyRequest(
            labels=names, views=view, pool=pool or None, against=None if requests else against, **texts, **asked
        )
        zero_shot_options(requests[name])  # a wrong one is said before a model is loaded
    for head in heads or []:
        name = f"head {Path(head).name}"
        request = ClassifyRequest(head=run.head(head), **asked)
        requests[f"head {head}" if name in requests else name] = request
    if len(requests) > MOST_SETTINGS:
        raise UsageError(f"{len(requests)} settings are too many side by side: tick fewer, {MOST_SETTINGS} at most")
    results = {
        name: classify.run(request, progress=_listener(run, name, place, len(requests)))
        for place, (name, request) in enumerate(requests.items())
    }
    first = next(iter(results.values()))
    if not first.rows:
        raise DataError(f"none of {len(chosen.paths)} pictures could be read: {first.skipped[0][1]}")
    run.say("drawing")
    again = Equivalent.of(*(request.replaced(images=chosen.names()) for request in requests.values()))
    shown, most = _gallery(run, first, chosen, next(iter(requests.values())))
    left_out_text = could_not_be_read(len(first.skipped))
    if first.agreement is not None and (differing := len(first.agreement.differing)):
        left_out_text += f" {first.agreement.second} calls {number_of(differing, 'picture')} otherwise: type disagrees"
        left_out_text += " into the filter to see them alone."
    if len(first.rows) > most:
        left_out_text += f" The gallery has {most} of the pictures, the table all {len(first.rows)}."
    below = _agreement(first, chosen) + _table(results, chosen) + remarks_html(first) + left_out(first.skipped)
    return Outcome(
        (shown, below),
        files=_files(run.folder, results, chosen),
        again=again,
        said=left_out_text.strip(),
    )


def _gallery(run: Run, first: Classified, chosen: ChosenPictures, request: ClassifyRequest) -> tuple[str, int]:
    """The pictures by the first setting, to be corrected where each has one label; and how many are shown."""
    if first.scored is not None:
        again = Equivalent.of(request.replaced(images=chosen.names()))
        held = hold(run, first.scored, chosen, request, again, first.agreement)
        return labelling_gallery(held), MOST_SHOWN
    cards = [
        GalleryPicture(path, f"{label} {probability:.2f}", name, name=name, score=probability, label=label)
        for path, ((label, probability), *_) in first.rows[:SHOWN]
        for name in [chosen.label(Path(path))]
    ]
    return gallery(cards, "pictures with their likeliest label", run.folder / "small", score="probability"), SHOWN


def _listener(run: Run, name: str, place: int, count: int) -> Any:
    """Moves the bar over all settings.

    Args:
        run: of the page. name: of the setting. place: its place among `count`.
    """

    def hear(event: Event) -> None:
        if isinstance(event, Counted):
            run.progress(place * event.total + event.done, count * event.total, "classifying")
        else:
            run.hear(event)

    return hear


def _shipped(name: str) -> str:
    """The name of a shipped set of sentences: anything else would be read as a file.

    Raises:
        UsageError: there is no such set.
    """
    from binderclip.adapt import shipped_descriptions

    if name not in shipped_descriptions():
        raise UsageError(f"{name} is no shipped set of sentences: choose one of {', '.join(shipped_descriptions())}")
    return name


def _template_names() -> Sequence[str]:
    from binderclip.models.text.templates import TEMPLATES

    return list(TEMPLATES)


def _agreement(first: Classified, chosen: ChosenPictures) -> str:
    """How often a second model agrees, and what it calls otherwise; empty where none was asked."""
    if first.agreement is None:
        return ""
    title, columns, rows = first.agreement.table()
    named = [(chosen.label(Path(path)), *row) for path, *row in rows]
    return sentences(first.agreement.conclusion()) + (table(("Picture", *columns[1:]), named, title) if named else "")


def _table(results: dict[str, Classified], chosen: ChosenPictures) -> str:
    first = next(iter(results.values()))
    if len(results) == 1:
        columns, rows = first.table()
        named = [(chosen.label(Path(path)), *row) for path, *row in rows]
        return table(("Picture", *columns[1:]), named, first.title)
    by_picture = [dict(result.rows) for result in results.values()]
    rows = []
    for path, _ in first.rows:
        cells = [best[path][0] if path in best else None for best in by_picture]
        rows.append((chosen.label(Path(path)), *("" if cell is None else f"{cell[0]} {cell[1]:.2f}" for cell in cells)))
    title = f"{number_of(len(rows), 'picture')}, likeliest label by {number_of(len(results), 'setting')}"
    return table(("Picture", *results), rows, title)


def _files(folder: Path, results: dict[str, Classified], chosen: ChosenPictures) -> list[Path]:
    """The answers as CSV and JSON, and a sheet of the pictures."""
    rows = [
        [chosen.label(Path(path)), name, rank, label, f"{probability:.6f}"]
        for name, result in results.items()
        for path, best in result.rows
        for rank, (label, probability) in enumerate(best, 1)
    ]
    write_csv(["image", "setting", "rank", "label", "probability"], rows, folder / "labels.csv")
    documents = []
    for name, result in results.items():
        document = {"setting": name, **result.as_dict()}
        # Where uploads lie is no use to anybody.
        document["request"] = result.request.replaced(images=chosen.names()).as_document()
        for entry in document["images"]:
            entry["image"] = chosen.label(Path(entry["image"]))
        document["skipped"] = [
            {"image": Path(key).name, "reason": reason.replace(key, Path(key).name)} for key, reason in result.skipped
        ]
        documents.append(document)
    write_json(documents, folder / "labels.json")
    next(iter(results.values())).write_sheet(folder / "sheet.png")
    return [folder / "labels.csv", folder / "labels.json", folder / "sheet.png"]


def _heads_below(folders: Sequence[Path], most: int = 50) -> list[tuple[str, str]]:
    """Saved heads in the folders that pages may read, and in the two levels of folders below."""
    heads = []
    for folder in folders:
        for pattern in ("head.json", "*/head.json", "*/*/head.json"):
            heads += [(str(path.parent.relative_to(folder.parent)), str(path.parent)) for path in folder.glob(pattern)]
    return sorted(heads)[:most]


TAB = Tab(
    "Classify", "Which of your labels fits each picture; correct what is wrong, and it learns from that.", build,
    order=10,
)  # fmt: skip

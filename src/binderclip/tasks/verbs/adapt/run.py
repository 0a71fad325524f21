"""What `adapt` does: judge the methods, choose, test once, and save the head with its report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from binderclip.adapt.selection import LabelSelection, Selection, label_sets, select_head, select_labels
from binderclip.adapt.selection.candidate_heads import candidates, catalogue
from binderclip.data import ImageTextDataset, load_data
from binderclip.display import duration, number_of
from binderclip.errors import UsageError
from binderclip.models import resolve_templates
from binderclip.tasks.events import PartialResult, Saved, emit, line, skip, start
from binderclip.tasks.files.outputs import output_folder, writable_paths
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep
from binderclip.tasks.files.writing import write_json
from binderclip.tasks.models import image_text_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.adapt.report import write_labels_report, write_report
from binderclip.tasks.verbs.adapt.request import GROUPS, AdaptRequest
from binderclip.tasks.verbs.adapt.wording import COLUMNS, LABEL_COLUMNS, label_row, labels_verdict, score_row, verdict

FIGURES, REPORT_PAGE, FINISHED = "figures.json", "report.html", "finished"


@dataclass(frozen=True)
class AdaptReport(VerbResult):
    """The chosen head, saved in the folder `request.out`.

    Attributes:
        selection: the chosen head with the figures of all; a `LabelSelection` where a picture has several labels.
    """

    whole: ClassVar[bool] = True

    request: AdaptRequest
    selection: Selection | LabelSelection

    @property
    def title(self) -> str:
        """What was learned from what."""
        selection = self.selection
        count = (
            f"{number_of(len(selection.labels), 'label')}, several a picture"
            if isinstance(selection, LabelSelection)
            else number_of(len(selection.classes), "class")
        )
        return (
            f"{self.request.data}: {count}, {number_of(selection.shots, 'shot')}, cross-validated inside them, "
            f"{selection.seeds} draws, model {selection.model}"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a method, best first; no row where one method alone was not judged."""
        selection = self.selection
        if isinstance(selection, LabelSelection):
            return LABEL_COLUMNS, [label_row(score) for score in selection.scores]
        judged = all(score.by_seed for score in selection.scores)
        return COLUMNS, [score_row(score) for score in selection.scores] if judged else []

    def conclusion(self) -> list[str]:
        return labels_verdict(self.selection) if isinstance(self.selection, LabelSelection) else verdict(self.selection)

    def remarks(self) -> list[str]:
        """What to know of the data and of what took no part."""
        notes = [f"note: {text}" for text in self.selection.notes]
        left_out = [] if isinstance(self.selection, LabelSelection) else self.selection.left_out
        return notes + [f"left out {name}: {why}" for name, why in left_out]

    def places(self) -> list[str]:
        """Where the head and the report are."""
        report = f", report {self.request.out / REPORT_PAGE}" if self.request.report else ""
        return [f"head {self.request.out}{report}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "data": self.request.data,
            **self.selection.figures(),
            "skipped": self.selection.encoded.skipped,
            "request": self.request.as_document(),
        }


def run(request: AdaptRequest) -> AdaptReport:
    """Choose by `select_head`, or by `select_labels` where a picture has several labels; write what was found.

    Raises:
        UsageError: an unknown method or set, shards, or a result that would replace what is none of ours.
        DataError: too few pictures.
    """
    out = output_folder(request.out, make=False)
    writable_paths([out / name for name in ("head.json", FIGURES, *([REPORT_PAGE] if request.report else []))])
    writable_paths([out / "head.safetensors"], beside=out / "head.json")
    methods = request.methods[0] if request.methods[0] in GROUPS else request.methods
    templates = resolve_templates(request.templates)
    samples = load_data(request.data)
    if not isinstance(samples, ImageTextDataset):
        raise UsageError(
            f"{request.data}: shards are streamed, which few-shot draws cannot use; give a folder or a named set"
        )
    several = label_sets(samples) is not None
    if not several:
        candidates(methods, None, None, catalogue())  # a wrong name is refused before a model is loaded
    began = time.monotonic()
    start("loading the model")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    output_folder(out)
    # A head keeps at most the features of all shots, besides some vectors a class.
    size = 4 * model.embed_dim * max(1, len(samples.classes)) * (request.shots + 8)
    ask_for_room(out, REPORT * request.report + size)
    start("reading pictures")

    def say(text: str) -> None:
        left = request.budget - (time.monotonic() - began)
        # Cheap methods come first, so that their pace says nothing of the time left; the budget does.
        if several or left <= 0 or text.startswith("encoding"):
            line(text)
        else:
            start(f"{text}; at most {duration(left)} left")

    options: dict[str, Any] = {
        "shots": request.shots, "seeds": request.seeds, "methods": methods, "templates": templates,
        "folds": request.folds, "seed": request.seed, "progress": say,
    }  # fmt: skip
    selection: Selection | LabelSelection
    if several:
        selection = select_labels(model, samples, **options)
    else:
        selection = select_head(
            model, samples, budget=request.budget, keep=request.keep, limit=request.limit, store=out / FINISHED,
            judged=lambda name, outcome: emit(PartialResult(name, outcome)), **options,
        )  # fmt: skip
    save_or_keep(selection.save, out)
    write_json({"data": request.data, **selection.figures()}, out / FIGURES)
    if request.report:
        start("writing the report")
        if isinstance(selection, LabelSelection):
            write_labels_report(selection, request.data, out / REPORT_PAGE)
        else:
            write_report(selection, model, request.data, out / REPORT_PAGE)
        emit(Saved(out / REPORT_PAGE))
    skip(selection.encoded.skipped)
    emit(Saved(out))
    return AdaptReport(request, selection)

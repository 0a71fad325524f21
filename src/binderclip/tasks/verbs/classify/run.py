"""What `classify` does with pictures: labels by their texts, or by a head that learned them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.arguments.marks import encode_marked, parse_mark
from binderclip.tasks.arguments.transform import fitted, parse_transform
from binderclip.tasks.events import Saved, batches, emit, start
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import picture_path
from binderclip.tasks.models import encoder, image_text_model
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.classify.agreement import ModelAgreement
from binderclip.tasks.verbs.classify.corrected import (
    ScoredPictures,
    check_labels,
    correct,
    corrected_table,
)
from binderclip.tasks.verbs.classify.request import ClassifyRequest
from binderclip.tasks.verbs.classify.zero_shot import ZeroShotOptions, classify_views, zero_shot_options

if TYPE_CHECKING:
    from binderclip.adapt import Edit, Region
    from binderclip.models import ImageTextModel

ON_SHEET = 60
"""Pictures of the sheet."""
WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Classified(VerbResult):
    """For each image the likeliest labels with their probability.

    Attributes:
        model: its name. labels: all that there are.
        rows: (image, [(label, probability), ...]), likeliest first.
        skipped: (image, reason) of those that could not be read.
        preprocess: of the model, where it saw each picture as a whole, cropped as it does; else None.
        complete: whether there is a row, and every picture that was named one by one could be read.
        scored: probabilities of all labels and embeddings, for what is made of corrected labels.
        agreement: with a second model, where one was asked.
    """

    whole: ClassVar[bool] = True

    request: ClassifyRequest
    model: str
    labels: list[str]
    rows: list[tuple[str, list[tuple[str, float]]]]
    skipped: list[tuple[str, str]]
    preprocess: Any = None
    complete: bool = True
    scored: ScoredPictures | None = field(default=None, repr=False, compare=False)
    agreement: ModelAgreement | None = None

    @property
    def title(self) -> str:
        """How many pictures and labels."""
        labels = f"{len(self.labels)} everyday words" if self._everyday else number_of(len(self.labels), "label")
        return f"{number_of(len(self.rows), 'image')}, {labels}, model {self.model}"

    @property
    def _everyday(self) -> bool:
        return self.request.labels is None and self.request.head is None

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture: its likeliest label, and the next ones with their probabilities."""
        shown = max((len(best) for _, best in self.rows), default=1)
        rows = [(path, *best[0], *(f"{name} {p:.3f}" for name, p in best[1:])) for path, best in self.rows]
        # Where several labels apply, or none, rows are not of one length.
        rows = [(*row, *[""] * (2 + shown - len(row))) for row in rows]
        return ("image", "label", "prob", *(f"{n}." for n in range(2, shown + 1))), rows

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """The pictures that are worth a look, and those that a second model calls otherwise."""
        rows = [(entry["image"], entry["label"], entry["why"]) for entry in self.review()]
        tables: list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]] = []
        if rows:
            tables.append(("worth a look first", ("image", "label", "why"), rows))
        if self.agreement is not None and self.agreement.differing:
            tables.append(self.agreement.table())
        return tables

    def review(self) -> list[dict[str, str]]:
        """Image, label and why of the pictures that `request.review` asks for."""
        if self.scored is None or not self.request.review:
            return []
        called, names = self.scored.called, self.scored.labels
        return [
            {"image": str(self.scored.paths[entry.row]), "label": names[called[entry.row]], "why": entry.reason}
            for entry in self.scored.review()[: self.request.review]
        ]

    def conclusion(self) -> list[str]:
        """What was learned from corrected labels, and how often a second model agrees."""
        learned = [] if self.scored is None else self.scored.conclusion()
        return learned + ([] if self.agreement is None else self.agreement.conclusion())

    def remarks(self) -> list[str]:
        """That nobody gave labels, and that the model is weak on photographs, where it is."""
        lines = (
            ["no labels were given, so everyday words were compared; a few of your own are told apart better"]
            if self._everyday
            else []
        )
        weak = [] if self.request.head else weak_on_photographs(self.model, [path for path, _ in self.rows])
        return lines + weak

    def places(self) -> list[str]:
        """Where the sheet is."""
        if self.request.picture is None or not self.rows:
            return []
        count = len(self.rows)
        part = f" (the first {ON_SHEET} of {number_of(count, 'image')})" if count > ON_SHEET else ""
        lines = [f"sheet {self.request.picture}{part}"]
        if any(frame != WHOLE for frame in self.frames):
            lines.insert(0, "the model saw what is inside the frames; --views tiles looks at the whole of each picture")
        return lines

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "labels": self.labels,
            "images": [
                {"image": path, "labels": [{"label": name, "prob": probability} for name, probability in best]}
                for path, best in self.rows
            ],
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            **({"review": self.review()} if self.request.review else {}),
            **({"against": self.agreement.as_dict()} if self.agreement else {}),
            **({"corrected": self.scored.as_dict()} if self.request.corrected and self.scored else {}),
            "request": self.request.as_document(),
        }

    def write_sheet(self, path: Path) -> None:
        """Draw the pictures with their likeliest labels, each with a frame around what the model saw of it."""
        from binderclip.tasks.report.sheet import contact_sheet

        cards = [(path, best[0][0], f"{best[0][1]:.2f}") for path, best in self.rows]
        names = [Path(path).name for path, _ in self.rows]
        contact_sheet(cards, path, names=names, frames=self.frames)

    @cached_property
    def frames(self) -> list[tuple[float, float, float, float]]:
        """Of each picture of the sheet the part that the model's input shows: left, top, right, bottom from 0 to 1."""
        from binderclip.data import open_image
        from binderclip.explain.engine.placement import input_box

        if self.preprocess is None:
            return []
        frames = []
        for path, _ in self.rows[:ON_SHEET]:
            width, height = open_image(path).size
            box = input_box(self.preprocess, (height, width))
            left, top = max(0.0, box.left / width), max(0.0, box.top / height)
            right, bottom = (box.left + box.width) / width, (box.top + box.height) / height
            frames.append((left, top, min(1.0, right), min(1.0, bottom)))
        return frames


def run(request: ClassifyRequest) -> Classified:
    """Classify the pictures of a request, and write the sheet.

    Raises:
        UsageError: an unknown name, corrected labels of none of the pictures, or a sheet that would replace what is
            none of ours.
        DataError: no picture under a head can be read, or a file of boxes or sentences holds something else.
        CheckpointError: there is no such head.
    """
    choice, mark = parse_transform(request.transform), parse_mark(request.mark, request.box)
    table = corrected_table(request)
    inputs = find_images(request.images)
    sheet = picture_path(request.picture) if request.picture else None
    if request.head is not None:
        result = _by_head(request, inputs.paths)
    else:
        options = zero_shot_options(request)
        opened = encoder if options.plain else image_text_model
        start("loading the model")
        # All of them before a picture is looked at: a second one that is not there costs no answers of the first.
        models = [
            opened(name, device=request.device, dtype=request.dtype)
            for name in (request.model or DEFAULT, request.against)
            if name is not None
        ]
        if choice:
            models = [each.with_transform(fitted(each, choice, batch_size=request.batch_size)) for each in models]
        start(f"looking at {number_of(len(inputs.paths), 'picture')}")
        result, *others = [_by_labels(request, options, each, inputs.paths, mark) for each in models]
        for second in others:
            answers = [(each.model, dict(each.rows)) for each in (result, second)]
            result = replace(result, agreement=ModelAgreement.of(*answers))
    skip_pictures(result.skipped, left=result.rows)
    if table is not None:
        result = _corrected(result, table)
    result = replace(result, complete=not inputs.exit_code(result.skipped))
    if sheet is not None:
        result.write_sheet(sheet)
        emit(Saved(sheet))
    return result


def _by_labels(
    request: ClassifyRequest, options: ZeroShotOptions, model: ImageTextModel, paths: Sequence[Path],
    mark: tuple[Edit, Region] | None,
) -> Classified:  # fmt: skip
    """Zero-shot: which of the labels fits each image."""
    names, step = options.names, batches("picture")
    kept: list[Any]
    if not options.plain:
        kept, skipped, probabilities, features = classify_views(
            model, options, paths, mark=mark, batch_size=request.batch_size, progress=step
        )
        bank = model.text_bank(options.descriptions or names, options.templates)
    else:
        bank = model.text_bank(names, options.templates or "simple")
        if mark is None:
            encoded = model.encode_files(
                list(paths), batch_size=request.batch_size, progress=lambda done: step(done, len(paths))
            )
        else:
            encoded = encode_marked(model, paths, mark, batch_size=request.batch_size)
        kept, skipped, features = encoded.paths, encoded.skipped, encoded.features
        probabilities = model.classify_features(features, bank).probs
    order = probabilities.argsort(dim=-1, descending=True)[:, : request.top]
    rows = [
        (str(path), [(names[c], float(probabilities[row, c])) for c in order[row].tolist()])
        for row, path in enumerate(kept)
    ]
    seen_whole = options.views is None and mark is None
    scored = ScoredPictures(
        list(kept), names, probabilities.double().cpu().numpy(), features.double().cpu().numpy(), bank
    )
    return Classified(
        request, model.name, names, rows, skipped, model.preprocess if seen_whole else None, scored=scored
    )  # fmt: skip


def _corrected(result: Classified, table: dict[str, str]) -> Classified:
    """The result again by what was learned from the labels of a table.

    Raises:
        UsageError: the head gives a picture several labels, or as `correct`.
    """
    if result.scored is None:
        raise UsageError("--corrected is about one label a picture, and this head gives several")
    check_labels(result.labels, table.values(), f"--corrected {result.request.corrected}")
    scored = correct(result.request, result.scored, table)
    order = (-scored.probabilities).argsort(axis=1, kind="stable")[:, : result.request.top]
    rows = [
        (str(path), [(scored.labels[c], float(scored.probabilities[row, c])) for c in order[row].tolist()])
        for row, path in enumerate(scored.paths)
    ]
    return replace(result, rows=rows, scored=scored)


def _by_head(request: ClassifyRequest, paths: Sequence[Path]) -> Classified:
    """Labels of a head that `binderclip adapt` left."""
    from binderclip.tasks.verbs.classify.learned_heads import answers_of

    assert request.head is not None
    answers = answers_of(
        request.head, list(paths), model=request.model, device=request.device, dtype=request.dtype,
        batch_size=request.batch_size,
    )  # fmt: skip
    rows = [(str(path), answers.best(row, request.top)) for row, path in enumerate(answers.paths)]
    scored = None
    if not answers.several:
        scored = ScoredPictures(answers.paths, answers.labels, answers.probs, answers.features)
    return Classified(request, answers.model, answers.labels, rows, answers.skipped, scored=scored)

"""Labels that a person corrects on a page: the gallery for it, what is kept of them, and the runs that use them."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.documents import parse_json
from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.tasks.files.picture_labels import (
    PictureLabel,
    coco_labels,
    with_unique_names,
    write_label_folders,
    write_label_table,
)
from binderclip.tasks.files.writing import write_json
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.grid import GalleryPicture, PictureCopies, grid_html
from binderclip.workbench.held import HeldByPage
from binderclip.workbench.labels.store import LabelStore
from binderclip.workbench.look import MOST_LARGE, copies_of, packed, sentences, table
from binderclip.workbench.status import said_html
from binderclip.workbench.tab import Bench, ChosenPictures, Controls, Outcome, ResultParts, Run

if TYPE_CHECKING:
    from binderclip.tasks.request import Request
    from binderclip.tasks.verbs.classify.agreement import ModelAgreement
    from binderclip.tasks.verbs.classify.corrected import ScoredPictures

MOST_SHOWN = 300
"""Pictures in the gallery; of more those that are most worth a look, and the table has all."""
LABELLED = "labelled"
"""Folder of the pictures that a page has saved with their labels, beside those of its runs."""
ARCHIVE = "labels.zip"
"""The same to download: data of `binderclip adapt`."""
CORRECTED, KEPT_FILE = "corrected.csv", "corrections.json"
MOST_SESSIONS = 50
"""Browsers whose corrections are remembered while the server runs: names of contents and labels, no picture."""
KINDS = [("Table (CSV)", "csv"), ("A folder for each label (ZIP)", "folders"), ("COCO (JSON)", "coco")]


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """The pictures of a page's last classification, and what a person said of them.

    Attributes:
        run: a name that the marks of the browser have to bear. scored: as the model first saw them.
        now: the same after learning. chosen: the pictures. request: that classified them.
        folder: of the run, for copies. copies: of the pictures by row, made when they are shown.
        identities: of the pictures' contents, by row, made when one is asked for.
        files: to download. again: lines that give the same.
        agreement: with a second model, where one was asked.
    """

    run: str
    scored: ScoredPictures
    now: ScoredPictures
    chosen: ChosenPictures
    request: Request
    folder: Path
    again: Equivalent
    files: Sequence[Path] = ()
    agreement: ModelAgreement | None = None
    copies: dict[int, PictureCopies | None] = field(default_factory=dict)
    identities: dict[int, str] = field(default_factory=dict)

    @property
    def store(self) -> LabelStore | None:
        """What keeps the labels of the folder; None of pictures that were uploaded."""
        return None if self.chosen.folder is None else LabelStore(self.chosen.folder)

    def name(self, row: int) -> str:
        """What the page calls a picture."""
        return self.chosen.label(Path(self.scored.paths[row]))

    def identity(self, row: int) -> str:
        """Of the picture's bytes: the same file dropped again, or elsewhere, has it too."""
        from binderclip.data.cache.features import content_hash

        if row not in self.identities:
            self.identities[row] = content_hash(Path(self.scored.paths[row]))
        return self.identities[row]

    def marks(self, text: str | None) -> dict[int, str]:
        """Row -> label of what the browser sent.

        Raises:
            UsageError: it is of another classification, or names a picture or label that is none.
        """
        try:
            document = parse_json(text or "{}")
            given = {int(row): str(label) for row, label in document.get("labels", {}).items()}
            run = document.get("run", self.run)
        except (ValueError, AttributeError, TypeError) as error:
            raise UsageError("the marks of this page cannot be read: classify again") from error
        if run != self.run:
            raise UsageError("the pictures were classified again meanwhile: mark them once more")
        labels = set(self.scored.labels)
        if any(not 0 <= row < len(self.scored.paths) or label not in labels for row, label in given.items()):
            raise UsageError("a mark is on none of these pictures, or none of these labels: classify again")
        return given

    def picture_labels(self, marks: Mapping[int, str], *, everything: bool = False) -> list[PictureLabel]:
        """Labels for the files: of marked pictures, or of all."""
        called, names = self.now.called, self.scored.labels
        rows = range(len(self.scored.paths)) if everything else sorted(marks)
        return with_unique_names(
            PictureLabel(Path(self.scored.paths[row]), self.name(row), marks.get(row, names[called[row]]), row in marks)
            for row in rows
        )


HELD = HeldByPage[LabelledPictures]()
KEPT = HeldByPage[dict[str, str]](MOST_SESSIONS)
"""Label by identity of the picture, of each session: what was corrected is there after the page was loaded again."""


def hold(
    run: Run, scored: ScoredPictures, chosen: ChosenPictures, request: Request, again: Equivalent,
    agreement: ModelAgreement | None = None,
) -> LabelledPictures:  # fmt: skip
    """Keep what a run has classified for the corrections that follow; those that its browser made before count."""
    held = LabelledPictures(
        secrets.token_hex(4), scored, scored, chosen, request, run.folder, again, agreement=agreement
    )
    kept = dict(KEPT.get(_session(run.folder.parent)) or {})
    if held.store is not None:
        try:
            kept |= held.store.labels()
        except BinderclipError as error:
            run.warnings.append(str(error))
    if kept:
        place = {name: column for column, name in enumerate(scored.labels)}
        known: dict[int, int] = {}
        for row in range(len(scored.paths)):
            label = kept.get(held.identity(row))
            if label in place:
                known[row] = place[label]
        held = replace(held, now=replace(scored, confirmed=known))
    HELD.hold(run.folder.parent, held)
    return held


def labelling_gallery(held: LabelledPictures) -> str:
    """The pictures with their labels, which the page's script lets a person correct, as HTML."""
    scored = held.now
    called, names = scored.called, scored.labels
    likeliest = scored.probabilities.argmax(axis=1)
    review = scored.review()
    first = {entry.row: (place, entry.reason) for place, entry in enumerate(review, 1)}
    rows = list(range(len(called)))
    if len(rows) > MOST_SHOWN:
        worth = [*scored.confirmed, *(entry.row for entry in review)]
        rows = sorted(dict.fromkeys(worth[:MOST_SHOWN]))
    second = {} if held.agreement is None else {row[0]: row[3:] for row in held.agreement.rows}
    shown = []
    for row in rows:
        if row not in held.copies:
            large = len(rows) <= MOST_LARGE
            held.copies[row] = copies_of(scored.paths[row], held.folder / "small", row, large=large)
        copies = held.copies[row]
        if copies is None:
            continue
        guess, name = names[likeliest[row]], held.name(row)
        if row in scored.confirmed:
            # What it was called before anybody said so.
            guess = names[int(held.scored.probabilities[row].argmax())]
        data = [("row", str(row)), ("guess", guess)]
        if row in first:
            data += [("first", str(first[row][0])), ("why", first[row][1])]
        if scored.before is not None and row not in scored.confirmed and scored.before[row] != called[row]:
            data.append(("was", names[scored.before[row]]))
        score = float(scored.probabilities[row, likeliest[row]])
        more = f"{score:.2f}"
        if (other := second.get(str(scored.paths[row]))) is not None and held.agreement is not None:
            # "disagrees" is a word to filter by.
            verdict = "agrees" if other[0] == names[called[row]] else f"disagrees: {other[0]}"
            more += f"; {held.agreement.second} {verdict} {other[1]:.2f}"
        entry = GalleryPicture(None, name, more, name, score, names[called[row]], data)
        shown.append((entry, copies.image(f"{name}, {score:.2f}")))
    marks = {str(row): names[column] for row, column in scored.confirmed.items()}
    about = [("labels", json.dumps(names)), ("run", held.run), ("marks", json.dumps(marks))]
    return grid_html(shown, "pictures with their likeliest label", score="probability", data=about)


@dataclass(frozen=True)
class LabelActions:
    """What stands below a gallery that is corrected: learn again, and save.

    Attributes:
        marks: the field in which the browser keeps what was said. learn, save: buttons of runs.
        kinds, everything: what is saved.
    """

    marks: Any
    learn: Controls
    save: Controls
    kinds: Any
    everything: Any

    @classmethod
    def build(cls, bench: Bench) -> LabelActions:
        """Make the parts, which are seen as soon as there is such a gallery."""
        marks = gr.Textbox(label="Marks", show_label=False, elem_classes="label-marks")
        # Both take a moment: nothing to be stopped is in the way.
        with gr.Column(elem_classes=["label-actions", "label-learn"]):
            status, stop = gr.HTML(said_html(""), elem_classes="status-box"), gr.Button("Stop", visible=False)
            learn = gr.Button("Learn again from the marked pictures", variant="primary")
        with gr.Column(elem_classes="label-actions"):
            kinds = gr.CheckboxGroup(KINDS, value=["csv"], label="Save labels as")
            everything = gr.Checkbox(False, label="Also what the model says of the pictures that are not marked")
            save = gr.Button("Save labels")
        return cls(marks, Controls(learn, stop, status), Controls(save, stop, status), kinds, everything)

    def connect(self, bench: Bench, outputs: Sequence[Any], results: ResultParts) -> None:
        """Bind the events.

        Args:
            outputs: the gallery, and what stands below it. results: of the tab.
        """
        bench.connect(self.learn, learn_again, [self.marks], outputs, results, keep=True)
        bench.connect(self.save, save_labels, [self.marks, self.kinds, self.everything], [], results, keep=True)

        def keep(request: gr.Request, text: str | None) -> None:
            page = bench.sessions.results(bench.session(request), str(request.session_hash))
            if (held := HELD.get(page)) is not None:
                try:
                    remember(held, held.marks(text), page)
                except BinderclipError:
                    return  # marks of a gallery that is no longer there

        self.marks.change(
            keep, [self.marks], None, show_progress="hidden", api_visibility="private", trigger_mode="always_last",
            concurrency_limit=None,
        )  # fmt: skip


def learn_again(run: Run, text: str | None) -> Outcome:
    """Classify the pictures of the page again, by a head that learns from those that a person marked."""
    held, marks = _marked(run, text)
    run.say("learning")
    base = replace(held.scored, confirmed={}, learned=None, before=None)
    learned = base.learn(base.named(marks))
    # Marked as changed is what was called otherwise on the page.
    learned = replace(learned, before=held.now.called)
    write_label_table(held.picture_labels(marks), run.folder / CORRECTED)
    again = Equivalent.of(
        held.request.replaced(  # type: ignore[attr-defined]
            images=held.chosen.names(), corrected=CORRECTED, against=None
        )
    )
    held = replace(held, now=learned, again=again, files=[run.folder / CORRECTED])
    HELD.hold(run.folder.parent, held)
    _remember(run, held, marks)
    run.say("drawing")
    changed = [
        (held.name(row), learned.labels[learned.before[row]], learned.labels[learned.called[row]],
         float(learned.probabilities[row].max()))
        for row in learned.changed if learned.before is not None
    ]  # fmt: skip
    columns = ("Picture", "Was", "Is now", "Probability")
    shown = table(columns, changed, "Changed by what was learned") if changed else ""
    return Outcome(
        (labelling_gallery(held), sentences(learned.conclusion()) + shown), held.files, again,
        f"Learned from {len(marks)} pictures; {len(changed)} others changed their label.",
    )  # fmt: skip


def save_labels(run: Run, text: str | None, kinds: Sequence[str] | None, everything: bool) -> Outcome:
    """Write the labels of the page as files; the folders are kept for the tab Adapt."""
    held, marks = _marked(run, text)
    if not kinds:
        raise UsageError("choose what to save the labels as: table, folders or COCO")
    labels = held.picture_labels(marks, everything=bool(everything))
    if not labels:
        raise UsageError("no picture is marked yet: mark some, or save what the model says as well")
    _remember(run, held, marks)
    run.say("writing")
    files = []
    if "csv" in kinds:
        write_label_table(labels, run.folder / "labels.csv")
        files.append(run.folder / "labels.csv")
    if "coco" in kinds:
        write_json(coco_labels(labels, held.scored.labels), run.folder / "labels-coco.json")
        files.append(run.folder / "labels-coco.json")
    place = run.folder.parent / LABELLED
    shutil.rmtree(place, ignore_errors=True)
    written = write_label_folders(labels, place)
    if "folders" in kinds:
        files.append(packed(place, written, ARCHIVE, into=run.folder))
    count = len(labels) if everything else len(marks)
    sentence = f"{count} labels saved; Adapt can learn from them as 'the labels saved in Classify'."
    return Outcome((), [*files, *(path for path in held.files if path.is_file())], held.again, sentence)


def remember(held: LabelledPictures, marks: Mapping[int, str], page: Path) -> None:
    """Keep what a person said beside the run's other files, and for the next time that these pictures are classified.

    Of a folder on this machine it is kept in the folder itself.

    Args:
        held: the pictures. marks: row -> label. page: folder of its results.

    Raises:
        UsageError, OutputError: it cannot be kept there; as `LabelStore.change`.
    """
    labels = set(held.scored.labels)
    marked = {held.identity(row): (held.name(row), label) for row, label in marks.items()}
    unmarked = {*held.identities.values()} - marked.keys()

    def taken_back(known: Mapping[str, str]) -> set[str]:
        """Those of no mark any more; a label of another list, such as of an earlier question, was not taken back."""
        return {identity for identity in unmarked if known.get(identity) in labels}

    kept = dict(KEPT.get(_session(page)) or {})
    for identity in taken_back(kept):
        del kept[identity]
    KEPT.hold(_session(page), kept | {identity: label for identity, (_, label) in marked.items()})
    entries = [
        {"image": held.name(row), "identity": held.identity(row), "label": label}
        for row, label in sorted(marks.items())
    ]  # fmt: skip
    if held.folder.is_dir():
        write_json({"labels": entries}, held.folder / KEPT_FILE)
    if held.store is not None:
        held.store.change(marked, taken_back(held.store.labels()))


def _remember(run: Run, held: LabelledPictures, marks: Mapping[int, str]) -> None:
    """As `remember`; where the folder cannot keep them, the run goes on and says so."""
    try:
        remember(held, marks, run.folder.parent)
    except BinderclipError as error:
        run.warnings.append(str(error))


def saved_labels(page: Path) -> Path:
    """The folder that `save_labels` left.

    Raises:
        UsageError: nothing was saved on this page.
    """
    if not (page / LABELLED).is_dir():
        raise UsageError("no labels were saved on this page yet: mark pictures in Classify, and press Save labels")
    return page / LABELLED


def _marked(run: Run, text: str | None) -> tuple[LabelledPictures, dict[int, str]]:
    """What the page has classified, and the marks on it.

    Raises:
        UsageError: nothing was, or other pictures.
        DataError: a picture is gone.
    """
    held = HELD.get(run.folder.parent)
    if held is None:
        raise UsageError("classify pictures first")
    marks = held.marks(text)
    gone = next((row for row in marks if not Path(held.scored.paths[row]).is_file()), None)
    if gone is not None:
        raise DataError(f"{held.name(gone)} is no longer there: choose the pictures again")
    return held, marks


def _session(page: Path) -> Path:
    """What the corrections of a browser are kept by: its folder, which has the folders of its pages."""
    return page.parent

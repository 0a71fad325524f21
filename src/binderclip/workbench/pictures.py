"""The pictures of a run: what was dropped on a tab, or chosen once for all of them."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.workbench.commands import named_pictures
from binderclip.workbench.guard import SESSION_HEADER
from binderclip.workbench.uploads import refusal

MOST_NAMED = 3
"""Files that were refused and are named one by one, with the reason; of the others their number is said."""
PICK = "One of the pictures above"
MOST_LISTED = 500
"""Pictures in a list from which one is chosen."""


@dataclass(frozen=True)
class ChosenPictures:
    """The pictures of a run: uploads, or those of a folder on this machine."""

    paths: list[Path]
    folder: Path | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def names(self) -> list[str]:
        """What the shell line calls them."""
        return named_pictures(self.paths, self.folder)

    @property
    def arguments(self) -> list[str]:
        """What a task is given: the folder, or the pictures one by one."""
        return [str(path) for path in (self.paths if self.folder is None else [self.folder])]

    def label(self, path: Path) -> str:
        """What the page calls one of them."""
        return path.name if self.folder is None else str(path.relative_to(self.folder))


@dataclass(frozen=True)
class SharedPictures:
    """What is chosen once for all tabs.

    Attributes:
        files: uploads. folder: on this machine; empty where there is none. At most one of the two is given.
        title: what they are called, such as `holiday/`.
    """

    files: tuple[str, ...] = ()
    folder: str = ""
    title: str = ""

    def __bool__(self) -> bool:
        return bool(self.files or self.folder)

    def pictures(self, open_folder: Callable[[str], Path]) -> ChosenPictures:
        """The pictures themselves.

        Args:
            open_folder: as of `chosen_pictures`.

        Raises:
            UsageError, DataError: as `chosen_pictures`.
        """
        return chosen_pictures(self.files, self.folder, open_folder)


def chosen_pictures(
    files: Sequence[str] | str | None, folder: str | None, open_folder: Callable[[str], Path]
) -> ChosenPictures:
    """What was uploaded or, where nothing was, the pictures of a folder on this machine.

    Args:
        files: uploads; those that were refused are skipped.
        folder: as a page names it.
        open_folder: gives the folder that pages may read, or raises.

    Raises:
        UsageError: nothing was chosen, or a folder that pages may not read.
        DataError: no picture is in the folder, or among the uploads.
    """
    paths = [Path(path) for path in files_of(files)]
    if paths:
        skipped = [(str(path), reason) for path in paths if (reason := refusal(path)) is not None]
        if len(skipped) == len(paths):
            raise DataError(skipped[0][1])
        refused = {path for path, _ in skipped}
        return ChosenPictures([path for path in paths if str(path) not in refused], None, skipped)
    if folder:
        return pictures_of(open_folder(folder))
    raise UsageError(nothing_chosen(many=True))


def nothing_chosen(*, many: bool, folders: Sequence[Path] = ()) -> str:
    """What a tab says that was given no picture: what it takes.

    Args:
        many: whether it takes several, or else one alone.
        folders: on this machine, of which one may be chosen where it takes several.
    """
    if not many:
        return "choose a picture first; this tab takes one"
    return f"choose pictures first{', or a folder' if folders else ''}"


def pictures_of(folder: Path) -> ChosenPictures:
    """The pictures in a folder and below it.

    Raises:
        DataError: there is none, or the folder cannot be read.
    """
    from binderclip.data import list_images

    skipped: list[tuple[str, str]] = []
    paths = list_images(folder, skipped=skipped)
    if not paths:
        raise DataError(f"no pictures in {folder}, nor below it")
    return ChosenPictures(paths, folder, skipped)


def refused_sentence(reasons: Sequence[str]) -> str:
    """What was left out of an upload: `notes.txt is not a picture (...): left out`; empty where nothing was."""
    named = [f"{reason}: left out" for reason in reasons[:MOST_NAMED]]
    if more := len(reasons) - len(named):
        named.append(f"{number_of(more, 'more file')} left out")
    return "; ".join(named)


def files_of(given: Any) -> list[str]:
    """The paths of what a drop zone has: of several files, of one, or none."""
    return [given] if isinstance(given, str) else list(given or [])


def without_places(text: str, uploaded: Sequence[str]) -> str:
    """A message that names uploads by their names: where they lie is no use to anybody."""
    for path in uploaded:
        text = text.replace(path, Path(path).name)
    return text


def line_html(text: str, kind: str = "uses") -> str:
    """A line below a drop zone, read aloud when it changes."""
    return f'<p class="{kind}" role="status">{html.escape(text)}</p>'


@dataclass(frozen=True)
class PictureInput:
    """The parts that choose pictures for one tab; `inputs` are for `Bench.connect`, and give `files, folder`.

    Attributes:
        label: what they are. many: whether the tab takes several.
        files: the drop zone. folder: the list of folders.
        fold: what the drop zone is in; None where the tab does not take what is chosen for all tabs.
        from_above: says that it does, or is a list of those pictures for a tab that takes one. Where the tab has
            pictures of its own, a line that says so stands in its place.
    """

    label: str
    many: bool
    files: Any
    folder: Any
    fold: Any = None
    from_above: Any = None

    @property
    def inputs(self) -> list[Any]:
        return [self.files, self.folder]

    def is_in(self, inputs: Sequence[Any]) -> tuple[int, int] | None:
        """Places of `files` and `folder` among the inputs of a run that may take what is chosen for all tabs."""
        places = {id(each): place for place, each in enumerate(inputs)}
        if self.fold is None or not self.many or id(self.files) not in places or id(self.folder) not in places:
            return None
        return places[id(self.files)], places[id(self.folder)]

    def updates(self, chosen: ChosenPictures | None, title: str) -> list[Any]:
        """New values of `fold` and `from_above`, when other pictures are chosen for all tabs.

        Args:
            chosen: for all tabs, called `title`; None where nothing is.
        """
        if chosen is None:
            fold = gr.update(open=True, label=self.label)
            empty = (
                gr.update(value="", visible=False) if self.many else gr.update(value=None, choices=[], visible=False)
            )
            return [fold, empty]
        if self.many:
            text = f"Uses the {number_of(len(chosen.paths), 'picture')} of {title}, chosen above."
            fold = gr.update(open=False, label="Other pictures, for this tab alone")
            return [fold, gr.update(value=line_html(text), visible=True)]
        names = [chosen.label(path) for path in chosen.paths[:MOST_LISTED]]
        fold = gr.update(open=False, label="Another picture, for this tab alone")
        return [fold, gr.update(value=None, choices=names, visible=True)]


def picture_input(
    label: str, folders: Sequence[Path], *, many: bool, height: int, folder_label: str, shared: bool
) -> PictureInput:
    """Make the parts; as `Bench.pictures`.

    Args:
        folders: on this machine that may be chosen.
    """
    from_above: Any = None
    own: Any = None
    if shared and many:
        from_above = gr.HTML("", visible=False, padding=False, elem_classes="from-above")
        own = gr.HTML("", visible=False, padding=False, elem_classes="own-pictures")
    elif shared:
        from_above = gr.Dropdown([], label=PICK, visible=False)
    with gr.Accordion(label, open=True) if shared else nullcontext() as fold:
        files = gr.File(
            label=label, show_label=not shared, file_count="multiple" if many else "single", height=height,
            elem_classes=["drop", "for-this-tab"] if shared else "drop",
        )  # fmt: skip
        choices = [("(what was uploaded)", ""), *((str(folder), str(folder)) for folder in folders)]
        folder = gr.Dropdown(choices, value="", label=folder_label, visible=bool(folders) and many)
        refused = gr.HTML("", visible=False)
    quiet: dict[str, Any] = {
        "show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private",
        "trigger_mode": "always_last",  # else what is cleared while the choice before is being answered is passed over
    }  # fmt: skip
    # One handler for all: for each component Gradio's page looks through every handler that there is.
    if own is None:
        gr.on([files.upload, files.clear], _without_refused, files, [files, refused], **quiet)
    else:
        changed = [files.upload, files.clear, files.delete, folder.input]
        gr.on(changed, _own_pictures, [files, folder], [files, refused, own], **quiet)
    return PictureInput(label, many, files, folder, fold, from_above)


def _without_refused(given: list[str] | str | None) -> tuple[Any, Any]:
    """What was uploaded without what was refused, and a line that names it; no line where nothing was."""
    kept, reasons = _sorted_out(given)
    if not reasons:
        return gr.skip(), gr.update(value="", visible=False)
    line = gr.update(value=line_html(refused_sentence(reasons)), visible=True)
    return (kept or None) if isinstance(given, list) else None, line


def _own_pictures(given: list[str] | None, folder: str | None) -> tuple[Any, Any, Any]:
    """As `_without_refused`, and a line that says which pictures of its own a tab uses; none where it has none."""
    kept, _ = _sorted_out(given)
    text = ""
    # The same order as in `chosen_pictures`.
    if kept:
        text = f"Uses the {number_of(len(kept), 'picture')} dropped here"
    elif folder:
        text = f"Uses the pictures of {Path(folder).name}/, chosen here"
    rest = '<span class="not-above">, not those above</span>' if text else ""
    line = f'<p class="own" role="status">{html.escape(text)}{rest}.</p>' if text else ""
    return *_without_refused(given), gr.update(value=line, visible=bool(text))


def _sorted_out(given: list[str] | str | None) -> tuple[list[str], list[str]]:
    """The uploads that are pictures, and why the others are none."""
    paths = files_of(given)
    refusals = [(path, refusal(Path(path))) for path in paths]
    return [path for path, reason in refusals if reason is None], [reason for _, reason in refusals if reason]


def session_of(request: gr.Request) -> str:
    """Whose request this is."""
    return str(request.headers.get(SESSION_HEADER, ""))

"""The place at the top of the page where pictures are chosen once for all tabs."""

from __future__ import annotations

import html
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.workbench.opening.thumbnails import jpeg, thumbnail_html
from binderclip.workbench.pictures import ChosenPictures, PictureInput, SharedPictures, line_html, refused_sentence
from binderclip.workbench.tab import Bench
from binderclip.workbench.uploads import refusal

SEEN = 24
"""Pictures that are seen in the strip."""
MOST_RECENT = 5
"""Folders that were chosen last and stand at the beginning of the list, as long as the server runs."""
EXAMPLES = ("chelsea", "coffee", "rocket", "motorcycle_left", "flower", "china", "coins", "astronaut")
"""Photographs that are offered to try, where scikit-image is installed."""
EXAMPLE_COUNT = 12
EMPTY = "Drop pictures or a folder here, choose a folder, or try the examples: every tab then uses them."
NOTHING = SharedPictures()
QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}


class PicturePlace:
    """The place itself; `connect` lets the tabs know what is chosen, when all are built.

    Args:
        bench: of the page; its `shared` becomes the component that keeps what is chosen.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._recent: deque[str] = deque(maxlen=MOST_RECENT)
        bench.shared = self.chosen = gr.State(NOTHING)
        with gr.Row(elem_classes="place", equal_height=False):
            with gr.Column(scale=2, min_width=260, elem_classes="place-choice"):
                self.folder = gr.Dropdown(
                    self._folders(), value="", label="Folder for all tabs", allow_custom_value=True,
                    visible=bool(bench.folders),
                )  # fmt: skip
                self.files = gr.File(
                    label="Drop pictures for all tabs", show_label=False, file_count="multiple", height=86,
                    elem_classes="drop",
                )  # fmt: skip
            with gr.Column(scale=5, min_width=300):
                self.strip = gr.HTML(_strip(None, ""), padding=False)
                self.message = gr.HTML("", visible=False, padding=False)
                with gr.Row(elem_classes="place-buttons"):
                    self.examples = gr.Button(
                        "Try example pictures", size="sm", scale=0, min_width=170, elem_classes="examples"
                    )
                    self.clear = gr.Button("Use none of these", size="sm", scale=0, min_width=150, visible=False)

    def connect(self, page: gr.Blocks) -> None:
        """Bind the events.

        Args:
            page: that the place is on.
        """
        takers = [each for each in self.bench.picture_inputs if each.fold is not None]
        own = [self.chosen, self.files, self.folder, self.strip, self.message, self.clear]
        outputs = [*own, *(part for each in takers for part in (each.fold, each.from_above))]

        def settled(shared: SharedPictures, left_out: str = "") -> list[Any]:
            return self._settled(takers, shared, left_out)

        def dropped(files: list[str] | None) -> list[Any]:
            reasons = [reason for path in files or [] if (reason := refusal(Path(path))) is not None]
            kept = [path for path in files or [] if refusal(Path(path)) is None]
            shared = SharedPictures(files=tuple(map(str, kept)), title="what was dropped")
            return settled(shared, refused_sentence(reasons))

        def opened(folder: str | None) -> list[Any]:
            name = (folder or "").strip()
            return settled(self._opened(name) if name else NOTHING)

        def examples(request: gr.Request) -> list[Any]:
            return settled(SharedPictures(files=self._examples(self.bench.session(request)), title="the examples"))

        def guarded(work: Any) -> Any:
            def answered(*given: Any) -> list[Any]:
                try:
                    return list(work(*given))
                except BinderclipError as error:
                    # What was chosen before stays.
                    kept = [gr.skip()] * len(outputs)
                    kept[1], kept[4] = None, gr.update(value=_message(str(error)), visible=True)
                    return kept

            return answered

        def shown_examples(request: gr.Request) -> list[Any]:
            return list(guarded(lambda: examples(request))())

        # The last choice counts, also one that is made while that before it is being answered.
        last: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
        self.files.upload(guarded(dropped), self.files, outputs, **last)
        self.folder.input(guarded(opened), self.folder, outputs, **last)
        self.examples.click(shown_examples, None, outputs, **QUIET)
        self.clear.click(lambda: settled(NOTHING), None, outputs, **QUIET)
        if len(self.bench.folders) == 1:
            only = str(self.bench.folders[0])
            page.load(lambda: guarded(opened)(only), None, outputs, **QUIET)
        for each in takers:
            if not each.many:
                each.from_above.input(self._picked, [self.chosen, each.from_above], each.files, **last)

    def _settled(self, takers: Sequence[PictureInput], shared: SharedPictures, left_out: str) -> list[Any]:
        """Values of all outputs for what is chosen now."""
        chosen = shared.pictures(self.bench.open_folder) if shared else None
        updates = [update for each in takers for update in each.updates(chosen, shared.title)]
        folder = gr.update(choices=self._folders(), value=shared.folder)
        strip = _strip(chosen, shared.title, left_out)
        message = gr.update(value="", visible=False)
        return [shared, None, folder, strip, message, gr.update(visible=chosen is not None), *updates]

    def _folders(self) -> list[tuple[str, str]]:
        folders = dict.fromkeys([*self._recent, *map(str, self.bench.below())])
        return [("(no folder)", ""), *((folder, folder) for folder in folders)]

    def _opened(self, name: str) -> SharedPictures:
        folder = str(self.bench.open_folder(name))
        if folder in self._recent:
            self._recent.remove(folder)
        self._recent.appendleft(folder)
        return SharedPictures(folder=folder, title=f"{Path(folder).name}/")

    def _examples(self, session: str) -> tuple[str, ...]:
        """Copies of the examples, as though they had been uploaded."""
        paths = []
        for name, data in example_pictures():
            self.bench.sessions.store(session, len(data))
            place = self.bench.sessions.new_upload(session, name)
            place.write_bytes(data)
            paths.append(str(place))
        return tuple(paths)

    def _picked(self, request: gr.Request, shared: SharedPictures, name: str | None) -> Any:
        """The picture of a tab that takes one: a copy of it where it lies in a folder, since a browser reads no other.

        Raises:
            gr.Error: it is gone, or cannot be copied.
        """
        try:
            chosen = shared.pictures(self.bench.open_folder)
            path = next((path for path in chosen.paths if chosen.label(path) == name), None)
            if path is None:
                raise UsageError(f"{name} is none of the pictures above")
            if chosen.folder is None:
                return str(path)
            session = self.bench.session(request)
            data = path.read_bytes()
            self.bench.sessions.store(session, len(data))
            copy = self.bench.sessions.new_upload(session, path.name)
            copy.write_bytes(data)
        except (BinderclipError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        return str(copy)


@lru_cache(maxsize=1)
def example_pictures() -> tuple[tuple[str, bytes], ...]:
    """(name, encoded picture) of a dozen pictures that come with the package and those it needs.

    Photographs come first, where scikit-image is there that they lie in; the others are drawings.
    """
    from binderclip.data import load_data

    pictures = []
    try:
        photographs = {sample.key.split(".")[0]: sample.image for sample in load_data("photographs")}
        pictures = [(f"{name}.jpg", photographs[name]) for name in EXAMPLES if name in photographs]
    except BinderclipError:
        # An extra of this package: the drawings are enough to try.
        pass
    drawings = load_data("openclipart", split="test")
    step = max(1, len(drawings) // EXAMPLE_COUNT)
    for sample in (drawings[row] for row in range(0, len(drawings), step)):
        if len(pictures) == EXAMPLE_COUNT:
            break
        pictures.append((f"drawing-{len(pictures) + 1}.jpg", sample.image.resize((256, 256))))
    return tuple((name, jpeg(picture, 640)) for name, picture in pictures)


def _strip(chosen: ChosenPictures | None, title: str, left_out: str = "") -> str:
    """How many pictures there are, the first of them, and what was left out, as HTML.

    Args:
        chosen: for all tabs; None where nothing is. title: what they are called.
        left_out: files that were refused.
    """
    if chosen is None:
        return _message(left_out) if left_out else f'<p class="uses">{EMPTY}</p>'
    shown, broken = "", []
    for path in chosen.paths[:SEEN]:
        name = html.escape(chosen.label(path), quote=True)
        try:
            shown += thumbnail_html(path, chosen.label(path))
        except DataError:
            broken.append(f"{path.name} cannot be read")
            shown += f'<li class="broken" title="{name}"><span>{name} cannot be read</span></li>'
    skipped = [f"{Path(path).name}: {reason}" for path, reason in chosen.skipped]
    lines = "".join(map(_message, filter(None, [left_out, refused_sentence([*broken, *skipped])])))
    count = f"{number_of(len(chosen.paths), 'picture')} of {title}"
    more = f", the first {SEEN} are seen here" if len(chosen.paths) > SEEN else ""
    return (
        f'<p class="uses" role="status"><b>{html.escape(count)}</b>{more}; every tab uses them.</p>'
        f'<ul class="strip" tabindex="0" aria-label="{html.escape(count, quote=True)}">{shown}</ul>{lines}'
    )


def _message(text: str) -> str:
    return line_html(text, "left-out")

"""What a tab stands on: its declaration, the parts of the page that tabs share, and a run's own view of the work."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from binderclip.data.images import contained
from binderclip.errors import BinderclipError, UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.events import Counted, Event, Previewed, Started, Warned, listening
from binderclip.tasks.models import cached_models
from binderclip.workbench.commands import Equivalent
from binderclip.workbench.jobs import JobQueue, WorkbenchJob
from binderclip.workbench.look import in_page_words, is_hint
from binderclip.workbench.models import ModelShelf
from binderclip.workbench.pictures import ChosenPictures as ChosenPictures
from binderclip.workbench.pictures import (
    PictureInput,
    chosen_pictures,
    files_of,
    nothing_chosen,
    picture_input,
    refused_sentence,
    session_of,
    without_places,
)
from binderclip.workbench.sessions import Sessions
from binderclip.workbench.status import lines_html, result_values, said_html, status_html

LOOK_EVERY = 0.15
"""Seconds between two looks at a run."""
LOOKS, MOST_SEEN, SMALLEST_SEEN = 20, 8, 256
"""Looks at a run that are kept, since the browser may ask a little later; pictures in one; their least side."""
LOOK_AGAIN = 0.4
"""Seconds between two looks: drawing one takes time from the run."""
GROUPS = FIND, CUT, WHY, MAKE, LEARN = (
    "Find and sort", "Cut out and measure", "See why", "Make and mend", "Models and papers"
)  # fmt: skip
"""Tabs of a group stand together, below its name."""
TOWER = "small"
"""The bundled model whose image tower methods are tuned to."""
MODELS, HEAD = "models", "adapt"
"""Folders of the models that a page has made, and of the head that it has adapted last, beside those of its runs."""


@dataclass(frozen=True)
class Tab:
    """One tab.

    Args:
        title: on the tab. about: one sentence below it.
        build: makes the components, inside the tab, and connects them.
        order: tabs of a group stand in this order.
        offered: whether a page has it; one that needs what a page cannot give, such as weights, is not in the way.
        group: one of `GROUPS`.
    """

    title: str
    about: str
    build: Callable[[Bench], None]
    order: int = 100
    offered: Callable[[Bench], bool] = lambda bench: True
    group: str = FIND

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"tab {self.title}: there is no group {self.group!r}, only {', '.join(GROUPS)}")


@dataclass(frozen=True)
class Outcome:
    """What a run gives back.

    Args:
        values: one for each of the tab's outputs.
        files: to download.
        again: the lines that give the same without the page.
        said: a sentence for the status line, such as how many pictures could not be read.
    """

    values: Sequence[Any]
    files: Sequence[Path] = ()
    again: Equivalent | None = None
    said: str = ""


class Run:
    """What `work` is given: the run's folder and model, and ways to say how far it is.

    Attributes:
        folder: empty, for its results; the browser may read them there.
        model_name: what is chosen for all tabs.
        models: folder of the models that the page has made.
    """

    def __init__(self, bench: Bench, job: WorkbenchJob, model_name: str, folder: Path) -> None:
        self.bench, self.model_name, self.folder = bench, model_name, folder
        self.models = folder.parent / MODELS
        self._job = job
        self.warnings: list[str] = []
        self.say, self.progress = job.say, job.progress
        self._looks: list[list[Path]] = []
        self._preview: Callable[[list[str]], object] | None = None
        self._next_look = 0.0

    def hear(self, event: Event) -> None:
        """What a task says while it works: counts move the bar, warnings stand in the status line at the end."""
        if isinstance(event, Counted):
            self.progress(event.done - event.begun, event.total, event.message)
        elif isinstance(event, Started):
            self.say(event.message)
        elif isinstance(event, Warned):
            self.warnings.append(in_page_words(event.message))
        elif isinstance(event, Previewed) and self._preview is not None and time.monotonic() >= self._next_look:
            self._preview(self._look(event.render()[:MOST_SEEN]))
            self._next_look = time.monotonic() + LOOK_AGAIN

    def preview(self, show: Callable[[list[str]], object]) -> None:
        """Let pictures be seen while a task makes them.

        Args:
            show: called, now and then, with paths of copies of them that the browser may read.
        """
        self._preview = show

    def leave(self, outcome: Outcome) -> None:
        """What a run that is stopped leaves on its page, in place of nothing."""
        self._job.left = outcome

    def _look(self, pictures: Sequence[Any]) -> list[str]:
        """Files of new names, since the browser keeps what it has; the last few looks stay until they are loaded."""
        paths = [self.folder / f"look-{len(self._looks)}-{number}.png" for number in range(len(pictures))]
        for picture, path in zip(pictures, paths, strict=True):
            enlarged = contained(picture, SMALLEST_SEEN) if max(picture.size) < SMALLEST_SEEN else picture
            enlarged.save(path)
        self._looks.append(paths)
        for old in (path for look in self._looks[-LOOKS - 1 : -LOOKS] for path in look):
            old.unlink(missing_ok=True)
        return [str(path) for path in paths]

    def loaded(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        """A model of the shelf; one that the page has made goes by its name, not by where it lies."""
        model = self.bench.models.get(kind, name, make)
        if Path(name).parent == self.models:
            model.name = Path(name).name
        return model

    def show(self, *values: Any) -> None:
        """What there is so far: one value for each of the tab's outputs."""
        self._job.show(values)

    def chosen(self, usual: str) -> str:
        """The model that is chosen for all tabs; `usual` where it is a bundled one that the method cannot stand on."""
        return usual if self.model_name in (DEFAULT, TOWER) else self.model_name

    @property
    def tower_model(self) -> str:
        """`chosen` for methods that learn on, or were tuned to, the tower of `small` alone."""
        return self.chosen(TOWER)

    def head(self, name: str) -> Path:
        """A folder with a head: that of the page, or one that the workbench was opened on.

        Raises:
            UsageError: another one.
        """
        own = self.folder.parent / HEAD
        return own if Path(name) == own else self.bench.open_folder(name)

    def data(self, name: str | None) -> str:
        """What a verb's `--data` takes: the name of a set, or a folder that the workbench was opened on.

        Raises:
            UsageError: nothing was chosen, or another folder.
        """
        from binderclip.data import list_data

        chosen = (name or "").strip()
        if not chosen:
            raise UsageError("choose a folder with one for each class (dogs, cats ...), or a named set such as digits")
        return chosen if chosen in list_data() else str(self.bench.open_folder(chosen))

    def pictures(self, files: Sequence[str] | str | None, folder: str | None = None) -> ChosenPictures:
        """What was uploaded or, where nothing was, the pictures of a folder that the workbench was opened on.

        Raises:
            UsageError: nothing was chosen, or another folder.
            DataError: no picture is in the folder, or among the uploads.
        """
        if not (files or folder):
            raise UsageError(nothing_chosen(many=True, folders=self.bench.folders))
        chosen = chosen_pictures(files, folder, self.bench.open_folder)
        if chosen.skipped and chosen.folder is None:
            self.warnings.append(refused_sentence([reason for _, reason in chosen.skipped]))
        return chosen

    def picture(self, file: str | None) -> Path:
        """The picture of a tab that takes one (`Bench.pictures(many=False)`).

        Raises:
            UsageError: nothing was chosen.
            DataError: it is no picture.
        """
        if not file:
            raise UsageError(nothing_chosen(many=False))
        return chosen_pictures(file, None, self.bench.open_folder).paths[0]


@dataclass(frozen=True)
class Controls:
    """The buttons of a run and the line that says how it is."""

    go: Any
    stop: Any
    status: Any


@dataclass(frozen=True)
class ResultParts:
    """Where a run's files and lines go."""

    files: Any
    lines: Any


class Bench:
    """What all tabs share.

    Attributes:
        model: the component with the name of the model for all tabs.
        folders: that pictures may be read from.
        jobs: runs in line. clicks: what takes a moment, in a line of its own.
        sessions, models: of the server.
        shared: the component with the pictures that are chosen for all tabs (`SharedPictures`); None without one.
        picture_inputs: of the tabs.
        word_lists: where a word that a diffusion model has learned is chosen, which a tab that teaches one updates.
    """

    def __init__(
        self,
        *,
        model: Any,
        jobs: JobQueue,
        clicks: JobQueue,
        sessions: Sessions,
        models: ModelShelf,
        folders: Sequence[Path] = (),
    ) -> None:
        self.model, self.jobs, self.clicks, self.sessions, self.models = model, jobs, clicks, sessions, models
        self.folders = tuple(folders)
        self.shared: Any = None
        self.picture_inputs: list[PictureInput] = []
        self.word_lists: list[Any] = []
        self._model_lists, self._makers = [model], list[Any]()
        self._heads, self._head_makers = list[Any](), list[Any]()

    # -- parts of the page ----------------------------------------------------------------------------------------

    def pictures(
        self,
        label: str = "Pictures",
        *,
        many: bool = True,
        height: int = 150,
        folder_label: str = "Or a folder on this machine",
        shared: bool = True,
    ) -> PictureInput:
        """Where pictures are dropped; with a list of the folders on this machine that the workbench was opened on.

        Args:
            label: what they are. many: whether there may be several.
            height: of the drop zone, in pixels. folder_label: of the list.
            shared: whether those that are chosen for all tabs are taken where the tab has none of its own.
        """
        made = picture_input(label, self.below(), many=many, height=height, folder_label=folder_label, shared=shared)
        self.picture_inputs.append(made)
        return made

    def model_list(self, **given: Any) -> Any:
        """Where another model is chosen, from what the list for all tabs has; the models of the page are in both.

        Args:
            given: of the drop-down list, such as its label.
        """
        chosen = gr.Dropdown(self.model.choices, allow_custom_value=True, **given)
        self._model_lists.append(chosen)
        return chosen

    def head_list(self, known: Sequence[tuple[str, str]], **given: Any) -> Any:
        """Where heads are ticked: those in folders, and that of the page as soon as there is one.

        Args:
            known: names and folders of the former. given: of the list, such as its label.
        """
        chosen = gr.CheckboxGroup(list(known), visible=bool(known), **given)
        self._heads.append(chosen)
        return chosen

    def controls(self, label: str) -> Controls:
        """A button that starts, one that stops, and above them, as much in sight, the line that says how it goes."""
        status = gr.HTML(status_html(None), elem_classes="status-box")
        with gr.Row(elem_classes="controls"):
            go = gr.Button(label, variant="primary", scale=3, min_width=120)
            stop = gr.Button("Stop", interactive=False, scale=1, min_width=80)
        return Controls(go, stop, status)

    def results(self) -> ResultParts:
        """Files to download, and the lines that give the same result; empty until there are some."""
        files = gr.File(label="Download", file_count="multiple", interactive=False, visible=False)
        return ResultParts(files, gr.HTML(lines_html(None), padding=False))

    # -- events ---------------------------------------------------------------------------------------------------

    def connect(
        self,
        controls: Controls,
        work: Callable[..., Outcome],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        results: ResultParts,
        *,
        also: Sequence[Any] = (),
        keep: bool = False,
        makes_model: bool = False,
        makes_head: bool = False,
    ) -> None:
        """Let the buttons start and stop `work`.

        Args:
            controls: of `controls`.
            work: called as `work(run, *values of inputs)`, in line with every other run.
            inputs: components it reads.
            outputs: components that `Outcome.values` and `Run.show` are for.
            results: of `results`.
            also: other events that start it, such as `labels.submit`.
            keep: leave outputs as they are when a run fails or is stopped, instead of clearing them.
            makes_model: whether it keeps a model (`page_models.keep_model`), which the lists of models then have.
            makes_head: whether it keeps a head in the folder `HEAD`, which the lists of heads then have.
        """
        outputs = list(outputs)
        count = len(outputs)
        # Where a run has failed, what to do is said again.
        empty = [each.value if isinstance(each, gr.HTML) and is_hint(each.value) else None for each in outputs]
        takes_shared = [places for each in self.picture_inputs if (places := each.is_in(inputs)) is not None]

        takes_files = [row for row, each in enumerate(inputs) if any(each is one.files for one in self.picture_inputs)]

        def with_shared(values: tuple[Any, ...]) -> list[Any]:
            """The values of the inputs, where a tab has no pictures of its own with those chosen for all tabs."""
            given, shared = list(values[: len(inputs)]), values[len(inputs) :]
            for files, folder in takes_shared if shared and shared[0] else []:
                if not given[files] and not given[folder]:
                    given[files], given[folder] = list(shared[0].files) or None, shared[0].folder or None
            return given

        async def stream(request: gr.Request, model: str, *values: Any) -> AsyncIterator[list[Any]]:
            session, page = self.session(request), str(request.session_hash)
            same: list[Any] = [gr.skip()] * count
            if (session, page) in running:
                # The second press of a double click.
                yield [gr.skip()] * (5 + count)
                return
            cleared = same if keep else list(empty)
            try:
                if not (model or "").strip():
                    raise UsageError("choose a model, at the top of the page")
                folder = self.sessions.new_results(session, page, "run")

                given = with_shared(values)
                uploaded = [path for place in takes_files for path in files_of(given[place])]

                def carry_out(job: WorkbenchJob) -> Outcome:
                    run = Run(self, job, model.strip(), folder)
                    try:
                        with listening(run.hear), cached_models(run.loaded):
                            outcome = work(run, *given)
                    except BinderclipError as error:
                        # Where the page keeps its models is no use to anybody.
                        reason = str(error).replace(f"{run.models}/", "").replace(f"{folder}/", "")
                        raise type(error)(in_page_words(without_places(reason, uploaded))) from error
                    warnings = [f"{line[:1].upper()}{line[1:]}." for line in run.warnings]
                    status = " ".join(filter(None, [outcome.said, *warnings]))
                    again = outcome.again and outcome.again.without(run.models).without(folder.parent)
                    return replace(outcome, said=status, again=again)

                job = self.jobs.submit(carry_out, session=session, page=page)
            except BinderclipError as error:
                yield [said_html(str(error), failed=True), *[gr.skip()] * 2, *result_values(None), *cleared]
                return
            running[session, page] = job
            try:
                yield [status_html(self.jobs.view(job)), *_switched(True), *result_values(None), *same]
                seen = 0
                while not job.ended:
                    await asyncio.sleep(LOOK_EVERY)
                    number, partial = job.shown
                    fresh = list(partial) if number > seen else same
                    seen = number
                    yield [status_html(self.jobs.view(job)), *[gr.skip()] * 4, *fresh]
            finally:
                # The page is gone, or Gradio gave the event up.
                self.jobs.stop(job)
                running.pop((session, page), None)
            outcome = job.result if job.state == "done" else job.left if job.state == "stopped" else None
            status = status_html(self.jobs.view(job), outcome.said if outcome else "")
            yield [
                status,
                *_switched(False),
                *result_values(outcome.again if outcome else None, outcome.files if outcome else ()),
                *(outcome.values if outcome else cleared),
            ]
            # What the page shows now is of this run: the files of the runs before it go.
            left = earlier.setdefault((session, page), [])
            if outcome is not None:
                gone = [place for place in left if not any(place in path.parents for path in outcome.files)]
                await asyncio.to_thread(_remove_all, gone)
                left[:] = [place for place in left if place not in gone]
            left.append(folder)

        running: dict[tuple[str, str], WorkbenchJob] = {}
        earlier: dict[tuple[str, str], list[Path]] = {}

        def stop(request: gr.Request) -> None:
            job = running.get((self.session(request), str(request.session_hash)))
            if job is not None:
                self.jobs.stop(job)

        parts = [controls.status, controls.go, controls.stop, results.files, results.lines]
        event = gr.on(
            [controls.go.click, *also],
            stream,
            [self.model, *inputs, *([] if self.shared is None else [self.shared])],
            [*parts, *outputs],
            show_progress="hidden",
            concurrency_limit=None,
            api_visibility="private",
            # "once" would leave out a press that comes after the last line of a run, before its event is over.
            trigger_mode="multiple",
        )
        controls.stop.click(stop, None, None, show_progress="hidden", concurrency_limit=None, api_visibility="private")
        if makes_model:
            self._makers.append(event)
        if makes_head:
            self._head_makers.append(event)

    def offer_made(self) -> None:
        """Let every list of models and heads have those that the page makes; called when all tabs are built."""
        known, known_heads = self.model.choices, [each.choices for each in self._heads]

        def made(request: gr.Request) -> list[Any]:
            place = self.sessions.results(self.session(request), str(request.session_hash)) / MODELS
            own = [(path.name, str(path)) for path in sorted(place.iterdir())] if place.is_dir() else []
            return [gr.update(choices=[*own, *known]) for _ in self._model_lists]

        def adapted(request: gr.Request) -> Any:
            place = self.sessions.results(self.session(request), str(request.session_hash)) / HEAD
            own = [("the one that Adapt learned on this page", str(place))] if (place / "head.json").is_file() else []
            lists = [gr.update(choices=[*own, *known], visible=bool([*own, *known])) for known in known_heads]
            return lists if len(lists) > 1 else lists[0]  # Gradio takes a list for the value of a single one

        quiet: dict[str, Any] = {
            "show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private",
        }  # fmt: skip
        for event in self._makers:
            event.then(made, None, self._model_lists, **quiet)
        for event in self._head_makers if self._heads else []:
            event.then(adapted, None, self._heads, **quiet)

    async def ask(self, request: gr.Request, work: Callable[[WorkbenchJob], Any]) -> Any:
        """Do something that takes a moment, such as what a click asks for, and wait for what comes of it.

        These stand in a line of their own and do not wait for the runs.

        Args:
            request: of the event. work: called with the run, in a thread of its own.

        Raises:
            UsageError: with the message of what went wrong.
        """
        session, page = self.session(request), str(request.session_hash)
        # Gradio hands over what it had in line when the page was closed.
        self.sessions.check_open(session, page)
        job = self.clicks.submit(work, session=session, page=page)
        try:
            while not job.ended:
                await asyncio.sleep(LOOK_EVERY / 3)
        finally:
            self.clicks.stop(job)
        if job.state != "done":
            raise UsageError(job.error or "stopped")
        return job.result

    def pressed_since(self, request: gr.Request, line: str) -> bool:
        """Whether the page of an event has pressed something else meanwhile that waits in the same line of Gradio's.

        Args:
            request: of the event that is being answered. line: the `concurrency_id`.
        """
        blocks: Any = LocalContext.blocks.get()
        waiting = blocks._queue.event_queue_per_concurrency_id[line].queue
        return any(event.session_hash == request.session_hash for event in waiting)

    def session(self, request: gr.Request) -> str:
        """Whose request this is."""
        return session_of(request)

    # -- folders --------------------------------------------------------------------------------------------------

    def open_folder(self, folder: str) -> Path:
        """A folder on this machine that pages may read.

        Raises:
            UsageError: it is none of those the workbench was opened on, nor below one.
        """
        path = Path(folder).resolve()
        for allowed in self.folders:
            root = allowed.resolve()
            if (path == root or root in path.parents) and path.is_dir():
                return path
        raise UsageError(f"the workbench was not opened on {folder}: start it as `binderclip workbench {folder}`")

    def below(self, most: int = 200) -> list[Path]:
        """The folders and those in them, as far as a list is of use."""
        folders: dict[Path, None] = {}
        for folder in self.folders:
            folders[folder] = None
            inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
            folders.update(dict.fromkeys(inside))
        return list(folders)[:most]


def _remove_all(places: Sequence[Path]) -> None:
    for place in places:
        shutil.rmtree(place, ignore_errors=True)


def _switched(running: bool) -> list[Any]:
    return [gr.update(interactive=not running), gr.update(interactive=running)]

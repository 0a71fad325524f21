"""Search: pictures of a folder, or those that were dropped, found by words or by a picture."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import BinderclipError, DataError
from binderclip.tasks import search_index, search_query
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.photographs import weak_on_photographs
from binderclip.tasks.verbs.search.index import correction_of
from binderclip.tasks.verbs.search.request import SearchIndexRequest, SearchQueryRequest
from binderclip.workbench.commands import PICTURES, Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import GalleryPicture
from binderclip.workbench.held import HeldByPage
from binderclip.workbench.look import (
    could_not_be_read,
    gallery,
    gathered,
    hint,
    remarks_html,
    sentences,
    small_copy,
    table,
)
from binderclip.workbench.status import result_values, said_html
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.search import SearchIndex
    from binderclip.tasks.verbs.search.query import SearchHits


SEEN = 8
"""Answers whose pictures stay: the browser may still be loading those of the last ones."""


class TypedIndex:
    """An index that is open, with small copies of what it has shown.

    Args:
        index: of the pictures. folder: of the copies; the browser may read them there. root: of the pictures.
        model: as it was named.
    """

    def __init__(self, index: SearchIndex, folder: Path, root: Path, model: str) -> None:
        self.index, self.root, self.model, self._folder = index, root, model, folder
        self._copies: dict[Path, Path | None] = {}
        self._answers: list[Path] = []

    def copy(self, path: Path) -> Path | None:
        """A small copy, made once; None where the picture is gone or cannot be read."""
        if path not in self._copies:
            self._folder.mkdir(exist_ok=True)
            self._copies[path] = small_copy(path, self._folder / "copies", len(self._copies))
        return self._copies[path]

    def next_folder(self) -> Path:
        """An empty folder for the pictures of one answer; those of old answers go."""
        self._folder.mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        self._answers.append(folder)
        for old in self._answers[:-SEEN]:
            shutil.rmtree(old, ignore_errors=True)
        del self._answers[:-SEEN]
        return folder


INDEXES = HeldByPage[TypedIndex]()


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to search in")
            words = gr.Textbox(
                label="What you look for, in words", placeholder="a red bicycle",
                info="once the pictures are indexed, they are looked for as you type",
            )  # fmt: skip
            minus = gr.Textbox(label="But not, in words", placeholder="snow")
            with gr.Accordion("Or look for what is like a picture", open=False):
                example = gr.File(label="Picture to look for", file_types=["image"], height=110)
            top = control(SearchQueryRequest, "top", maximum=60, value=12)
            anew = control(
                SearchIndexRequest, "rebuild",
                info="for a folder whose index another model made; else it is only brought up to date",
            )  # fmt: skip
            controls = bench.controls("Search")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures and press Search once: then what you type is looked for at once."))
            gallery_html = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, words, example, top, anew, minus]
    bench.connect(controls, work, inputs, [shown, gallery_html], results, also=[words.submit, minus.submit])

    async def typed(request: gr.Request, asked: str | None, without: str | None, most: int) -> list[Any]:
        """What is found by the words so far, in the index that the last run left."""
        page = bench.session(request), str(request.session_hash)
        unchanged = [gr.skip()] * 4
        if not (asked or "").strip():
            return unchanged
        try:
            index = INDEXES.get(bench.sessions.results(*page))
            if index is None:
                return unchanged

            def look(_: Any) -> tuple[str, str]:
                return _typed(index, str(asked), without or "", int(most), bench)

            return [*await bench.ask(request, look), *result_values(None)]
        except BinderclipError as error:
            return [gr.skip(), said_html(str(error), failed=True), gr.skip(), gr.skip()]

    # One press is answered at a time; of those meanwhile the last one counts, so that nobody waits for every letter.
    gr.on(
        [words.input, minus.input], typed, [words, minus, top], [shown, gallery_html, results.files, results.lines],
        show_progress="hidden", api_visibility="private", trigger_mode="always_last", concurrency_limit=None,
    )  # fmt: skip


def work(
    run: Run, files: list[str] | None, folder: str | None, words: str | None, example: str | None, top: int, anew: bool,
    minus: str | None = None,
) -> Outcome:  # fmt: skip
    """Bring the index up to date, then search it."""
    chosen = run.pictures(files, folder)
    searched = chosen.folder if chosen.folder is not None else _gathered(run, chosen)
    called = str(chosen.folder) if chosen.folder is not None else PICTURES
    place: dict[str, Any] = {"device": run.bench.models.device, "model": run.model_name}
    request = SearchIndexRequest(folder=searched, rebuild=anew, **place)
    try:
        indexed = search_index.run(request)
    except DataError as error:
        # Where uploads lie is no use to anybody.
        reason = str(error).replace(f"{searched}/", "").replace(str(searched), called)
        raise DataError(reason) from error
    INDEXES.hold(run.folder.parent, TypedIndex(indexed.index, run.folder.parent / "typed", searched, run.model_name))
    again = [request.replaced(folder=called)]
    left_out_text = could_not_be_read(len(indexed.report.skipped))
    count = number_of(len(indexed.index), "picture")
    asked = example or (words or "").strip()
    if not asked:
        columns, rows = indexed.table()
        left_out_text = f"{len(indexed.index)} pictures are indexed: write what you look for. {left_out_text}"
        counts = table(columns, rows, f"Index of {count}")
        return Outcome(("", counts), again=Equivalent.of(*again), said=left_out_text.strip())
    # Words are words here, whatever files there are on this machine.
    without: dict[str, Any] = {"minus": (minus or "").strip()} if (minus or "").strip() and not example else {}
    query = SearchQueryRequest(
        text_or_image=asked, index=str(searched), text=not example, top=int(top), **without, **place
    )
    run.say("searching")
    result = search_query.run(query)
    name = Path(example).name if example else result.asked
    looks_like_a_file = not example and Path(asked).suffix != ""
    text_or_image = Path(example).name if example else asked
    again.append(query.replaced(text_or_image=text_or_image, index=called, text=looks_like_a_file, model=None))
    measure = result.index.measure
    rows = [(rank, str(hit.path.relative_to(searched)), hit.score) for rank, hit in enumerate(result.hits, 1)]
    cards = [
        GalleryPicture(hit.path, hit.path.name, f"{measure} {hit.score:.2f}", name=name, score=hit.score)
        for hit, (_, name, _) in zip(result.hits, rows, strict=True)
    ]
    return Outcome(
        (
            gallery(cards, "what was found, nearest first", run.folder / "small", score=measure),
            table(("Rank", "Picture", measure), rows, f"{name}: nearest of {count}") + remarks_html(result),
        ),
        files=_files(run.folder, result, rows, name),
        again=Equivalent.of(*again),
        said=left_out_text,
    )


def _typed(index: TypedIndex, words: str, minus: str, top: int, bench: Bench) -> tuple[str, str]:
    """Pictures and table of what is found by words, without a run."""
    import torch

    asked, without = words.strip(), minus.strip() or None
    with torch.no_grad():
        hits = index.index.query(asked, top=top, minus=without)
    measure = index.index.measure
    rows = [(rank, str(hit.path.relative_to(index.root)), hit.score) for rank, hit in enumerate(hits, 1)]
    cards = [
        GalleryPicture(copy, hit.path.name, f"{measure} {hit.score:.2f}", name=picture, score=hit.score)
        for hit, (_, picture, _) in zip(hits, rows, strict=True)
        if (copy := index.copy(hit.path)) is not None
    ]
    name = asked if without is None else f"{asked} without {without}"
    count = number_of(len(index.index), "picture")
    there = [hit.path for hit in hits if hit.path.is_file()]
    remarks = [*correction_of(index.index), *weak_on_photographs(index.model, there)]
    return (
        gallery(cards, "what was found, nearest first", index.next_folder(), score=measure),
        table(("Rank", "Picture", measure), rows, f"{name}: nearest of {count}") + sentences(remarks),
    )


def _gathered(run: Run, chosen: ChosenPictures) -> Path:
    """A folder with the uploads in it, kept as long as the page is open, so that an index of it is as well."""
    key = hashlib.sha256("\n".join(map(str, chosen.paths)).encode()).hexdigest()[:12]
    return gathered(chosen.paths, run.folder.parent / f"searched-{key}")


def _files(folder: Path, result: SearchHits, rows: list[tuple[Any, ...]], name: str) -> list[Path]:
    write_csv(["rank", "image", result.index.measure], rows, folder / "found.csv")
    document = {"query": name, "hits": [{"image": image, "score": score} for _, image, score in rows]}
    write_json(document, folder / "found.json")
    result.write_sheet(folder / "sheet.png")
    return [folder / "found.csv", folder / "found.json", folder / "sheet.png"]


TAB = Tab("Search", "Find pictures by words, or those that are like a picture; they are indexed once.", build, order=20)

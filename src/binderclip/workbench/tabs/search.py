"""Search: pictures of a folder, or those that were dropped, found by words or by a picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks import search_index, search_query
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.verbs.search.request import SearchIndexRequest, SearchQueryRequest
from binderclip.workbench.commands import PICTURES, Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import GalleryPicture
from binderclip.workbench.look import could_not_be_read, gallery, gathered, hint, sentences, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.search.query import SearchHits


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to search in")
            words = gr.Textbox(label="What you look for, in words", placeholder="a red bicycle")
            with gr.Accordion("Or look for what is like a picture", open=False):
                example = gr.File(label="Picture to look for", file_types=["image"], height=110)
            top = control(SearchQueryRequest, "top", maximum=60, value=12)
            anew = control(
                SearchIndexRequest, "rebuild",
                info="for a folder whose index another model made; else it is only brought up to date",
            )  # fmt: skip
            controls = bench.controls("Search")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures, write what you look for, press Search: the nearest ones appear here."))
            gallery_html = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, words, example, top, anew]
    bench.connect(controls, work, inputs, [shown, gallery_html], results, also=[words.submit])


def work(
    run: Run, files: list[str] | None, folder: str | None, words: str, example: str | None, top: int, anew: bool
) -> Outcome:
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
        raise DataError(f"none of the pictures could be read: {reason}") from error
    again = [request.replaced(folder=called)]
    left_out_text = could_not_be_read(len(indexed.report.skipped))
    count = number_of(len(indexed.index), "picture")
    asked = example or words.strip()
    if not asked:
        columns, rows = indexed.table()
        left_out_text = f"{len(indexed.index)} pictures are indexed: write what you look for. {left_out_text}"
        counts = table(columns, rows, f"Index of {count}")
        return Outcome(("", counts), again=Equivalent.of(*again), said=left_out_text.strip())
    # Words are words here, whatever files there are on this machine.
    query = SearchQueryRequest(text_or_image=asked, index=str(searched), text=not example, top=int(top), **place)
    run.say("searching")
    result = search_query.run(query)
    name = Path(example).name if example else asked
    looks_like_a_file = not example and Path(asked).suffix != ""
    again.append(query.replaced(text_or_image=name, index=called, text=looks_like_a_file, model=None))
    measure = result.index.measure
    rows = [(rank, str(hit.path.relative_to(searched)), hit.score) for rank, hit in enumerate(result.hits, 1)]
    cards = [
        GalleryPicture(hit.path, hit.path.name, f"{measure} {hit.score:.2f}", name=name, score=hit.score)
        for hit, (_, name, _) in zip(result.hits, rows, strict=True)
    ]
    return Outcome(
        (
            gallery(cards, "what was found, nearest first", run.folder / "small", score=measure),
            table(("Rank", "Picture", measure), rows, f"{name}: nearest of {count}") + sentences(result.remarks()),
        ),
        files=_files(run.folder, result, rows, name),
        again=Equivalent.of(*again),
        said=left_out_text,
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

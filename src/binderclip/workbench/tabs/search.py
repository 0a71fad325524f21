"""Search: pictures of a folder, or those that were dropped, found by words or by a picture."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.search import INSIDE
from binderclip.workbench.commands import (
    PICTURES,
    Arguments,
    Equivalent,
    device_words,
    model_words,
    python_load,
    shell_line,
)
from binderclip.workbench.look import could_not_be_read, gallery, gathered, hint, small_copy, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.search import Hit, IndexReport

AT_ONCE = 32
"""Pictures that are encoded, and committed, at once."""


def build(bench: Bench) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to search in")
            words = gr.Textbox(label="What you look for, in words", placeholder="a red bicycle")
            with gr.Accordion("Or look for what is like a picture", open=False):
                example = gr.File(label="Picture to look for", file_types=["image"], height=110)
            top = gr.Slider(1, 60, value=12, step=1, label="Pictures to show")
            anew = gr.Checkbox(
                label="Index anew",
                info="for a folder whose index another model made; else it is only brought up to date",
            )
            controls = bench.controls("Search")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures, write what you look for, press Search: the nearest ones appear here."))
            found = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, words, example, top, anew]
    bench.connect(controls, work, inputs, [shown, found], results, also=[words.submit])


def work(
    run: Run, files: list[str] | None, folder: str | None, words: str, example: str | None, top: int, anew: bool
) -> Outcome:
    """Bring the index up to date, then search it."""
    from binderclip.search import SearchIndex

    chosen = run.pictures(files, folder)
    searched = chosen.folder if chosen.folder is not None else _gathered(run, chosen)
    query: Any = Path(example) if example else words.strip()
    clip = run.model()
    index = SearchIndex(searched / INSIDE, clip, rebuild=anew)
    run.say("looking for new pictures")
    report = index.update(
        searched, batch_size=AT_ONCE, progress=lambda done, total: run.progress(done, total, "indexing")
    )
    if not len(index):
        raise DataError(f"none of the pictures could be read: {report.skipped[0][1] if report.skipped else ''}")
    said = could_not_be_read(len(report.skipped))
    if not query:
        said = f"{len(index)} pictures are indexed: write what you look for. {said}"
        return Outcome(("", _report(index, report)), again=_again(run, chosen, None, 0), said=said.strip())
    run.say("searching")
    hits = index.query(query, top=int(top))
    shown = []
    for number, hit in enumerate(hits):
        copy = small_copy(hit.path, run.folder / "small", number)
        if copy is not None:
            shown.append((copy, hit.path.name, f"{index.measure} {hit.score:.2f}"))
    rows = [[rank, str(hit.path.relative_to(searched)), hit.score] for rank, hit in enumerate(hits, 1)]
    asked = query.name if isinstance(query, Path) else query
    return Outcome(
        (
            gallery(shown, "what was found, nearest first"),
            table(
                ("Rank", "Picture", index.measure.capitalize()),
                rows,
                f"{asked}: nearest of {number_of(len(index), 'picture')}",
            ),
        ),
        files=_files(run.folder, hits, searched, asked, index.measure),
        again=_again(run, chosen, query, int(top)),
        said=said,
    )


def _gathered(run: Run, chosen: ChosenPictures) -> Path:
    """A folder with the uploads in it, kept as long as the page is open, so that an index of it is as well."""
    key = hashlib.sha256("\n".join(map(str, chosen.paths)).encode()).hexdigest()[:12]
    return gathered(chosen.paths, run.folder.parent / f"searched-{key}")


def _report(index: Any, report: IndexReport) -> str:
    counts = [[report.added, report.changed, report.unchanged, report.removed, len(report.skipped)]]
    columns = ("Added", "Changed", "Unchanged", "Removed", "Left out")
    return table(columns, counts, f"Index of {number_of(len(index), 'picture')}")


def _files(folder: Path, hits: list[Hit], searched: Path, asked: str, measure: str) -> list[Path]:
    rows = [(str(hit.path.relative_to(searched)), hit.score) for hit in hits]
    write_csv(["rank", "image", measure], [[n, *row] for n, row in enumerate(rows, 1)], folder / "found.csv")
    document = {"query": asked, "hits": [{"image": name, "score": score} for name, score in rows]}
    write_json(document, folder / "found.json")
    there = [(hit.path, hit.path.name, f"{hit.score:.2f}") for hit in hits if hit.path.is_file()]
    contact_sheet(there, folder / "sheet.png", title=asked, columns=5)
    return [folder / "found.csv", folder / "found.json", folder / "sheet.png"]


def _again(run: Run, chosen: ChosenPictures, query: Any, top: int) -> Equivalent:
    """The verb indexes, then asks; where nothing was asked for it indexes alone."""
    where = str(chosen.folder) if chosen.folder is not None else PICTURES
    device = run.bench.models.device
    shell = shell_line("binderclip", "search", "index", Arguments([where]), model_words(run.model_name, device))
    python = "from binderclip.models import load; from binderclip.search import SearchIndex; "
    python += f"m = {python_load(run.model_name, device)}; "
    python += f"i = SearchIndex({f'{where}/{INSIDE}'!r}, m); i.update({where!r})"
    if not query:
        return Equivalent(python, shell)
    asked = query.name if isinstance(query, Path) else query
    shell += " && " + shell_line(
        "binderclip", "search", "query", Arguments([asked]), "--index", where, "--top", top, device_words(device)
    )
    if isinstance(query, Path):
        python = f"from pathlib import Path; {python}; print(i.query(Path({asked!r}), top={top}))"
    else:
        python += f"; print(i.query({asked!r}, top={top}))"
    return Equivalent(python, shell)


TAB = Tab("Search", "Find pictures by words, or those that are like a picture; they are indexed once.", build, order=20)

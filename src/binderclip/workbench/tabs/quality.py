"""Quality: pictures from the worst to the best, by pairs of words or by how far they are from their originals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks import quality
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.quality.request import QualityRequest
from binderclip.tasks.verbs.quality.words import QUALITY
from binderclip.workbench.commands import PICTURES, Equivalent
from binderclip.workbench.fields import control
from binderclip.workbench.grid import GalleryPicture
from binderclip.workbench.look import could_not_be_read, gallery, gathered, hint, left_out, remarks_html, table
from binderclip.workbench.pictures import line_html
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.quality.ranking import Ranking
    from binderclip.tasks.verbs.quality.reference import ReferenceComparison

MOST_SCORES = 7
"""Keywords to tick: the first of `PAIRS`, those that are about the picture and not about what is on it."""
SHOWN, MOST_FAULTY = 48, 300
"""Pictures on the page, and those with a strong fault; the table and the files have all."""
ORIGINALS = "originals"
"""What a line calls a folder of originals that were uploaded."""


def build(bench: Bench) -> None:
    from binderclip.quality import PAIRS

    names = list(PAIRS)[:MOST_SCORES]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to judge")
            by = gr.Dropdown(_orders(names), value=QUALITY, label="Order by")
            with gr.Accordion("Words of your own", open=False):
                better = gr.Textbox(label="Better", placeholder="A straight page.", info="these words then order")
                worse = gr.Textbox(label="Worse", placeholder="A crooked page.")
            with gr.Accordion("Or how far pictures are from their originals", open=False):
                originals = bench.pictures(
                    "Originals, of the same names", folder_label="Or a folder of originals", shared=False
                )
                distance = control(QualityRequest, "distance")
            with gr.Accordion("Further scores, and the size that is looked at", open=False):
                scores = gr.CheckboxGroup(names, value=[QUALITY], label="Scores")
                side = control(
                    QualityRequest, "max_side", minimum=64, maximum=2048, step=64,
                    info="more pixels show finer noise and blur, and take longer",
                )  # fmt: skip
            controls = bench.controls("Judge")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures and press Judge: the worst come first."))
            summary = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, by, scores, better, worse, *originals.inputs, distance, side]
    bench.connect(controls, work, inputs, [shown, summary], results, also=[better.submit, worse.submit])


def _orders(names: Sequence[str]) -> list[tuple[str, str]]:
    """What pictures can be ordered by; what a network measures stands before what is a matter of words."""
    from binderclip.quality.score.damaged_views import FAMILIES

    faults = [(f"{name}, strongest first", name) for name in FAMILIES]
    words = [(f"{name}, by the words of the model", name) for name in names if name != QUALITY]
    return [("quality, all faults together", QUALITY), *faults, *words]


def work(
    run: Run, files: list[str] | None, folder: str | None, by: str, scores: list[str] | None, better: str, worse: str,
    original_files: list[str] | None, original_folder: str | None, distance: str, side: int,
) -> Outcome:  # fmt: skip
    """Rank as the verb does, by words or, where there are originals, by the distance from them."""
    from binderclip.quality import PAIRS

    chosen = run.pictures(files, folder)
    asked: dict[str, Any] = {"max_side": int(side), "device": run.bench.models.device}
    if original_files or original_folder:
        asked["distance"] = distance
        return _compare(run, chosen, run.pictures(original_files, original_folder), asked)
    words = ((better or "").strip(), (worse or "").strip())
    if any(words) and not all(words):
        raise UsageError("give both words of your own, the better and the worse")
    column = by if by in PAIRS else QUALITY  # from which the faults come
    asked |= {"model": run.tower_model, "scores": list(dict.fromkeys([column, *(scores or [])]))}
    asked |= {"pair": words} if any(words) else {"by": by}
    return _rank(run, chosen, asked)


def _rank(run: Run, chosen: ChosenPictures, asked: dict[str, Any]) -> Outcome:
    from binderclip.tasks.verbs.quality.ranking import Ranking

    sheet = run.folder / "sheet.png"
    request = QualityRequest(images=chosen.arguments, sheet=str(sheet), **asked)
    ranking = quality.run(request)
    assert isinstance(ranking, Ranking)
    head, rows = ranking.table()
    names = [chosen.label(Path(key)) for key, _ in ranking.rows]
    rows = [(name, *row[1:]) for name, row in zip(names, rows, strict=True)]
    cards: list[GalleryPicture] = []
    for row, ((key, _), name) in enumerate(zip(ranking.rows, names, strict=True)):
        faulty = ranking.strong_fault(row)
        if row >= SHOWN and (not faulty or len(cards) >= MOST_FAULTY):
            continue
        own = f"{ranking.by} {ranking.score(row):.2f}"
        more = ", ".join(dict.fromkeys(filter(None, (own, ranking.fault(row)))))
        label = (faulty or "no strong fault") if ranking.faults is not None else ""
        cards.append(GalleryPicture(key, name, more, score=ranking.score(row), label=label))
    write_csv(head, rows, run.folder / "scores.csv")
    shown = _strong_faults(ranking) + gallery(cards, "pictures, worst first", run.folder / "small", score=ranking.by)
    again = request.replaced(images=chosen.names(), sheet=None)
    return _outcome(chosen, ranking, shown, rows, [run.folder / "scores.csv", sheet], again)


def _strong_faults(ranking: Ranking) -> str:
    """How many pictures have a fault that is there more likely than not; empty where faults are not known."""
    if ranking.faults is None:
        return ""
    counts = Counter(filter(None, map(ranking.strong_fault, range(len(ranking.rows)))))
    if not counts:
        return line_html("No picture has a strong fault; what comes first has most of the little that there is.")
    each = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    return line_html(f"{number_of(counts.total(), 'picture')} with a strong fault: {each}.")


def _compare(run: Run, chosen: ChosenPictures, originals: ChosenPictures, asked: dict[str, Any]) -> Outcome:
    from binderclip.tasks.verbs.quality.reference import ReferenceComparison

    ours = chosen.folder or gathered(chosen.paths, run.folder / PICTURES)
    theirs = originals.folder or gathered(originals.paths, run.folder / ORIGINALS)
    request = QualityRequest(images=[str(ours)], reference=theirs, **asked)
    done = quality.run(request)
    assert isinstance(done, ReferenceComparison)
    # Where uploads lie is no use to anybody.
    skipped = [(key, why.replace(f"{ours}/", "")) for key, why in done.skipped]
    head, rows = done.table()
    names = [str(Path(key).relative_to(ours)) for key, *_ in done.rows]
    rows = [(name, *row[1:]) for name, row in zip(names, rows, strict=True)]
    cards = [
        card
        for (ours_at, theirs_at, far, _), name in zip(done.rows, names, strict=True)
        for card in ((theirs_at, "original", ""), (ours_at, name, f"{done.distance} {far:.3f}"))
    ][:SHOWN]
    files = [run.folder / "distances.csv", run.folder / "sheet.png"]
    write_csv(head, rows, files[0])
    contact_sheet(cards, files[1], title=f"farthest from the original first, by {done.distance}", columns=4)
    shown = gallery(cards, "originals and pictures, farthest first", run.folder / "small")
    again = request.replaced(images=[chosen.folder or PICTURES], reference=originals.folder or ORIGINALS)
    return _outcome(chosen, replace(done, skipped=skipped), shown, rows, files, again)


def _outcome(
    chosen: ChosenPictures, result: Ranking | ReferenceComparison, shown: str, rows: Sequence[tuple[Any, ...]],
    files: Sequence[Path], again: QualityRequest,
) -> Outcome:  # fmt: skip
    """The pictures, the table and what to know of it."""
    skipped = [*chosen.skipped, *result.skipped]
    ranks = [(rank, *row) for rank, row in enumerate(rows, 1)]
    summary = table(("Rank", "Picture", *result.table()[0][1:]), ranks, result.title)
    summary += remarks_html(result)
    return Outcome((shown, summary + left_out(skipped)), files, Equivalent.of(again), could_not_be_read(len(skipped)))


TAB = Tab("Quality", "Which pictures are bad, worst first; or how far they are from their originals.", build, order=46)

"""Quality: pictures from the worst to the best, by pairs of words or by how far they are from their originals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.writing import write_csv
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.verbs.quality.words import DISTANCES, QUALITY, named_pairs
from binderclip.workbench.commands import (
    PICTURES,
    Arguments,
    Equivalent,
    device_words,
    model_words,
    python_load,
    python_pictures,
    shell_line,
)
from binderclip.workbench.look import could_not_be_read, gallery, gathered, hint, left_out, small_copy, table
from binderclip.workbench.tab import Bench, ChosenPictures, Outcome, Run, Tab

if TYPE_CHECKING:
    from binderclip.tasks.verbs.quality.run import Ranking

MOST_SCORES = 7
"""Keywords to tick: the first of `PAIRS`, those that are about the picture and not about what is on it."""
SHOWN = 24
"""Pictures on the page; the table and the files have all."""
BATCH = 64
SIDE = 768
ORIGINALS = "originals"
"""What a line calls a folder of originals that were uploaded."""


def build(bench: Bench) -> None:
    from binderclip.quality import PAIRS

    names = list(PAIRS)[:MOST_SCORES]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=300):
            pictures = bench.pictures("Pictures to judge")
            by = gr.Dropdown(names, value=QUALITY, label="Order by")
            scores = gr.CheckboxGroup(names, value=[QUALITY], label="Scores")
            with gr.Accordion("Words of your own", open=False):
                better = gr.Textbox(label="Better", placeholder="A straight page.", info="these words then order")
                worse = gr.Textbox(label="Worse", placeholder="A crooked page.")
            with gr.Accordion("Or how far pictures are from their originals", open=False):
                originals = bench.pictures("Originals, of the same names", folder_label="Or a folder of originals")
                distance = gr.Dropdown(list(DISTANCES), value=DISTANCES[0], label="Distance")
            side = gr.Slider(
                64, 2048, value=SIDE, step=64, label="Side that larger pictures are reduced to",
                info="more pixels show finer noise and blur, and take longer",
            )  # fmt: skip
            controls = bench.controls("Judge")
        with gr.Column(scale=3, min_width=320):
            shown = gr.HTML(hint("Drop pictures and press Judge: the worst come first."))
            found = gr.HTML()
            results = bench.results()
    inputs = [*pictures.inputs, by, scores, better, worse, *originals.inputs, distance, side]
    bench.connect(controls, work, inputs, [shown, found], results, also=[better.submit, worse.submit])


def work(
    run: Run,
    files: list[str] | None,
    folder: str | None,
    by: str,
    scores: list[str] | None,
    better: str,
    worse: str,
    original_files: list[str] | None,
    original_folder: str | None,
    distance: str,
    side: int,
) -> Outcome:
    """Rank as the verb does, by words or, where there are originals, by the distance from them."""
    chosen = run.pictures(files, folder)
    if original_files or original_folder:
        return _compare(run, chosen, run.pictures(original_files, original_folder), distance, int(side))
    words = ((better or "").strip(), (worse or "").strip())
    if any(words) and not all(words):
        raise UsageError("give both words of your own, the better and the worse")
    own = [words] if any(words) else []
    ticked = list(dict.fromkeys([by, *(scores or [])]))
    return _rank(run, chosen, named_pairs(",".join(ticked), own), own[0][0] if own else by, own, int(side))


def _rank(
    run: Run, chosen: ChosenPictures, columns: dict[str, tuple[str, str]], by: str, own: Sequence[tuple[str, str]],
    side: int,
) -> Outcome:  # fmt: skip
    from binderclip.tasks.verbs.quality.run import ranked, write_sheet

    run.say(f"loading {run.chosen('small')}")
    count = len(chosen.paths)
    ranking = ranked(
        run.tower_model, chosen.paths, columns, by, weights=None, longest=side, device=run.bench.models.device,
        dtype="float32", batch_size=BATCH, progress=lambda done: run.progress(done, count, "judging"),
    )  # fmt: skip
    skipped = [*chosen.skipped, *ranking.skipped]
    if not ranking.rows:
        raise DataError(f"none of the pictures could be read: {skipped[0][1]}")
    run.say("drawing")
    named = [(chosen.label(Path(key)), *ranking.cells(row)) for row, (key, _) in enumerate(ranking.rows)]
    files = [run.folder / "scores.csv", run.folder / "sheet.png"]
    write_csv(("image", *ranking.head), named, files[0])
    write_sheet(ranking, files[1])
    place = ranking.columns.index(by)
    cards = [
        (key, str(name), ", ".join(filter(None, (f"{by} {values[place]:.2f}", ranking.fault(row)))))
        for row, ((key, values), (name, *_)) in enumerate(zip(ranking.rows, named, strict=True))
    ]
    said = table(
        ("Rank", "Picture", *ranking.head),
        [(rank, *row) for rank, row in enumerate(named, 1)],
        f"{number_of(len(named), 'picture')}, worst first by {by}; model {ranking.model}",
    )
    said += "".join(f"<p>{line}</p>" for line in _limits(ranking))
    return Outcome(
        (_pictures(run, cards, "pictures, worst first"), said + left_out(skipped)),
        files,
        _again(run, chosen, ranking, own, side),
        could_not_be_read(len(skipped)),
    )


def _limits(ranking: Ranking) -> list[str]:
    """What a reader must know of the scores."""
    said = []
    if ranking.tuned is not None:
        said.append(
            f"quality comes from {ranking.tuned}, which learned on photographs that were damaged for it how strong a "
            "fault is, and knows nothing of taste."
        )
    if ranking.reduced:
        said.append(f"{number_of(ranking.reduced, 'picture')} reduced to {ranking.longest} px, which hides fine noise.")
    if ranking.model == "small" and set(ranking.columns) - {QUALITY}:
        said.append(
            "The other columns are the words of small, which knows them hardly at all on photographs (p012): a real "
            "checkpoint such as open_clip:RN50/openai, at the top of the page, knows them."
        )
    return said


def _compare(run: Run, chosen: ChosenPictures, originals: ChosenPictures, distance: str, side: int) -> Outcome:
    from binderclip.tasks.verbs.quality.reference import COLUMNS, compared, partners

    ours = chosen.folder or gathered(chosen.paths, run.folder / PICTURES)
    theirs = originals.folder or gathered(originals.paths, run.folder / ORIGINALS)
    paths = chosen.paths if chosen.folder else sorted(ours.iterdir())
    pairs = partners(paths, [str(ours)], theirs)
    run.say("loading lite0")
    done = compared(
        pairs, distance, weights=None, longest=side, device=run.bench.models.device,
        progress=lambda number: run.progress(number, len(pairs), "comparing"),
    )  # fmt: skip
    # Where uploads lie is no use to anybody.
    skipped = [*chosen.skipped, *((key, why.replace(f"{ours}/", "")) for key, why in done.skipped)]
    if not done.rows:
        raise DataError(f"no picture could be compared: {skipped[0][1]}")
    rows = [(str(Path(key).relative_to(ours)), far, psnr) for key, _, far, psnr in done.rows]
    files = [run.folder / "distances.csv", run.folder / "sheet.png"]
    write_csv(("image", *COLUMNS), rows, files[0])
    cards = [
        card
        for (ours_at, theirs_at, *_), (name, far, _) in zip(done.rows, rows, strict=True)
        for card in ((theirs_at, "original", ""), (ours_at, name, f"{distance} {far:.3f}"))
    ][: 2 * SHOWN]
    contact_sheet(cards, files[1], title=f"farthest from the original first, by {distance}", columns=4)
    said = table(
        ("Rank", "Picture", distance, "PSNR (dB)"),
        [(rank, *row) for rank, row in enumerate(rows, 1)],
        f"{number_of(len(rows), 'picture')}, farthest from the original first",
    )
    if done.reduced:
        said += f"<p>{number_of(done.reduced, 'pair')} reduced to {side} px before the comparison.</p>"
    return Outcome(
        (_pictures(run, cards, "originals and pictures, farthest first"), said + left_out(skipped)),
        files,
        _compared_again(run, chosen, originals, distance, side),
        could_not_be_read(len(skipped)),
    )


def _pictures(run: Run, cards: Sequence[tuple[str, str, str]], name: str) -> str:
    shown = []
    for number, (path, said, more) in enumerate(cards[: 2 * SHOWN]):
        copy = small_copy(path, run.folder / "small", number)
        if copy is not None:
            shown.append((copy, said, more))
    return gallery(shown, name)


def _again(run: Run, chosen: ChosenPictures, ranking: Ranking, own: Sequence[tuple[str, str]], side: int) -> Equivalent:
    device = run.bench.models.device
    words = [name for name in ranking.columns if name not in {better for better, _ in own}]
    shell = shell_line(
        "binderclip", "quality", Arguments(chosen.names()), "--scores", ",".join(words),
        [word for pair in own for word in ("--pair", *pair)], ["--by", ranking.by] if not own else None,
        ["--max-side", side] if side != SIDE else None, model_words(run.tower_model, device, "small"),
    )  # fmt: skip
    called, needed = python_pictures(chosen)
    if ranking.by == QUALITY and ranking.tuned is not None:
        needed += "from binderclip.quality import BlindQuality; "
        metric = f"BlindQuality.from_weights(longest={side}, device={device!r})"
    else:
        needed += "from binderclip.models import load; from binderclip.quality import PromptQuality; "
        pair = named_pairs(",".join(words), own)[ranking.by]
        metric = f"PromptQuality({python_load(run.chosen('small'), device)}, { ({ranking.by: pair})!r}, longest={side})"
    python = f"{needed}q = {metric}.score_files({called}); print(sorted(zip(q.total.tolist(), q.keys)))"
    return Equivalent(python, shell)


def _compared_again(
    run: Run, chosen: ChosenPictures, originals: ChosenPictures, distance: str, side: int
) -> Equivalent:
    device = run.bench.models.device
    ours, theirs = str(chosen.folder or PICTURES), str(originals.folder or ORIGINALS)
    shell = shell_line(
        "binderclip", "quality", Arguments([ours]), "--reference", theirs,
        ["--distance", distance] if distance != DISTANCES[0] else None, ["--max-side", side] if side != SIDE else None,
        device_words(device),
    )  # fmt: skip
    python = (
        "from pathlib import Path; from binderclip.data import list_images; "
        "from binderclip.tasks.verbs.quality.reference import compared, partners; "
        f"pairs = partners(list_images({ours!r}), [{ours!r}], Path({theirs!r})); "
        f"print(compared(pairs, {distance!r}, weights=None, longest={side}, device={device!r}, "
        "progress=lambda done: None).rows)"
    )
    return Equivalent(python, shell)


TAB = Tab("Quality", "Which pictures are bad, worst first; or how far they are from their originals.", build, order=46)

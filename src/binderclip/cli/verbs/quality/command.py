"""`binderclip quality`: which pictures are bad, by pairs of words; and how far two folders are apart."""

from __future__ import annotations

from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.options import BatchSize, Device, Dtype, Images, Json, Model
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import batches
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT, picture_path, writable_path
from binderclip.tasks.files.writing import short_path, write_csv
from binderclip.tasks.report.photographs import BLIND_TO_FAULTS, note_weak_on_photographs
from binderclip.tasks.verbs.quality.words import AT_FIRST, DISTANCES, LEARNED, QUALITY, named_pairs, pairs_of

if TYPE_CHECKING:
    from binderclip.tasks.verbs.quality.run import Ranking, SetDistances

SHOWN = 20
"""Rows of the table on the screen; the CSV has all."""
AT_CHANCE = "does not know what these words mean on photographs, so the order is near chance (p012)"


def quality(
    images: Images,
    scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            help=f"Columns: `quality`, `sharpness`, ..., separated by commas [default: {AT_FIRST}; {QUALITY} alone "
            "where the model does not know the words].",
        ),
    ] = None,
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option("--pair", metavar="BETTER WORSE", help='Words of your own: `"Sharp photo." "Blurry photo."`.'),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="More of them: a text file, `BETTER | WORSE` in every line.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            help="What `BlindQuality`, `QualiCLIP` or `CLIPIQAPlus` has fitted: one more column. With --reference of "
            "`LPIPS`, or an authors' file of ST-LPIPS."
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="The column that orders [default: your own words, or the first of --scores].")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare the whole folder with this one instead: CMMD and Fréchet distance.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(help="Originals, a folder or a file: rank pictures by how far they are from that of their name."),
    ] = None,
    distance: Annotated[
        str, typer.Option(help="With --reference, both on `lite0`: `st-lpips`, or `lpips` without its blur.")
    ] = "st-lpips",
    sheet: Annotated[
        str | None, typer.Option(help="A contact sheet from the worst to the best: `worst.png`."), OUTPUT
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="All scores as a table, worst first."), OUTPUT] = None,
    max_side: Annotated[
        int, typer.Option(min=32, max=16_384, help="Larger pictures are reduced to this; others stay as they are.")
    ] = 768,
    model: Model = "small",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Rank pictures from the worst to the best by pairs of words, such as "Sharp photo." and "Blurry photo.".

    Examples:

        binderclip quality holiday/ --sheet worst.png --csv scores.csv

        binderclip quality scans/ --pair "A straight page." "A crooked page." -m open_clip:ViT-B-32/openai

        binderclip quality made/ --against real/

        binderclip quality compressed/ --reference originals/

    A score is the chance of the better end of its pair, 0 to 1; all pairs cost one pass of the model. With `small`,
    `small-b` and `everyday` the column `quality` comes from `lite0-quality`, which learned what faults of photographs
    look like; the last column names the strongest one: blur, noise, compression, exposure. A picture that cannot be
    read is left out and named.
    """
    given: dict[str, object]
    if against is not None:
        given = {"--reference": reference, "--pair": pair, "--pairs": pairs, "--weights": weights, "--by": by}
        given |= {"--sheet": sheet, "--csv": csv}
        if wrong := next((name for name, value in given.items() if value), None):
            raise UsageError(f"{wrong} is about single pictures and does not go with --against, which compares folders")
        _folders(images, against, model, device, dtype, batch_size, json)
        return
    if reference is not None:
        given = {"--pair": pair, "--pairs": pairs, "--by": by}
        if wrong := next((name for name, value in given.items() if value), None):
            raise UsageError(f"{wrong} is about words and does not go with --reference, which compares with originals")
        _originals(images, reference, distance, weights, sheet, csv, max_side, device, json)
        return
    own = [*([pair] if pair else []), *(pairs_of(pairs) if pairs else [])]
    known = scores if scores is not None else QUALITY if model in BLIND_TO_FAULTS else AT_FIRST
    columns = named_pairs(known, own)
    names = [*columns, *([LEARNED] if weights else [])]
    order = by if by is not None else LEARNED if weights else own[0][0] if own else names[0]
    if order not in names:
        raise UsageError(f"--by {order!r} is no column: one of {', '.join(names)}")
    found = find_images(images)
    sheet_path = picture_path(sheet) if sheet else None
    csv_path = writable_path(csv, columns=("image", *names)) if csv else None
    from binderclip.tasks.verbs.quality.run import ranked

    with stages("loading the model"):
        step, count = batches("picture"), len(found.paths)
        ranking = ranked(
            model, found.paths, columns, order, weights=weights, longest=max_side, device=device, dtype=dtype,
            batch_size=batch_size, progress=lambda done: step(done, count),
        )  # fmt: skip
    _show(ranking, columns, json, sheet_path, csv_path)
    if not json and ranking.rows and ranking.tuned is not None:
        words = [column for column in named_pairs(known, ()) if column != QUALITY]
        note(
            f"{QUALITY} comes from {ranking.tuned}, which learned on photographs that were damaged for it how strong a "
            "fault is"
            + (f"; {', '.join(words)}: words of {ranking.model}, near chance on photographs (p012)" if words else "")
        )
    if not json and ranking.rows and ranking.by != LEARNED and not (ranking.by == QUALITY and ranking.tuned):
        keys = [key for key, _ in ranking.rows]
        if ranking.by in named_pairs(known, ()):
            note_weak_on_photographs(ranking.model, keys, weakness=AT_CHANCE, real="open_clip:RN50/openai")
        else:
            note_weak_on_photographs(ranking.model, keys)
    if csv_path is not None:
        rows = [(key, *ranking.cells(row)) for row, (key, _) in enumerate(ranking.rows)]
        write_csv(("image", *ranking.head), rows, csv_path)
    if sheet_path is not None and ranking.rows:
        from binderclip.tasks.verbs.quality.run import write_sheet

        note(f"sheet {sheet_path}{write_sheet(ranking, sheet_path)}")
    if not ranking.rows:
        raise typer.Exit(1)
    raise typer.Exit(found.exit_code(ranking.skipped))


def _show(
    ranking: Ranking, pairs: dict[str, tuple[str, str]], json: bool, sheet: Path | None, csv: Path | None
) -> None:
    if json:
        print_json(
            {
                "model": ranking.model, "by": ranking.by, "pairs": pairs, "quality_weights": ranking.tuned,
                "reduced": ranking.reduced,
                "images": [
                    {"image": key, "scores": dict(zip(ranking.columns, values, strict=True))}
                    | ({} if ranking.faults is None else {"faults": ranking.faults[row]})
                    for row, (key, values) in enumerate(ranking.rows)
                ],
                "skipped": [{"image": key, "reason": reason} for key, reason in ranking.skipped],
                "sheet": sheet if ranking.rows else None, "csv": csv,
            }
        )  # fmt: skip
    elif ranking.rows:
        count = len(ranking.rows)
        part = f", the worst {SHOWN} of them" if count > SHOWN else ""
        print_table(
            f"{number_of(count, 'image')}, worst first by {ranking.by}{part}; model {ranking.model}",
            ("image", *ranking.head),
            [(short_path(key), *ranking.cells(row)) for row, (key, _) in enumerate(ranking.rows[:SHOWN])],
        )
        if ranking.reduced:
            note(
                f"{number_of(ranking.reduced, 'picture')} reduced to {ranking.longest} px before the look, which "
                "hides fine noise and slight blur: --max-side sees more, and takes longer"
            )
    warn_skipped(ranking.skipped)


def _folders(
    images: list[str], against: Path, model: str, device: str, dtype: str, batch_size: int, json: bool
) -> None:
    ours, theirs = find_images(images), find_images([str(against)])
    from binderclip.tasks.verbs.quality.run import distances

    with stages("loading the model"):
        step, count = batches("picture"), len(ours.paths) + len(theirs.paths)
        found: SetDistances = distances(
            model, ours.paths, theirs.paths, device=device, dtype=dtype, batch_size=batch_size,
            progress=lambda done: step(done, count),
        )  # fmt: skip
    if json:
        print_json(found.as_dict())
    else:
        rows = []
        for score in found.scores:
            interval = "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
            rows.append((score.name, score.value, interval, "" if score.p_value is None else f"{score.p_value:.3f}"))
        title = f"{number_of(found.scores[0].n_fake, 'picture')} against {found.scores[0].n_real}; {found.embedding}"
        print_table(title, ("distance", "value", "95 % interval", "p, if both were alike"), rows)
    warn_skipped(found.skipped)
    raise typer.Exit(max(ours.exit_code(found.skipped), theirs.exit_code(found.skipped)))


def _originals(
    images: list[str], reference: Path, distance: str, weights: Path | None, sheet: str | None, csv: Path | None,
    max_side: int, device: str, json: bool,
) -> None:  # fmt: skip
    if distance not in DISTANCES:
        raise UsageError(f"--distance {distance!r} is unknown: one of {', '.join(DISTANCES)}")
    found = find_images(images)
    sheet_path = picture_path(sheet) if sheet else None
    from binderclip.tasks.verbs.quality.reference import COLUMNS, compared, partners

    csv_path = writable_path(csv, columns=("image", "reference", *COLUMNS)) if csv else None
    pairs = partners(found.paths, images, reference)
    with stages("loading lite0"):
        step = batches("picture")
        done = compared(
            pairs, distance, weights=weights, longest=max_side, device=device,
            progress=lambda number: step(number, len(pairs)),
        )  # fmt: skip
    name = "the weights given" if weights else distance
    if json:
        rows = [
            {"image": a, "reference": b, "distance": d, "psnr": None if isinf(p) else p} for a, b, d, p in done.rows
        ]
        skipped = [{"image": key, "reason": reason} for key, reason in done.skipped]
        print_json({"distance": name, "reduced": done.reduced, "images": rows, "skipped": skipped})
    elif done.rows:
        print_table(
            f"{number_of(len(done.rows), 'picture')}, farthest from the original first by {name}",
            ("image", *COLUMNS),
            [(short_path(key), d, p) for key, _, d, p in done.rows[:SHOWN]],
        )
        if done.reduced:
            note(f"{number_of(done.reduced, 'pair')} reduced to {max_side} px before the comparison: --max-side")
    warn_skipped(done.skipped)
    if csv_path is not None:
        write_csv(("image", "reference", *COLUMNS), done.rows, csv_path)
    if sheet_path is not None and done.rows:
        from binderclip.tasks.report.sheet import contact_sheet

        cards = [card for a, b, d, _ in done.rows[:30] for card in ((b, "original", ""), (a, Path(a).name, f"{d:.3f}"))]
        contact_sheet(cards, sheet_path, title=f"farthest from the original first, by {name}")
        note(f"sheet {sheet_path}")
    raise typer.Exit(1 if not done.rows else found.exit_code(done.skipped))


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(quality)

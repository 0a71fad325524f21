"""What `binderclip anomaly` does: pictures scored in batches, the truth measured where there is one, files written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from binderclip.cli.shared.inputs import note_left_out, output_names
from binderclip.cli.shared.output import note, print_json, print_table, short_path, warn_skipped, write_array, write_csv
from binderclip.cli.shared.outputs import output_folder, writable_path, writable_paths
from binderclip.cli.shared.photographs import note_weak_on_photographs
from binderclip.cli.shared.progress import stages, time_left
from binderclip.cli.verbs.anomaly.inspection import AnomalyRequest, Inspection, figures
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    from binderclip.data import Inspected, InspectionFolder
    from binderclip.segment.metrics.anomaly import AnomalyScore

BATCH = 16
SHOWN = 10
TABLE = "scores.csv"
COLUMNS = ("image", "score", "p", "kind", "damaged")
FAILED = 3
"""Exit code where a picture is at or above --threshold: told apart from an error, which is 1."""


def carry_out(
    request: AnomalyRequest, spoken: Callable[[str], AbstractContextManager[Callable[[str], None]]]
) -> tuple[Inspection, Path, Path]:
    """Score, measure and write; what was found, the folder of the results, and the report.

    Args:
        request: the options.
        spoken: `stages`, or what says what is being done elsewhere.

    Raises:
        UsageError: options that do not fit together.
        DataError: no picture can be read, or a file cannot be written.
    """
    from binderclip.data import InspectionFolder

    if request.method != "auto":
        check_options(request)
    results = output_folder(request.out, make=False)
    note_left_out(request.folder, results)
    folder = InspectionFolder(request.folder, without=results)
    normal = _normal(request, folder)
    request = settled(request, bool(normal))
    check_options(request)
    _check_files(request, folder, results)
    with spoken("loading the model") as say:
        detector = _detector(request, normal, say)
        out = output_folder(request.out)
        done = _inspected(request, detector, folder, normal, say)
        done.threshold = _threshold(request, done)
        if folder.labelled:
            say("measuring")
            done.score, done.masks = _measured(done)
        say("drawing the overlays")
        _write(done, request, out)
        from binderclip.cli.verbs.anomaly.report import write_report

        say("writing the report")
        report = write_report(done, request, out / "report.html")
    return done, out, report


def _check_files(request: AnomalyRequest, folder: InspectionFolder, out: Path) -> None:
    """Refuse results that would replace what is none of ours, whichever pictures get an overlay in the end.

    Raises:
        UsageError: names the first of them.
    """
    paths = [entry.path for entry in folder.pictures]
    names = output_names(paths, folder.root)
    writable_paths([out / "report.html", *(out / f"{name}-anomaly.png" for name in names)], sources=paths)
    if request.npy:
        writable_paths([out / f"{name}.npy" for name in names], beside=out / TABLE, columns=COLUMNS)
    if (out / TABLE).exists():
        writable_path(out / TABLE, columns=COLUMNS)


def inspect(request: AnomalyRequest) -> int:
    """Score, measure, write and say; the exit code."""
    done, out, report = carry_out(request, stages)
    request = done.request
    _say(done, request, out, report)
    if not request.json:
        note_weak_on_photographs(request.model, [entry.path for entry in done.pictures])
    warn_skipped(done.skipped)
    return FAILED if done.failed() else 0


def _normal(request: AnomalyRequest, folder: InspectionFolder) -> list[Path]:
    """The normal pictures to compare with."""
    from binderclip.data.labelled.inspection_folder import spread_choice

    if request.normal is None:
        paths = folder.normal
    elif request.normal == "none":
        paths = []
    else:
        from binderclip.data import list_images

        place = Path(request.normal)
        if not place.is_dir():
            raise UsageError(f"--normal {place}: there is no such folder; `none` compares with words alone")
        paths = list_images(place, without=request.out)
        if not paths:
            raise DataError(f"--normal {place}: no images in it")
    chosen = spread_choice(paths, request.shots)
    if len(chosen) < len(paths):
        note(f"{len(chosen)} of {len(paths)} normal pictures are used (--shots)")
    # Compared with itself a picture is always normal.
    if out := folder.leave_out(chosen):
        note(f"{out} of the inspected pictures serve as normal ones and are not scored")
    if not len(folder):
        raise UsageError(f"--normal {request.normal}: all pictures of {folder.root} serve as normal ones; none is left")
    return chosen


def settled(request: AnomalyRequest, normal: bool) -> AnomalyRequest:
    """The request with a method and a model in the place of `auto`.

    With normal pictures `patchcore`: over the example wall and five sets of textile, bricks and gravel it has a mean
    image AUROC of 0.76 (winclip 0.72), and of planted defects it says better where, on all four of them. Without them,
    with phrases or windows of one's own, and for an image-text model, `winclip`.

    Args:
        request: the options.
        normal: whether there are normal pictures.
    """
    method = request.method
    if method == "auto":
        wordy = request.state or request.sound or request.scales is not None or not request.words
        method = "patchcore" if normal and not wordy and _is_classifier(request.model) else "winclip"
    model = default_model(method) if request.model == "auto" else request.model
    return replace(request, method=method, model=model)


def _is_classifier(model: str) -> bool:
    """Whether a model is one that `patchcore` stands on; `auto` is."""
    from binderclip.models.files.folders import bundled_of, folder_kind

    if model == "auto" or model in bundled_of("classifier"):
        return True
    return Path(model).is_dir() and folder_kind(model) == "classifier"


def default_model(method: str) -> str:
    """What a method stands on where no model is given."""
    return "lite0" if method in ("patchcore", "padim") else "small"


def check_options(request: AnomalyRequest) -> None:
    """Options that need neither pictures nor a model.

    Raises:
        UsageError: an unknown method, or an option that is another method's.
    """
    from binderclip.segment.anomaly import BASELINES, METHODS

    if request.method not in {**METHODS, **BASELINES}:
        there = ", ".join(["auto", *METHODS, *BASELINES])
        raise UsageError(f"--method {request.method!r} is unknown; there are {there}")
    if request.threshold == "normal" and request.method == "clap":
        raise UsageError(
            "--threshold normal scores each normal picture without itself, which clap cannot: give a number"
        )
    if request.method in BASELINES:
        others = {"--state": request.state, "--sound": request.sound, "--scales": request.scales,
                  "--steps": request.steps, "--no-words": not request.words}  # fmt: skip
        if given := [option for option, value in others.items() if value]:
            raise UsageError(f"{given[0]}: {request.method} has neither words nor training")
        return
    if request.method == "winclip":
        if request.steps is not None:
            raise UsageError("--steps are those of clap's training; winclip trains nothing")
        if request.seed is not None:
            raise UsageError("--seed is that of clap's training; winclip draws nothing")
        return
    if request.scales is not None:
        raise UsageError(f"--scales are winclip's windows; {request.method} has none")
    if not request.words:
        raise UsageError("--no-words is winclip's")


def _detector(request: AnomalyRequest, normal: Sequence[Path], say: Callable[[str], None]) -> Any:
    """The detector of the request, what it needs checked before the model is loaded.

    Raises:
        UsageError: no normal pictures for what compares with them alone.
    """
    from binderclip.models import load, load_vision
    from binderclip.segment.anomaly import BASELINES, METHODS

    learns = request.method != "winclip"
    if learns and not normal:
        raise UsageError(f"{request.method} learns from normal pictures: give --normal FOLDER with some")
    if not request.words and not normal:
        raise UsageError("--no-words compares with normal pictures alone: give --normal FOLDER with some")
    options: dict[str, Any] = {"size": request.size}
    if request.method in BASELINES:
        backbone = load_vision(request.model, device=request.device, dtype=request.dtype)
        return BASELINES[request.method](backbone, seed=request.seed or 0, **options)
    if request.state:
        options["anomalous"] = request.state
    if request.sound:
        options["normal"] = request.sound
    if learns:
        options |= {key: v for key, v in (("seed", request.seed), ("steps", request.steps)) if v is not None}
    else:
        options |= {"scales": (2, 3) if request.scales is None else request.scales, "words": request.words}
    clip = load(request.model, device=request.device, dtype=request.dtype)
    say("reading the words")
    return METHODS[request.method](clip, request.name, **options)


def _inspected(
    request: AnomalyRequest, detector: Any, folder: InspectionFolder, normal: Sequence[Path], say: Callable[[str], None]
) -> Inspection:
    import torch

    from binderclip.segment.anomaly import BASELINES, Anomalies

    held, used, skipped = None, list[Path](), list[tuple[str, str]]()
    if normal:
        say(f"{len(normal)} normal pictures")
        used, opened, skipped = _opened(normal)
        if not used:
            raise DataError(f"none of {len(normal)} normal pictures could be read: {skipped[0][1]}")
        if request.method == "clap":
            say("clap trains its restorer")
            note(f"{request.method} trains its restorer (normal pictures: {len(used)}); on a processor this takes long")
            detector.fit(opened)
        else:
            levels = detector.encode(opened)
            detector.fit(levels)
            if len(used) > (detector.least if request.method in BASELINES else 1):
                say("each normal picture against the others")
                held = detector.score(levels, without=torch.arange(len(used))).scores.cpu()
    kept: list[Inspected] = []
    parts = []
    skipped = [*folder.skipped, *skipped]
    began = time.monotonic()
    for entries, opened in _batches(folder.pictures, skipped):
        say(f"picture {len(kept) + 1} of {len(folder.pictures)}{time_left(began, len(kept), len(folder.pictures))}")
        kept += entries
        parts.append(detector(opened))
    if not kept:
        raise DataError(f"of {number_of(len(folder), 'picture')} none could be read: {skipped[-1][1]}")
    found = Anomalies(torch.cat([p.scores for p in parts]).cpu(), torch.cat([p.maps for p in parts]).cpu())
    return Inspection(request, folder, kept, found, used, held, skipped)


def _threshold(request: AnomalyRequest, done: Inspection) -> float | None:
    """The score at which a picture fails.

    Raises:
        UsageError: `normal` with too few normal pictures.
    """
    if request.threshold != "normal":
        return None if request.threshold is None else float(request.threshold)
    if done.held is None:
        raise UsageError(
            "--threshold normal needs normal pictures that can be held against each other: --normal FOLDER"
        )
    # Above every normal picture: the least number larger than the largest.
    return math.nextafter(float(done.held.double().max()), math.inf)


def _opened(paths: Sequence[Path]) -> tuple[list[Path], list[Any], list[tuple[str, str]]]:
    from binderclip.data import open_image

    kept, opened, skipped = [], [], []
    for path in paths:
        try:
            opened.append(open_image(path))
            kept.append(path)
        except DataError as error:
            skipped.append((str(path), str(error)))
    return kept, opened, skipped


def _batches(
    pictures: Sequence[Inspected], skipped: list[tuple[str, str]]
) -> Iterator[tuple[list[Inspected], list[Any]]]:
    for first in range(0, len(pictures), BATCH):
        some = {entry.path: entry for entry in pictures[first : first + BATCH]}
        kept, opened, bad = _opened(list(some))
        skipped += bad
        if kept:
            yield [some[path] for path in kept], opened


def _measured(done: Inspection) -> tuple[AnomalyScore | None, int]:
    """Scores against the truth, and how many pictures have masks; pixels count where all of a picture's are known."""
    import torch

    from binderclip.data.labelled.inspection_folder import read_mask
    from binderclip.segment.metrics.anomaly import ScoreStore

    low, high = float(done.found.maps.min()), float(done.found.maps.max())
    # Probabilities have limits of their own; distances are as large as they are.
    room = 1e-4 * (high - low) + 1e-6  # resizing rounds
    limits = (0.0, 1.0) if low >= 0 and high <= 1 else (low - room, high + room)
    store, masks = ScoreStore(bins=2**16, limits=limits), 0
    with_masks = any(entry.mask is not None for entry in done.pictures)
    for row, entry in enumerate(done.pictures):
        if entry.damaged is None:
            continue
        label, value = torch.tensor(entry.damaged), done.found.scores[row]
        if not with_masks or (entry.damaged and entry.mask is None):
            store.update(scores=value, labels=label)
            continue
        size = _size(entry.path)
        try:
            truth = torch.zeros(size, dtype=torch.bool) if entry.mask is None else read_mask(entry.mask, size)
        except DataError as error:
            done.skipped.append((str(entry.mask), f"{error}; its pixels are not measured"))
            store.update(scores=value, labels=label)
            continue
        masks += int(entry.mask is not None)
        store.update(done.found.maps_at(size, row)[0], truth, scores=value, labels=label)
    return (store.compute() if store.scores else None), masks


def _size(path: Path) -> tuple[int, int]:
    from binderclip.data import open_image

    picture = open_image(path)
    return picture.height, picture.width


def _write(done: Inspection, request: AnomalyRequest, out: Path) -> None:
    """scores.csv, overlays, and maps."""
    names = output_names([entry.path for entry in done.pictures], done.folder.root)
    limits = done.found.limits()
    from binderclip.cli.shared.sheet import save_picture

    for row in done.order()[: request.most]:
        path = out / f"{names[row]}-anomaly.png"
        done.overlays[row] = save_picture(done.found.overlay(done.pictures[row].path, row, limits=limits), path)
    rows = []
    for row in done.order():
        entry, chance = done.pictures[row], done.chance(row)
        p = "" if chance is None else f"{chance:.4f}"
        damaged = "" if entry.damaged is None else int(entry.damaged)
        cells = [entry.path, f"{float(done.found.scores[row]):.6f}", p, entry.kind, damaged]
        rows.append([*cells, *([done.verdict(row)] * (done.threshold is not None))])
    write_csv([*COLUMNS, *(["result"] * (done.threshold is not None))], rows, out / TABLE)
    if request.npy:
        import numpy as np

        for row, entry in enumerate(done.pictures):
            values = done.found.maps_at(_size(entry.path), row)[0].numpy().astype(np.float32)
            write_array(values, out / f"{names[row]}.npy")


def _say(done: Inspection, request: AnomalyRequest, out: Path, report: Path) -> None:
    rows = done.order()
    if request.json:
        print_json(
            {
                "folder": done.folder.root,
                "method": request.method,
                "model": request.model,
                "normal": done.normal,
                "images": [
                    {
                        "image": done.pictures[row].path,
                        "score": float(done.found.scores[row]),
                        "p": done.chance(row),
                        "kind": done.pictures[row].kind,
                        "damaged": done.pictures[row].damaged,
                        "overlay": done.overlays.get(row),
                        **({} if done.threshold is None else {"fails": done.fails(row)}),
                    }
                    for row in rows
                ],
                "measured": None if done.score is None else figures(done.score),
                "masks": done.masks,
                "threshold": done.threshold,
                "failed": None if done.threshold is None else done.failed(),
                "skipped": [{"image": key, "reason": reason} for key, reason in done.skipped],
                "report": report,
            }
        )
        return
    against = f"{len(done.normal)} normal pictures" if done.normal else "words alone"
    columns = [
        "image",
        "score",
        *(["p"] if done.held is not None else []),
        *(["known"] if done.folder.labelled else []),
        *(["result"] if done.threshold is not None else []),
    ]
    shown = []
    for row in rows[:SHOWN]:
        cells: list[Any] = [short_path(done.pictures[row].path), float(done.found.scores[row])]
        cells += [done.chance(row)] * (done.held is not None) + [done.label(row)] * done.folder.labelled
        cells += [done.verdict(row)] * (done.threshold is not None)
        shown.append(cells)
    print_table(
        f"{short_path(done.folder.root)}: the {len(shown)} most anomalous of {number_of(len(rows), 'picture')}, "
        f"{request.method}, {request.model}, {against}",
        columns,
        shown,
    )
    if done.score is not None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in figures(done.score).items())
        masks = f" ({number_of(done.masks, 'mask')})" if done.masks else ""
        typer.echo(f"{values}{masks}" if values else "only one kind of picture: nothing to measure")
    if done.threshold is not None:
        typer.echo(
            f"{done.failed()} of {number_of(len(rows), 'picture')} failed, with a score "
            f"at or above {done.threshold:.4g}"
        )
    typer.echo(f"report {report}")

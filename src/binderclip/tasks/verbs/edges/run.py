"""What `edges` does: a map for every picture, a sheet, a table, and scores against true edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from binderclip.data import list_images, open_image, to_tensor
from binderclip.data.windows import WindowGrid
from binderclip.errors import DataError, UsageError, require
from binderclip.evaluate import EdgeScores, edge_f_measure
from binderclip.files import why_no_folder
from binderclip.models.files.devices import resolve_device
from binderclip.tasks.events import Saved, counted, emit, start
from binderclip.tasks.files.inputs import find_images, output_names, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path, writable_paths
from binderclip.tasks.files.results import saying_what_is_kept
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.sheet import contact_sheet, save_picture
from binderclip.tasks.verbs.edges.request import EdgesRequest
from binderclip.tasks.verbs.edges.result import COLUMNS, FolderEdges, PictureEdges
from binderclip.vision import canny_levels, load_edge_network, sobel_map, thin_edges

SHEET, TABLE, RECORD = "sheet.png", "edges.csv", "edges.json"
PAIRS = 12
"""Pictures on the sheet, each beside its map."""
BRIGHT = 0.99
"""Quantile of a map from which on it is white."""
WHITE = 128
"""Value of 255 from which a pixel of a true map is an edge."""

THRESHOLDS = {"canny": 0.4, "sobel": 0.1}
"""From which a pixel counts as an edge: scikit-image's upper threshold of Canny, and a step of a tenth of the range."""

Detector = Callable[[Float[Tensor, "3 H W"]], Float[Tensor, "H W"]]


def run(request: EdgesRequest) -> FolderEdges:
    """Find edges, and write a map of each picture, the sheet and the table.

    Raises:
        UsageError: no such picture, network or folder of truth, a picture without truth, or a result that would replace
            what is none of ours.
        CheckpointError: damaged weights, or those of another model.
        MissingDependency: `canny` without scikit-image.
        DataError: no map could be scored, or a file that cannot be written.
    """
    inputs = find_images(request.images, without=request.out)
    truths = None if request.truth is None else true_files(inputs.paths, request.truth)
    output_folder(request.out, make=False)
    results = _places(inputs.paths, request)
    start(f"loading {request.model}" if request.method == "network" else f"finding edges by {request.method}")
    detector, threshold, limits = _detector(request)
    output_folder(request.out)
    rows: list[PictureEdges] = []
    skipped: list[tuple[str, str]] = []

    def write_rows(result: FolderEdges) -> None:
        write_csv(COLUMNS, result.table()[1], Path(request.out) / TABLE)
        write_json(result.as_dict(), Path(request.out) / RECORD)

    def finish() -> None:
        write_rows(FolderEdges(request, rows, skipped, threshold, None, None, limits, complete=False))

    with saying_what_is_kept(rows, "picture", request.out, finish):
        scored = _find(request, detector, threshold, zip(inputs.paths, results, strict=True), truths, rows, skipped)
    skip_pictures(skipped, left=rows)
    sheet = _sheet(rows, Path(request.out) / SHEET)
    scores = _scores(request, scored) if truths is not None else None
    complete = not inputs.exit_code(skipped)
    result = FolderEdges(request, rows, skipped, threshold, sheet, scores, limits, complete)
    write_rows(result)
    for name in (TABLE, RECORD):
        emit(Saved(Path(request.out) / name))
    return result


def true_files(paths: Sequence[Path], folder: str) -> list[Path]:
    """The true map of each picture: the one of its name, whatever its ending.

    Args:
        paths: of the pictures.
        folder: of the maps.

    Raises:
        UsageError: no such folder, or a picture without a map, or with two.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"--truth: {why_no_folder(folder)}")
    there: dict[str, list[Path]] = {}
    for path in list_images(Path(folder)):
        there.setdefault(path.stem, []).append(path)
    for path in paths:
        count = len(there.get(path.stem, ()))
        if count != 1:
            problem = "no picture" if not count else f"{count} pictures"
            raise UsageError(f"--truth {folder}: {problem} of the name {path.stem!r}; each picture has one true map")
    return [there[path.stem][0] for path in paths]


def _places(paths: Sequence[Path], request: EdgesRequest) -> list[Path]:
    """Where each map goes, checked as all other results are."""
    folder, first = Path(request.out), Path(request.images[0])
    root = first if len(request.images) == 1 and first.is_dir() else None
    names = output_names(paths, root, taken=[Path(SHEET).stem])
    writable_paths([folder / SHEET, folder / RECORD])
    if (folder / TABLE).exists():
        writable_path(folder / TABLE, columns=COLUMNS)
    return writable_paths([folder / f"{name}.png" for name in names], sources=paths)


def _detector(request: EdgesRequest) -> tuple[Detector, float, str]:
    """What finds edges, the threshold, and what the network's card says of its limits."""
    if request.method == "network":
        assert request.model is not None  # the request holds that
        network = load_edge_network(request.model, device=resolve_device(request.device))
        threshold = network.threshold if request.threshold is None else request.threshold
        return lambda picture: network(picture, window=request.window), threshold, str(network.card.get("limits", ""))
    threshold = THRESHOLDS[request.method] if request.threshold is None else request.threshold
    if request.method == "canny":
        require("skimage.feature", "photographs")  # what is missing is said before the first picture
        return lambda picture: canny_levels(picture, sigma=request.sigma), threshold, ""
    return lambda picture: sobel_map(picture, sigma=request.sigma), threshold, ""


def _find(
    request: EdgesRequest, detector: Detector, threshold: float, places: Iterable[tuple[Path, Path]],
    truths: Sequence[Path] | None, rows: list[PictureEdges], skipped: list[tuple[str, str]],
) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """Write the maps, and note each in `rows`, or in `skipped`, as soon as it is there.

    Returns:
        Thinned map and truth of those that are scored.
    """
    device = resolve_device(request.device)
    pairs, scored = list(places), []
    for number, (path, result) in counted(enumerate(pairs), "picture", len(pairs)):
        try:
            picture = to_tensor(open_image(path, mode="RGB"))
            truth = None if truths is None else _truth(truths[number], picture.shape[1:])
            probability = detector(picture.to(device)).cpu()  # (H, W)
            # Canny's edges are thin.
            thin = probability if request.method == "canny" else thin_edges(probability, border=0)
            shown = thin if request.thin else probability
            white = 1.0 if request.absolute else white_value(shown, threshold)
            values = (255 * shown / white).round().clamp(0, 255).byte().numpy()
            save_picture(Image.fromarray(values, "L"), result)
        except DataError as error:
            skipped.append((str(path), str(error)))
            continue
        height, width = shown.shape
        share = float((shown >= threshold).float().mean())
        rows.append(PictureEdges(str(path), str(result), width, height, share, _windows(request, height, width), white))
        emit(Saved(result))
        if truth is not None:
            scored.append((thin.clamp(0, 1), truth))
    return scored


def white_value(values: Float[Tensor, "H W"], threshold: float) -> float:
    """What a map shows as white: its 99th percentile, at most 1, at least the threshold of an edge.

    So a photograph, whose edges are steps of a few tenths, is seen as clearly as a drawing, while a picture that has no
    edge stays dark.
    """
    return min(1.0, max(threshold, float(np.quantile(values.numpy(), BRIGHT))))


def _windows(request: EdgesRequest, height: int, width: int) -> int:
    if request.method != "network":
        return 1
    return len(WindowGrid.over((height, width), request.window, request.window))


def _truth(path: Path, size: torch.Size) -> Bool[Tensor, "H W"]:
    """The true edges of a picture.

    Raises:
        DataError: they cannot be read, or have another size.
    """
    image = open_image(path, mode="RGB").convert("L")
    if (image.height, image.width) != tuple(size):
        raise DataError(f"{path} is of {image.width} x {image.height} pixels, its picture of {size[1]} x {size[0]}")
    return torch.from_numpy(np.array(image) >= WHITE)


def _scores(request: EdgesRequest, scored: Sequence[tuple[Tensor, Tensor]]) -> EdgeScores:
    """ODS, OIS and AP of all pictures with a readable truth."""
    if not any(bool(truth.any()) for _, truth in scored):
        raise DataError(f"--truth {request.truth}: no true map that could be read has an edge (white on black)")
    start("matching edges")
    maps, truths = zip(*scored, strict=True)
    return edge_f_measure(list(maps), list(truths), tolerance=request.tolerance)


def _sheet(rows: Sequence[PictureEdges], path: Path) -> Path:
    """Write the sheet of pictures beside their maps."""
    cards = [
        card
        for row in rows[:PAIRS]
        for card in ((row.image, Path(row.image).name, ""), (row.result, "edges", f"{row.share:.1%}"))
    ]
    more = f" (the first {PAIRS} of {len(rows)})" if len(rows) > PAIRS else ""
    sheet = contact_sheet(cards, path, title=f"pictures and their edges{more}", columns=4, side=240)
    emit(Saved(sheet))
    return sheet

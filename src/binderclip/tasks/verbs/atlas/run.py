"""What `atlas` does: embeddings, places in the plane, clusters and their words, and three files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from binderclip.display import number_of
from binderclip.errors import BinderclipError
from binderclip.search.atlas.clusters import Clusters, cluster_means, cluster_rows, distinctive_words
from binderclip.search.atlas.layout import fitted_perplexity, neighbours_kept, planar_layout
from binderclip.tasks.arguments.everyday_words import EVERYDAY
from binderclip.tasks.events import Counted, Saved, emit, start, warn
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import output_folder, writable_path
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.models import encoder
from binderclip.tasks.report.sheet import save_picture
from binderclip.tasks.verbs.atlas.request import AtlasRequest
from binderclip.tasks.verbs.atlas.result import COLUMNS, EXAMPLES, TABLE, Atlas, PictureCluster
from binderclip.tasks.verbs.atlas.sheet import draw_map, spread_evenly
from binderclip.tasks.verbs.search.request import INSIDE

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

TEMPLATE = "a photo of {}"
"""Sentence of a word that a cluster may be named by."""


def run(request: AtlasRequest) -> Atlas:
    """Map pictures, and write the map.

    Raises:
        UsageError: no such file or folder, or a file that would be replaced and is none of ours.
        DataError: no picture can be read.
        NotSupported: a model that does not compare by cosines.
    """
    inputs = find_images(request.images, without=request.out)
    _check_places(output_folder(request.out, make=False))
    chosen = _evenly(inputs.paths, request.limit)
    start("loading the model")
    model = encoder(request.model, device=request.device, dtype=request.dtype)
    model.need_cosines("an atlas")
    rows, paths, skipped, reused = _embedded(request, model, chosen)
    skip_pictures(skipped, left=paths)
    start(f"laying out {number_of(len(paths), 'picture')}")
    if request.layout == "tsne" and (used := fitted_perplexity(request.perplexity, len(paths))) < request.perplexity:
        count = number_of(len(paths), "picture")
        warn(f"t-SNE heeds {used:.3g} neighbours, not {request.perplexity:g}: at most a third of {count}")
    positions = planar_layout(rows, method=request.layout, perplexity=request.perplexity, seed=request.seed)
    start("looking for clusters")
    clusters = cluster_rows(
        rows, method=request.clustering, count=request.clusters, least=request.least, seed=request.seed
    )
    named = _named(request, model, rows, paths, clusters)
    shown = spread_evenly(clusters.labels, request.shown)
    result = Atlas(
        request, request.model, paths, positions, clusters.labels, named, neighbours_kept(rows, positions),
        clusters.silhouette, rows, reused, len(inputs.paths) - len(chosen), skipped, len(shown),
        not inputs.exit_code(skipped),
    )  # fmt: skip
    _write(result, shown)
    return result


def _check_places(folder: Path) -> None:
    for name in (TABLE, "map.json", "map.png"):
        if folder.is_dir():
            writable_path(folder / name, columns=COLUMNS if name == TABLE else ())


def _evenly(paths: Sequence[Path], limit: int) -> list[Path]:
    if len(paths) <= limit:
        return list(paths)
    return [paths[row] for row in np.linspace(0, len(paths) - 1, limit).round().astype(int)]


def _embedded(
    request: AtlasRequest, model: ImageTextModel, paths: Sequence[Path]
) -> tuple[np.ndarray, list[Path], list[tuple[str, str]], int]:
    """Unit vectors (n, E) of what can be read, its paths, (path, reason) of the rest, and how many an index had."""
    known = _indexed(request, model) if request.index else {}
    missing = [path for path in paths if path.resolve() not in known]
    rows = {path: known[path.resolve()] for path in paths if path.resolve() in known}
    skipped: list[tuple[str, str]] = []
    if missing:
        encoded = model.encode_files(
            missing, normalize=True, batch_size=request.batch_size,
            progress=lambda done: emit(Counted(done, len(missing), "picture")),
        )  # fmt: skip
        skipped = encoded.skipped
        rows |= dict(zip(map(Path, map(str, encoded.paths)), encoded.features.float().cpu().numpy(), strict=True))
    kept = [path for path in paths if path in rows]
    array = np.stack([rows[path] for path in kept]) if kept else np.zeros((0, model.embed_dim), np.float32)
    return array, kept, skipped, len(paths) - len(missing)


def _indexed(request: AtlasRequest, model: ImageTextModel) -> dict[Path, np.ndarray]:
    """Unit vectors of the pictures of a folder that its index has; none where it has no index of this model."""
    from binderclip.search import SearchIndex
    from binderclip.search.index import read_note

    place = Path(request.images[0]) / INSIDE
    if len(request.images) != 1 or not place.is_dir():
        return {}
    try:
        note = read_note(place)
        if note is None or note["fingerprint"] != model.fingerprint or note["mixed"] or note["transform"]:
            return {}
        paths, rows = SearchIndex(place, model).embeddings()
    except BinderclipError as error:
        warn(f"the index in {place} is not used: {error}")
        return {}
    return dict(zip((path.resolve() for path in paths), rows.numpy(), strict=True))


def _named(
    request: AtlasRequest, model: ImageTextModel, rows: np.ndarray, paths: Sequence[Path], clusters: Clusters
) -> list[PictureCluster]:
    """The clusters with their words and the pictures nearest to their means."""
    vocabulary = list(request.words or EVERYDAY)
    start(f"naming {number_of(clusters.count, 'cluster')}")
    with torch.no_grad():
        texts = model.encode_text([TEMPLATE.format(word) for word in vocabulary], normalize=True)
    means = cluster_means(rows, clusters.labels)
    words = distinctive_words(means, texts.float().cpu().numpy())
    named = []
    for number, own in enumerate(words):
        inside = np.flatnonzero(clusters.labels == number)
        nearest = inside[np.argsort(-(rows[inside] @ means[number]), kind="stable")][:EXAMPLES]
        examples = [str(paths[row]) for row in nearest]
        named.append(PictureCluster(number + 1, [vocabulary[word] for word, _ in own], len(inside), examples))
    return named


def _write(result: Atlas, shown: np.ndarray) -> None:
    """The sheet is drawn before anything is written, so that whoever stops the run finds all files or none."""
    sheet = draw_map(
        [result.paths[row] for row in shown], result.positions[shown], result.labels[shown], result.clusters,
        title=result.title,
    )  # fmt: skip
    output_folder(result.request.out)
    table, document, picture = result.files
    write_csv(COLUMNS, result.rows(), table)
    write_json(result.as_dict(), document)
    save_picture(sheet, picture)
    for path in result.files:
        emit(Saved(path))

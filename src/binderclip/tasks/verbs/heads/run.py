"""What `heads` does: decompose image embeddings by heads, name each by texts, and write the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.tasks.events import Saved, batches, counted, emit, skip, start
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep
from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.heads.report import write_report
from binderclip.tasks.verbs.heads.request import HeadsRequest
from binderclip.tasks.verbs.heads.result import HeadPictures, Heads

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.explain import Decomposition, NamedHead
    from binderclip.models import ImageTextModel


def run(request: HeadsRequest) -> Heads:
    """Name every head, and write the page.

    Raises:
        UsageError: no such file, set or texts, or a result that would replace what is none of ours.
        NotSupported: a model without attention heads.
        DataError: fewer than two pictures that can be read, or a file that cannot be written.
    """
    out = Path(request.out)
    if request.report:
        ask_for_room(writable_path(out), REPORT)
    words = None if request.texts is None else read_texts(Path(request.texts))
    pictures = find_pictures(request.images, request.limit)
    start("loading the model")
    result = _look(request, pictures, words)
    if request.report:
        start("writing the report")
        save_or_keep(partial(write_report, result), out)
        emit(Saved(out))
    skip(result.skipped)
    return result


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one a line, each once.

    Raises:
        UsageError: no such file, not UTF-8, or fewer than two texts.
    """
    if not path.is_file():
        raise UsageError(f"--texts {path}: there is no such file")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError(f"--texts {path} is not a text file in UTF-8 ({error.reason})") from error
    texts = list(dict.fromkeys(line for line in lines if line))
    if len(texts) < 2:
        raise UsageError(f"--texts {path} holds {len(texts) or 'no'} text: give at least two, one a line")
    return texts


def find_pictures(images: str, limit: int) -> HeadPictures:
    """Pictures of a file, a folder or a named set, at most `limit`, evenly chosen.

    Raises:
        UsageError: neither a file, a folder nor a set, or a set that is streamed.
        DataError: a folder without images, or fewer than two pictures.
    """
    from binderclip.data import ImageTextDataset, held_out_split, list_data, load_data

    if Path(images).exists():
        paths = find_images([images]).paths
        chosen: list[Any] = [paths[i] for i in _evenly(len(paths), limit)]
        pictures = HeadPictures([str(path) for path in chosen], chosen.__getitem__, images)
    else:
        known = set(list_data())
        if unknown := [part for part in images.split(",") if part.strip() not in known]:
            raise UsageError(f"--images {unknown[0]}: there is no such folder, and named sets are {', '.join(known)}")
        split = held_out_split(images)
        data = load_data(images, split=split)
        if not isinstance(data, ImageTextDataset):
            raise UsageError(f"--images {images}: shards are streamed; give a folder or a named set")
        rows = _evenly(len(data), limit)
        names = [data.keys[row] for row in rows]
        pictures = HeadPictures(names, lambda number: data[rows[number]].image, f"{images}, split {split}")
    if len(pictures.names) < 2:
        raise DataError(f"--images {images}: one picture shows no variation; give at least two, better a hundred")
    return pictures


def _evenly(count: int, limit: int) -> list[int]:
    return list(range(count)) if count <= limit else [i * count // limit for i in range(limit)]


def _look(request: HeadsRequest, pictures: HeadPictures, words: list[str] | None) -> Heads:
    from binderclip.explain import decompose_image_embedding, description_pool, name_heads

    clip = image_text_model(request.model, device=request.device, dtype=request.dtype)
    try:
        depth = clip.image_tower.depth
    except NotSupported as error:
        raise NotSupported(f"{request.model} has no attention heads that could be named: {error}") from error
    start(f"looking at {number_of(len(pictures.names), 'picture')}")
    watched = counted(pictures, "picture", len(pictures.names))
    decomposition = decompose_image_embedding(
        clip, watched, layers=range(max(0, depth - request.blocks), depth), batch_size=request.batch_size,
        on_error="skip",
    ).unit()  # fmt: skip
    if len(decomposition) < 2:
        raise DataError(
            f"only one of {number_of(len(pictures.names), 'picture')} can be read: {decomposition.skipped[0][1]}"
        )
    pool = description_pool() if words is None else None
    texts = list(pool.texts) if pool is not None else words or []
    rows = _rows(clip, texts)
    start("naming the heads")
    named = name_heads(decomposition, rows, texts, roles=None if pool is None else pool.roles)
    named.sort(key=lambda one: -one.share)
    strongest = [_strongest(decomposition, one) for one in named]
    return Heads(request, clip, pictures, texts, decomposition, named, strongest)


def _rows(clip: ImageTextModel, texts: list[str], at_once: int = 64) -> Tensor:
    """The texts as unit rows (Q, E) on the CPU."""
    import torch

    rows = []
    step = batches("text")
    with torch.no_grad():  # thousands of texts with all that gradients need do not fit into memory
        for first in range(0, len(texts), at_once):
            rows.append(clip.encode_text(texts[first : first + at_once], normalize=True).cpu())
            step(min(first + at_once, len(texts)), len(texts))
    return torch.cat(rows)


def _strongest(decomposition: Decomposition, one: NamedHead, most: int = 5) -> list[int]:
    """Rows of the pictures whose output of this head points most along its first text."""
    if not len(one.span):
        return []
    outputs = decomposition.values[:, decomposition.place(one.layer), one.head]
    along = (outputs - outputs.mean(0)) @ one.span.basis[0].to(outputs)
    return along.topk(min(most, len(along))).indices.tolist()

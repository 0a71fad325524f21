"""What `geometry` does: encode pairs, measure where they lie, and write the page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from binderclip.data import ImageTextDataset, held_out_split, load_data
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import EmbeddingGeometry, EmbeddingSet, GapRemoval, Whitening
from binderclip.evaluate.model import encode_set
from binderclip.tasks.events import Saved, batches, emit, skip, start
from binderclip.tasks.files.outputs import writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep
from binderclip.tasks.models import encoder
from binderclip.tasks.verbs.geometry.report import write_report
from binderclip.tasks.verbs.geometry.request import GeometryRequest
from binderclip.tasks.verbs.geometry.result import Geometry, Usualness

LEAST, BATCH = 20, 512
"""Pairs that are needed for anything, and the most that the contrastive loss compares with each other."""
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
PLAIN, GAP = "as they are", "gap removed"


def run(request: GeometryRequest) -> Geometry:
    """Encode pictures and captions, measure where they lie, and write the page.

    Raises:
        UsageError: shards, which are streamed, or a result that would replace what is none of ours.
        DataError: fewer than twenty pairs, captions that are all alike, or a file that cannot be written.
    """
    out = Path(request.out)
    if request.report:
        ask_for_room(writable_path(out), REPORT)
    start("loading the model")
    result = _measured(request)
    if request.report:
        start("writing the report")
        save_or_keep(partial(write_report, result), out)
        emit(Saved(out))
    skip(result.skipped)
    return result


def _measured(request: GeometryRequest) -> Geometry:
    source = request.data
    split = held_out_split(source) if request.split is None else request.split
    data = load_data(source, split=None if split == "all" else split)
    if not isinstance(data, ImageTextDataset):
        raise UsageError(f"--data {source}: shards are streamed; give a folder or a named set")
    model = encoder(request.model, device=request.device, dtype=request.dtype)
    count = min(len(data), request.limit or len(data))
    step = batches("picture")
    parts, kept, skipped = encode_set(
        model, data, request.batch_size, request.limit, lambda done: step(min(done, count), count)
    )
    usable = sum(len(part) for part in parts)
    if usable < LEAST:
        raise DataError(
            f"{source} has {number_of(usable, 'picture')} that can be read: a geometry needs {LEAST}, better thousands"
        )
    captions = [str(caption) for caption in kept.captions]
    distinct = list(dict.fromkeys(captions))
    if len(distinct) < 2:
        raise DataError(f"all captions of {source} are {distinct[0]!r}: where one text lies says nothing of texts")
    start("encoding captions")
    place = {caption: number for number, caption in enumerate(distinct)}
    with torch.no_grad():
        texts = model.encode_text(distinct)[[place[caption] for caption in captions]]
    start("measuring")
    pairs = EmbeddingGeometry(EmbeddingSet(torch.cat(parts), "image"), EmbeddingSet(texts, "text"))
    scale = float(model.scale().detach())
    recall = {
        PLAIN: pairs.retrieval_behind(captions=captions),
        GAP: pairs.retrieval_behind(GapRemoval(), captions=captions),
    }
    usual, left_out, needed = None, [], 4 * texts.shape[1]
    if usable >= needed:
        usual = _usual(pairs)
    else:
        left_out.append(
            f"likelihoods: {number_of(usable, 'pair')} are too few for a covariance, which half of {needed} determine"
        )
    landscape = pairs.shift_landscape(ALPHAS, scale=scale, batch=min(BATCH, usable))
    where = f"{source}, split {split}" if split else source
    return Geometry(request, model.name, where, pairs, kept, pairs.report(), landscape, scale, recall, usual, left_out,
                    list(skipped))  # fmt: skip


def _usual(pairs: EmbeddingGeometry) -> Usualness:
    first, second = pairs.halves()
    parts = (pairs.image, pairs.text)
    fitted = Whitening().fit(*(EmbeddingSet(part.features[first], part.modality) for part in parts))
    image, text = (part.features[second] for part in parts)
    return Usualness(
        second,
        fitted.log_likelihood(image, "image"),
        fitted.log_likelihood(text, "text"),
        fitted.transform(image[:1], "image").shape[1],
    )

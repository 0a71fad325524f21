"""The pictures that `compress` judges modules by, and those that are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from binderclip.compress import PairedSample
from binderclip.compress.weights.module_error import KS, mean_recall
from binderclip.errors import DataError, UsageError
from binderclip.models import resolve_templates
from binderclip.tasks.verbs.compress.request import CompressRequest
from binderclip.tasks.verbs.landscape.naming import check_cosine, evenly_chosen, read_pictures

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.models import ImageTextModel

LEAST = 4
"""Pictures that are needed: two in each half."""


@dataclass(frozen=True)
class SampleHalves:
    """Pictures with what they are called, in two halves.

    Attributes:
        judged: by which modules are scored, and on which a model recovers. held_out: by which it is measured.
        named_by: "classes" or "captions".
        source: of the data, in words. skipped: (key, reason) of pictures that could not be read.
    """

    judged: PairedSample
    held_out: PairedSample
    named_by: str
    source: str
    skipped: list[tuple[str, str]]

    @property
    def metric(self) -> str:
        """What quality is: "accuracy" of naming by classes, or "recall" of captions and pictures."""
        return "accuracy" if self.named_by == "classes" else "recall"


def sample_halves(model: ImageTextModel, request: CompressRequest) -> SampleHalves:
    """Read pictures, spread evenly over the data, and their captions or classes; every second one is held out.

    Args:
        model: whose preprocessing is taken.
        request: with data, split, limit, template and what they are named by.

    Raises:
        UsageError: shards, a template that is no single sentence, or classes where there are none.
        NotSupported: a model that compares by another geometry than the cosine, where parts go or it is trained.
        DataError: too few pictures, or all of them called the same.
    """
    sentences = resolve_templates(request.template)
    if len(sentences) > 1:
        raise UsageError(f"--template {request.template!r} is {len(sentences)} sentences: give one, with {{}}")
    if request.amount is not None:
        check_cosine(model)
    elif request.steps:
        model.need_cosines("--steps")  # angles are what distillation compares
    data, where = evenly_chosen(request.data, request.split, request.limit)
    pictures, kept, skipped = read_pictures(model, data, request.batch_size, LEAST, request.data)
    labels, captions = np.asarray(data.labels)[kept], [str(data.captions[row]) for row in kept]
    classes = len(data.classes) if bool((labels >= 0).all()) else 0
    named_by = request.named_by or _named_by(captions, labels.tolist() if classes else [])
    if named_by == "classes" and not classes:
        raise UsageError(f"--named-by classes: not every picture of {request.data} has a class; name them by captions")
    if (classes if named_by == "classes" else len(set(captions))) < 2:
        raise DataError(f"all pictures of {request.data} are called the same: there is nothing to tell apart")
    pixels = pictures.permute(0, 3, 1, 2).float() / 255

    def half(first: int) -> PairedSample:
        rows = slice(first, None, 2)  # every second one, so that both halves have all classes of sorted data
        if named_by == "captions":
            return PairedSample(pixels=pixels[rows], texts=captions[rows])
        texts = [sentences[0].format(name) for name in data.classes]
        return PairedSample(pixels=pixels[rows], texts=texts, labels=torch.as_tensor(labels[rows]).long())

    return SampleHalves(half(0), half(1), named_by, where, skipped)


def _named_by(captions: Sequence[str], labels: Sequence[int]) -> str:
    """By captions where most pictures have one of their own, also within a class."""
    distinct = len(set(captions))
    return "captions" if not labels or distinct > max(len(set(labels)), len(captions) / 2) else "classes"


@torch.no_grad()
def quality(model: ImageTextModel, sample: PairedSample, batch_size: int) -> float:
    """Accuracy where there are labels, else the mean of R@1, R@5 and R@10 in both directions; in [0, 1].

    Args:
        model: measured.
        sample: pictures and their texts.
        batch_size: pictures or texts at once.
    """
    image = model.encode_image(sample.pixels, batch_size=batch_size)
    text = model.encode_text(list(sample.texts), batch_size=batch_size)
    logits = model.similarity(image, text).cpu()
    if sample.labels is None:
        return mean_recall(logits)
    return float((logits.argmax(1) == sample.labels).double().mean())


def chance(sample: PairedSample) -> float:
    """Quality of guessing: one in the number of classes, or the mean of 1, 5 and 10 in the number of pairs."""
    if sample.labels is not None:
        return 1 / len(sample.texts)
    return sum(min(k, len(sample.texts)) for k in KS) / len(KS) / len(sample.texts)


def recovery_rows(sample: PairedSample, size: int, seed: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Rows of pictures, and the row of each one's text, in random order, without an end.

    Args:
        sample: drawn from.
        size: pictures in a batch; the sample has at least two.
        seed: of the order.
    """
    generator, count = torch.Generator().manual_seed(seed), len(sample.pixels)
    own = range(count) if sample.labels is None else sample.labels.tolist()
    size = max(2, min(size, count))
    while True:
        order = torch.randperm(count, generator=generator)
        for rows in order[: count - count % size].split(size):
            yield rows, [own[row] for row in rows.tolist()]


def recovery_batches(sample: PairedSample, size: int, seed: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Pictures with their texts, by `recovery_rows`.

    Args:
        sample, size, seed: as of it.
    """
    for rows, texts in recovery_rows(sample, size, seed):
        yield sample.pixels[rows], [sample.texts[row] for row in texts]

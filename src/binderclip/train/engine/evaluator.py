"""Held-out pictures, measured again and again during a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from binderclip.data import ImageTextDataset, ShardDataset
from binderclip.errors import DataError
from binderclip.evaluate import figures
from binderclip.evaluate.model import Described
from binderclip.losses import Similarity
from binderclip.models import ImageTextModel
from binderclip.models.checks import refuse_bare_module
from binderclip.train.feed.pictures import open_sources
from binderclip.train.recipe.recipe import DataSpec, EvaluationSpec

__all__ = ["Evaluator", "set_names", "short_names", "split_figure"]


CHUNK = 256  # pictures that are open at once


def set_names(specs: Sequence[DataSpec]) -> list[str]:
    """What the figures of each set are called: its name, with split and number where others have the same.

    Args:
        specs: the recipe's `evaluation.data`.
    """
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        several = Counter(names)
        names = [f"{s.name}:{s.split}" if several[s.name] > 1 and s.split else s.name for s in specs]
    seen: Counter[str] = Counter()
    chosen = []
    for name in names:
        seen[name] += 1
        chosen.append(f"{name}#{seen[name]}" if seen[name] > 1 else name)
    return chosen


def split_figure(name: str) -> tuple[str, str]:
    """(set, measure) of a figure: `openclipart/text_to_image/R@10`; the name of a set may be a path.

    Args:
        name: as `Evaluator` gives it.
    """
    data, measure = name.rsplit("/", 1)
    before, _, way = data.rpartition("/")
    # Every measure but the number of pictures says of what it is; that of zero-shot accuracy does, too.
    is_figure = measure != "count" or way == "zero_shot"
    return (before, f"{way}/{measure}") if before and is_figure else (data, measure)


def short_names(sets: Iterable[str]) -> dict[str, str]:
    """What people read for each set: of a path its last part, whole where two would read the same.

    Args:
        sets: names of sets.
    """
    short = {name: PurePath(name).name or name for name in sets}
    count = Counter(short.values())
    return {name: label if count[label] == 1 else name for name, label in short.items()}


@dataclass
class _Held:
    name: str
    pixels: Tensor
    described: ImageTextDataset | Described
    source: ImageTextDataset | ShardDataset


class Evaluator:
    """Retrieval R@1/5/10 in both directions and, where there are classes, zero-shot accuracy.

    Pictures are opened and resized once, exactly as the model's own `preprocess` does, and kept as bytes.

    Args:
        settings: the recipe's `evaluation`; shards are read whole, or up to the entry's `limit`.
        model: whose preprocessing is used.

    Raises:
        DataError: no picture of a set can be read.
    """

    def __init__(self, settings: EvaluationSpec, model: ImageTextModel) -> None:
        refuse_bare_module(model, "Evaluator")
        self.settings = settings
        self.held = []
        sets = open_sources(settings.data)[0]
        for spec, name, dataset in zip(settings.data, set_names(settings.data), sets, strict=True):
            take = _open_shards if isinstance(dataset, ShardDataset) else _open_set
            held = take(name, dataset, model, spec.limit)
            if not len(held.pixels):
                raise DataError(f"evaluation.data {spec.name!r}: no picture can be read: {dataset.report()}")
            self.held.append(held)

    def __bool__(self) -> bool:
        return bool(self.held)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Pictures that could not be read."""
        return [entry for held in self.held for entry in held.source.skipped]

    @torch.no_grad()
    def __call__(self, model: ImageTextModel, similarity: Similarity | None = None) -> dict[str, float]:
        """Figures by `SET/measure`; the model's training mode and the random state stay as they were.

        Args:
            model: to be measured.
            similarity: geometry that pictures and texts are compared in; None: cosine.
        """
        refuse_bare_module(model, "Evaluator")
        training = model.training
        model.eval()
        try:
            figures = [(held.name, self._measure(model, held, similarity)) for held in self.held]
            return {f"{name}/{measure}": value for name, row in figures for measure, value in row.items()}
        finally:
            model.train(training)

    def _measure(self, model: ImageTextModel, held: _Held, similarity: Similarity | None) -> dict[str, float]:
        images = torch.cat([_encode(model, part) for part in held.pixels.split(self.settings.batch_size)])
        return figures(
            model,
            images,
            held.described,
            templates=self.settings.templates,
            batch_size=self.settings.batch_size,
            similarity=similarity,
        )


def _open_set(name: str, dataset: ImageTextDataset, model: ImageTextModel, limit: int | None) -> _Held:
    """A table of pictures, which `open_sources` has cut to `limit`."""
    on_white = dataset.with_mode("RGB")
    pixels = _pixels(model, (sample.image for sample in on_white))
    unread = {key for key, _ in on_white.skipped}
    read = dataset.subset([key not in unread for key in dataset.keys]) if unread else dataset
    return _Held(name, pixels, read, dataset)


def _open_shards(name: str, dataset: ShardDataset, model: ImageTextModel, limit: int | None) -> _Held:
    """A stream, read whole by the one process that measures."""
    dataset.rank, dataset.world, dataset.mode = 0, 1, "RGB"
    captions: list[str] = []
    several: list[list[str]] = []
    labels: list[int] = []

    def images() -> Iterator[Any]:
        for sample in islice(dataset, limit):
            captions.append(sample.caption)
            several.append(sample.captions)
            labels.append(-1 if sample.label is None else sample.label)
            yield sample.image

    pixels = _pixels(model, images())
    return _Held(name, pixels, Described(captions, labels, dataset.classes, several), dataset)


def _pixels(model: ImageTextModel, images: Iterator[Any]) -> Tensor:
    parts = []
    while chunk := list(islice(images, CHUNK)):
        parts.append(_bytes(model, chunk))
    return torch.cat(parts) if parts else torch.empty(0)


def _bytes(model: ImageTextModel, images: Sequence[Any]) -> Tensor:
    """Resized pictures as the model's preprocessing makes them, back as the bytes they were."""
    pixels = model.preprocess(list(images))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    return ((pixels.float().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _encode(model: ImageTextModel, part: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    return model.encode_pixels((part.float() / 255 - mean) / std)

"""Held-out pictures, measured again and again during a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from binderclip.data import ImageTextDataset, ShardDataset
from binderclip.errors import DataError
from binderclip.evaluate import figures
from binderclip.evaluate.model import Described
from binderclip.models import ImageTextModel
from binderclip.train.pictures import open_sources
from binderclip.train.recipe import Evaluation

__all__ = ["Evaluator"]


CHUNK = 256  # pictures that are open at once


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

    def __init__(self, settings: Evaluation, model: ImageTextModel) -> None:
        self.settings = settings
        self.held = []
        for spec, dataset in zip(settings.data, open_sources(settings.data)[0], strict=True):
            take = _open_shards if isinstance(dataset, ShardDataset) else _open_set
            held = take(spec.name, dataset, model, spec.limit)
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
    def __call__(self, model: ImageTextModel) -> dict[str, float]:
        """Figures by `SET/measure`; the model's training mode and the random state stay as they were."""
        training = model.training
        model.eval()
        try:
            found = [(held.name, self._measure(model, held)) for held in self.held]
            return {f"{name}/{measure}": value for name, row in found for measure, value in row.items()}
        finally:
            model.train(training)

    def _measure(self, model: ImageTextModel, held: _Held) -> dict[str, float]:
        images = torch.cat([_encode(model, part) for part in held.pixels.split(self.settings.batch_size)])
        return figures(
            model, images, held.described, templates=self.settings.templates, batch_size=self.settings.batch_size
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

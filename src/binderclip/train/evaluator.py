"""Held-out pictures, measured again and again during a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from binderclip.data import ImageTextDataset
from binderclip.errors import NotSupported
from binderclip.evaluate import figures
from binderclip.models import ImageTextModel
from binderclip.train.pictures import open_sources
from binderclip.train.recipe import Evaluation

__all__ = ["Evaluator"]


@dataclass
class _Held:
    name: str
    pixels: Tensor
    dataset: ImageTextDataset


class Evaluator:
    """Retrieval R@1/5/10 in both directions and, where there are classes, zero-shot accuracy.

    Pictures are opened and resized once, exactly as the model's own `preprocess` does, and kept as bytes.

    Args:
        settings: the recipe's `evaluation`.
        model: whose preprocessing is used.
    """

    def __init__(self, settings: Evaluation, model: ImageTextModel) -> None:
        self.settings = settings
        self.held = []
        for spec, dataset in zip(settings.data, open_sources(settings.data)[0], strict=True):
            if not isinstance(dataset, ImageTextDataset):
                raise NotSupported(f"evaluation.data {spec.name!r}: shards can be trained on, not measured on")
            self.held.append(self._open(spec.name, dataset, model))

    def _open(self, name: str, dataset: ImageTextDataset, model: ImageTextModel) -> _Held:
        on_white = dataset.with_mode("RGB")
        rows, parts, chunk = [], [], []
        for row in range(len(on_white)):
            item = on_white._attempt(row)
            if not hasattr(item, "image"):
                dataset.skip(item.key, item.reason)  # type: ignore[union-attr]
                continue
            rows.append(row)
            chunk.append(item.image)
            if len(chunk) == 256:
                parts.append(_bytes(model, chunk))
                chunk = []
        if chunk:
            parts.append(_bytes(model, chunk))
        return _Held(name, torch.cat(parts), dataset if len(rows) == len(dataset) else dataset.subset(rows))

    def __bool__(self) -> bool:
        return bool(self.held)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Pictures that could not be read."""
        return [entry for held in self.held for entry in held.dataset.skipped]

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
            model, images, held.dataset, templates=self.settings.templates, batch_size=self.settings.batch_size
        )


def _bytes(model: ImageTextModel, images: Sequence[Any]) -> Tensor:
    """Resized pictures as the model's preprocessing makes them, back as the bytes they were."""
    pixels = model.preprocess(list(images))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    return ((pixels.float().cpu() * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _encode(model: ImageTextModel, part: Tensor) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std))
    return model.encode_pixels((part.float() / 255 - mean) / std)

"""From a model and a data set to a table of predictions; the pictures go through the model once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import ImageTextDataset
from binderclip.errors import DataError, UsageError
from binderclip.evaluate.model import encode_set
from binderclip.evaluate.probes.table import PredictionTable
from binderclip.models import ImageTextModel, TextBank
from binderclip.models.checks import refuse_bare_module


@dataclass(frozen=True)
class Predictions:
    """What `predict` returns.

    Attributes:
        table: the predictions.
        features: (N, E) image features of its rows: another list of classes, or a trained head, needs no picture.
        data: the pictures of its rows.
        skipped: (key, reason) of pictures that could not be read.
    """

    table: PredictionTable
    features: Float[Tensor, "N E"]
    data: ImageTextDataset
    skipped: list[tuple[str, str]]


@torch.no_grad()
def predict(
    model: ImageTextModel,
    data: ImageTextDataset,
    classes: Sequence[str] | TextBank | None = None,
    *,
    templates: str | Sequence[str] | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Predictions:
    """Classify every picture of a data set zero-shot and keep the scores with the labels and attributes.

    Args:
        model: encodes pictures and texts.
        data: pictures; labels are matched with `classes` by name.
        classes: names, or a bank made before; None: the data's own.
        templates: sentences around a class name, as in `text_bank`.
        batch_size: pictures that go through the model at once.
        limit: only the first so many pictures.
        progress: called with the number of pictures done, now and then.

    Raises:
        UsageError: no class.
        DataError: no picture can be read.
    """
    refuse_bare_module(model, "predict")
    if classes is None and not data.classes:
        raise UsageError("the data has no classes: name them")
    bank = classes if isinstance(classes, TextBank) else model.text_bank(list(classes or data.classes), templates)
    parts, kept, skipped = encode_set(model, data, batch_size, limit, progress)
    if not parts:
        raise DataError(f"no picture can be read: {data.report()}")
    features = torch.cat(parts)
    scores = bank.logits(features).cpu().numpy()
    activation: Literal["softmax", "sigmoid"] = "softmax" if bank.bias is None else "sigmoid"
    table = tabulate(scores, kept, bank.names, activation=activation, model=model.name)
    return Predictions(table, features, kept, list(skipped))


def tabulate(
    scores: Float[np.ndarray, "N C"] | Float[Tensor, "N C"],
    data: ImageTextDataset,
    classes: Sequence[str],
    *,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    model: str = "",
) -> PredictionTable:
    """The table of any predictor's scores of the pictures of a data set, row by row.

    Attributes that are lists, or of several kinds, make no groups and are left out.

    Args:
        scores: logits.
        data: its labels are matched with `classes` by name; a label that is not among them is -1.
        classes: names of the columns.
        activation: what makes probabilities of the scores.
        model: name of the predictor.

    Raises:
        UsageError: as `PredictionTable`.
    """
    place = {name: number for number, name in enumerate(classes)}
    own = [place.get(name, -1) for name in data.classes]
    held = torch.as_tensor(scores).detach().cpu().numpy()
    attributes = {name: values for name, values in data.attributes.items() if _one_kind(values)}
    return PredictionTable(
        keys=tuple(data.keys), target=np.array([own[i] if i >= 0 else -1 for i in data.labels], dtype=np.int64),
        scores=held, classes=tuple(classes), attributes={name: tuple(v) for name, v in attributes.items()},
        activation=activation, model=model, source=", ".join(dict.fromkeys(data.sources)),
    )  # fmt: skip


def _one_kind(values: Sequence[Any]) -> bool:
    kinds = {type(value.item() if isinstance(value, np.generic) else value) for value in values} - {type(None)}
    return kinds <= {int, float} or (len(kinds) == 1 and kinds <= {str, bool})

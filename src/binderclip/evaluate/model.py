"""A whole model on a whole data set: retrieval both ways, and zero-shot accuracy where the data has classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import ImageTextDataset, ShardDataset
from binderclip.data.sets.sample import Skipped
from binderclip.errors import DataError
from binderclip.evaluate.retrieval_metrics import retrieval, zero_shot_accuracy
from binderclip.losses import Similarity
from binderclip.models import EncodedImages, TextBank
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.encode import OnError
from binderclip.models.image_text.preprocess import ImageLike


@runtime_checkable
class FileEncoder(Protocol):
    """Whatever makes features of pictures: an `ImageTextModel`, or a model of one's own."""

    def encode_files(
        self,
        sources: Sequence[ImageLike],
        /,
        *,
        batch_size: int,
        on_error: OnError,
        progress: Callable[[int], object] | None,
    ) -> EncodedImages:
        """Features (N, E) of the pictures; `progress` gets the number of pictures done, after every batch."""
        ...


@runtime_checkable
class PairEncoder(FileEncoder, Protocol):
    """A `FileEncoder` with texts in the same space; compares by cosine unless it has a `geometry`."""

    def encode_text(self, texts: Sequence[str], /, *, batch_size: int) -> Float[Tensor, "Q E"]:
        """A row for each text."""
        ...

    def text_bank(self, labels: Sequence[str], templates: str | Sequence[str] | None, /) -> TextBank:
        """The classes by name, in sentences."""
        ...


@dataclass
class Evaluation:
    """Figures of one model on one data set.

    Args:
        count: pictures that were measured.
        figures: name -> value in [0, 1].
        skipped: (key, reason) of the pictures that could not be read.
    """

    count: int
    figures: dict[str, float]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        skipped = [{"image": key, "reason": reason} for key, reason in self.skipped]
        return {"count": self.count, "figures": self.figures, "skipped": skipped}

    def rows(self) -> list[tuple[str, float]]:
        """(measure, value), for a table."""
        return [(name.replace("_", " "), value) for name, value in self.figures.items()]

    def _repr_html_(self) -> str:
        """The figures as a table, in a notebook."""
        from binderclip.display import table_html

        summary = f"{self.count} pictures" + (f", {len(self.skipped)} skipped" if self.skipped else "")
        return table_html(("measure", "value"), self.rows(), caption=summary)

    def plot(self) -> Any:
        """A matplotlib figure: a bar for every figure."""
        from binderclip.display import bars, new_figure

        figure = new_figure(7, 0.8 + 0.3 * max(2, len(self.figures)))
        axes = figure.subplots()
        bars(axes, [name for name, _ in self.rows()], [value for _, value in self.rows()])
        axes.set_xlim(0, 1)
        return figure


@dataclass(frozen=True)
class Described:
    """What is said about pictures, in their order.

    Args:
        captions: the first caption of each.
        labels: -1 for none.
        classes: names of the labels.
        several: every caption of each, where one has more than one; None: each has the one.
    """

    captions: Sequence[str]
    labels: Sequence[int]
    classes: Sequence[str] = ()
    several: Sequence[Sequence[str]] | None = None

    @property
    def all_captions(self) -> list[list[str]]:
        """Every caption of every picture."""
        return [list(texts) for texts in self.several or [[caption] for caption in self.captions]]


@torch.no_grad()
def figures(
    model: PairEncoder,
    image_features: Float[Tensor, "N E"],
    dataset: ImageTextDataset | Described,
    *,
    templates: str | Sequence[str] | None = None,
    batch_size: int = 256,
    similarity: Similarity | None = None,
) -> dict[str, float]:
    """Retrieval and, where the data set has classes, zero-shot accuracy, from image features.

    Where each picture has one caption, an equal caption counts as found. Where pictures have several, every caption is
    a query and an answer, and only a picture's own count: the recall of clip_benchmark.

    Args:
        model: encodes the captions (each distinct one once) and the class names: an `ImageTextModel`, or one's own.
        image_features: (N, E) features of the pictures of `dataset`, in its order.
        dataset: captions, labels (-1: none) and classes.
        templates: sentences around a class name.
        batch_size: texts that go through the model at once.
        similarity: geometry that pictures and texts are compared in (`losses.SIMILARITIES`); None: the model's own.
    """
    refuse_bare_module(model, "figures")
    similarity = similarity or getattr(model, "geometry", None)  # a model of one's own compares by cosine
    result: dict[str, float] = {}
    several = dataset.all_captions
    captions = [caption for texts in several for caption in texts]
    distinct = list(dict.fromkeys(captions))
    # With one caption for everything, recall says nothing.
    if len(distinct) > 1:
        position = {caption: i for i, caption in enumerate(distinct)}
        rows = torch.tensor([position[caption] for caption in captions], device=image_features.device)
        texts = model.encode_text(distinct, batch_size=batch_size)[rows]
        if len(captions) == len(several):
            result |= retrieval(image_features, texts, captions=captions, similarity=similarity)
        else:
            owners = [picture for picture, own in enumerate(several) for _ in own]
            result |= retrieval(image_features, texts, image_index=owners, similarity=similarity)
    labels = torch.as_tensor(dataset.labels)
    known = labels >= 0
    if len(dataset.classes) > 1 and bool(known.any()):
        bank = model.text_bank(list(dataset.classes), templates)
        rows = image_features[known.to(image_features.device)]
        accuracy = zero_shot_accuracy(rows, bank, labels[known], similarity=similarity)
        result |= {f"zero_shot/{name}": value for name, value in accuracy.items()}
    return result


def evaluate_model(
    model: PairEncoder,
    dataset: ImageTextDataset | ShardDataset,
    *,
    templates: str | Sequence[str] | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Measure a model on a data set; pictures that cannot be read are left out and reported.

    Args:
        model: an `ImageTextModel`, or one of your own with the methods of `PairEncoder`.
        dataset: shards are read once, in their order; their captions and features are held, not their pictures.
        templates: sentences around a class name: a set by name, one template, or several.
        limit: only the first so many pictures.
        progress: called with the number of pictures done, now and then.

    Raises:
        DataError: no picture can be read.
    """
    refuse_bare_module(model, "evaluate_model")
    encode = _encode_shards if isinstance(dataset, ShardDataset) else encode_set
    parts, described, skipped = encode(model, dataset, batch_size, limit, progress)  # type: ignore[arg-type]
    if not parts:
        raise DataError(f"no picture can be read: {dataset.report()}")
    features = torch.cat(parts)
    return Evaluation(len(features), figures(model, features, described, templates=templates), list(skipped))


Encoded = tuple[list[Tensor], "ImageTextDataset | Described", list[tuple[str, str]]]


def encode_set(
    model: FileEncoder,
    dataset: ImageTextDataset,
    batch_size: int = 64,
    limit: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[list[Float[Tensor, "n E"]], ImageTextDataset, list[tuple[str, str]]]:
    """Features in parts, the pictures they are of, and (key, reason) of those that cannot be read.

    Args:
        model, dataset, batch_size, limit, progress: as for `evaluate_model`.
    """
    if limit is not None:
        dataset = dataset.subset(range(min(limit, len(dataset))))
    dataset = dataset.with_mode("RGB")
    rows: list[int] = []
    parts: list[Tensor] = []
    # A chunk at a time, so that a large set is never held as pictures.
    for start in range(0, len(dataset), 8 * batch_size):
        chunk = range(start, min(start + 8 * batch_size, len(dataset)))
        images = []
        for row, item in zip(chunk, dataset.__getitems__(chunk), strict=True):
            if isinstance(item, Skipped):
                dataset.skip(item.key, item.reason)
            else:
                rows.append(row)
                images.append(item.image)
        if images:
            parts.append(_features(model, images, batch_size, start, progress))
    return parts, dataset if len(rows) == len(dataset) else dataset.subset(rows), dataset.skipped


def _encode_shards(
    model: FileEncoder,
    dataset: ShardDataset,
    batch_size: int,
    limit: int | None,
    progress: Callable[[int], object] | None,
) -> Encoded:
    samples = islice(dataset, limit)
    captions: list[str] = []
    several: list[list[str]] = []
    labels: list[int] = []
    parts: list[Tensor] = []
    while chunk := list(islice(samples, 8 * batch_size)):
        parts.append(_features(model, [s.image for s in chunk], batch_size, len(captions), progress))
        captions += [sample.caption for sample in chunk]
        several += [sample.captions for sample in chunk]
        labels += [-1 if sample.label is None else sample.label for sample in chunk]
    return parts, Described(captions, labels, dataset.classes, several), dataset.skipped


def _features(
    model: FileEncoder, images: list[Any], batch_size: int, before: int, progress: Callable[[int], object] | None
) -> Float[Tensor, "n E"]:
    """Features of a chunk; `progress` gets the number of pictures after every batch, those `before` the chunk too."""
    step = None if progress is None else lambda done: progress(before + done)
    return model.encode_files(images, batch_size=batch_size, on_error="raise", progress=step).features

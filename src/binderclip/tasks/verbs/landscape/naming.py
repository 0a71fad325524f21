"""The loss by which a model's weights are judged: that of naming every picture among all texts of a fixed set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from binderclip.data import ImageTextDataset, held_out_split, load_data
from binderclip.data.sets.sample import Skipped
from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models import resolve_templates
from binderclip.tasks.events import batches
from binderclip.tasks.verbs.landscape.features import KeptFeatures

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from torch import Tensor

    from binderclip.models import ImageTextModel


@dataclass(frozen=True)
class NamingLoss:
    """Cross-entropy and accuracy of naming pictures by texts, all of a set at once.

    Texts and pictures are both encoded by the weights as they are: the texts once for weights of the same values,
    whichever pictures are named, and pictures only where the weights of their own tower have changed.

    Attributes:
        texts: sentences of all classes, one after the other; or the distinct captions.
        owner: class of each text. Sentences of a class are averaged.
        classes: how many there are.
        batch_size: pictures that go through the model at once.
    """

    texts: tuple[str, ...]
    owner: Int[Tensor, "texts"]
    classes: int
    batch_size: int
    _kept: dict[Any, KeptFeatures] = field(default_factory=dict, init=False, repr=False, compare=False)

    @torch.no_grad()
    def __call__(self, model: Any, batch: Any) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Loss and accuracy of (pixels, classes), without gradients."""
        pixels, target = batch
        if model not in self._kept:
            forwards = {
                "text": lambda: model.encode_text(self.texts[0]),
                "image": lambda: model.encode_pixels(pixels[:1]),
            }
            self._kept[model] = KeptFeatures(model, forwards)
        features = self._kept[model]
        means = features("text", None, lambda: self._class_rows(model))
        image = features("image", pixels, lambda: torch.cat([*map(model.encode_pixels, pixels.split(self.batch_size))]))
        logits = model.scale().to(means) * F.normalize(image, dim=-1) @ means.T
        return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()

    def _class_rows(self, model: Any) -> Float[Tensor, "classes E"]:
        """A row of length one for each class, the mean of its sentences'."""
        rows = model.encode_text(list(self.texts), normalize=True, batch_size=self.batch_size)
        owner = self.owner.to(rows.device)
        means = torch.zeros(self.classes, rows.shape[1], device=rows.device).index_add(0, owner, rows)
        return F.normalize(means, dim=-1)


@dataclass(frozen=True)
class NamingSet:
    """Pictures that are held, and what they are called.

    Attributes:
        pixels: as the model takes them. target: class of each.
        loss: over the classes. named_by: "classes" or "captions".
        source: of the data, in words. skipped: (key, reason) of pictures that could not be read.
    """

    pixels: Float[Tensor, "n 3 h w"]
    target: Int[Tensor, "n"]
    loss: NamingLoss
    named_by: str
    source: str
    skipped: list[tuple[str, str]]

    def batch(self, part: slice = slice(None)) -> list[tuple[Tensor, Tensor]]:
        """The pictures, or some of them, as the one batch that a loss takes."""
        return [(self.pixels[part], self.target[part])]


def naming_set(
    model: ImageTextModel, source: str, split: str | None, templates: str, limit: int, batch_size: int, least: int
) -> NamingSet:
    """Read pictures, spread evenly over the data, and what they are called: classes where there are, else captions.

    Args:
        model: whose preprocessing is taken.
        source, split: of the data; without a split the held-out one.
        templates: sentences around a class name.
        limit: most pictures.
        batch_size: of the loss.
        least: fewest pictures.

    Raises:
        UsageError: shards, or an unknown template.
        NotSupported: a model that compares by another geometry than the cosine.
        DataError: too few pictures, or all of them are called the same.
    """
    sentences = resolve_templates(templates)
    check_cosine(model)
    data, where = evenly_chosen(source, split, limit)
    pixels, kept, skipped = read_pictures(model, data, batch_size, least, source)
    labels = np.asarray(data.labels)[kept]
    if len(data.classes) > 1 and bool((labels >= 0).all()):
        names, target = list(data.classes), torch.as_tensor(labels).long()
        texts = tuple(sentence.format(name) for name in names for sentence in sentences)
        owner, named_by = torch.arange(len(names)).repeat_interleave(len(sentences)), "classes"
    else:
        captions = [str(data.captions[row]) for row in kept]
        names = list(dict.fromkeys(captions))
        place = {caption: number for number, caption in enumerate(names)}
        target, texts = torch.tensor([place[caption] for caption in captions]), tuple(names)
        owner, named_by = torch.arange(len(names)), "captions"
    if len(names) < 2:
        raise DataError(f"all pictures of {source} are called {names[0]!r}: there is nothing to tell apart")
    loss = NamingLoss(texts, owner, len(names), batch_size)
    return NamingSet(model.preprocess.normalize_pixels(pixels), target, loss, named_by, where, skipped)


def check_cosine(model: ImageTextModel) -> None:
    """Refuse a model whose loss is none of cosines.

    Raises:
        NotSupported: it compares by another geometry than the cosine.
    """
    if model.geometry is not None:
        raise NotSupported(f"{model.name} compares by {type(model.geometry).__name__}: only the cosine is supported")


def evenly_chosen(source: str, split: str | None, limit: int) -> tuple[ImageTextDataset, str]:
    """Data of which some are chosen evenly, and what they are in words.

    Args:
        source, split: of the data; without a split the held-out one.
        limit: most pictures.

    Raises:
        UsageError: shards.
    """
    chosen_split = held_out_split(source) if split is None else split
    data = load_data(source, split=None if chosen_split == "all" else chosen_split)
    if not isinstance(data, ImageTextDataset):
        raise UsageError(f"--data {source}: shards are streamed; give a folder or a named set")
    if len(data) > limit:  # of data that are sorted by class the first would be of one
        data = data.subset(np.unique(np.linspace(0, len(data) - 1, limit).round().astype(int)))
    return data, f"{source}, split {chosen_split}" if chosen_split else source


def read_pictures(
    model: ImageTextModel, data: ImageTextDataset, batch_size: int, least: int, source: str
) -> tuple[UInt8[Tensor, "n h w 3"], list[int], list[tuple[str, str]]]:
    """Resized 8-bit pictures, the rows that they are of, and (key, reason) of those that cannot be read.

    Args:
        model: whose preprocessing is taken.
        data: to read.
        batch_size: pictures read at once.
        least: fewest that must be readable.
        source: what the data are called.

    Raises:
        DataError: too few.
    """
    data, step = data.with_mode("RGB"), batches("picture")
    parts, kept, skipped = [], [], []
    for start in range(0, len(data), batch_size):
        rows = range(start, min(start + batch_size, len(data)))
        for row, item in zip(rows, data.__getitems__(rows), strict=True):
            if isinstance(item, Skipped):
                skipped.append((str(item.key), item.reason))
            else:
                kept.append(row)
                parts.append(model.preprocess.pixels(item.image))
        step(rows.stop, len(data))
    if len(kept) < least:
        why = "; ".join(f"{key}: {reason}" for key, reason in skipped[:1])
        more = f" and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        unread = f" (not {why}{more})" if skipped else ""
        raise DataError(
            f"{source} has {len(kept)} pictures that can be read{unread}: {least} are needed, better hundreds"
        )
    return torch.from_numpy(np.stack(parts)), kept, skipped

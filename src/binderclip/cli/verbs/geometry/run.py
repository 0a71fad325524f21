"""What `binderclip geometry` measures: two clouds, what maps in front of cosines do, which pictures are usual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from binderclip.data import ImageTextDataset, held_out_split, load_data
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.evaluate import (
    EmbeddingGeometry,
    EmbeddingSet,
    GapRemoval,
    GeometryReport,
    ShiftLandscape,
    Whitening,
)
from binderclip.evaluate.model import encode_set
from binderclip.models import load_encoder

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

LEAST, BATCH = 20, 512
"""Pairs that are needed for anything, and the most that the contrastive loss compares with each other."""
ALPHAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
PLAIN, GAP = "as they are", "gap removed"


@dataclass(frozen=True)
class Usualness:
    """Likelihoods of the second half under a normal that was fitted on the first.

    Attributes:
        rows: of the data, those of the second half.
        image, text: log-likelihood of each; compared within one modality alone.
        width: directions of the whitened image embeddings.
    """

    rows: Int[Tensor, "m"]
    image: Float[Tensor, "m"]
    text: Float[Tensor, "m"]
    width: int


@dataclass(frozen=True)
class Geometry:
    """All that was measured.

    Attributes:
        model, source: names.
        pairs: what was encoded. data: the pictures and captions, row by row.
        report: see `GeometryReport`.
        landscape: the loss over moved means, at scale `scale`.
        recall: map -> figures of `retrieval`, of the second half of the pairs.
        usual: None where there are too few pairs for a covariance.
        left_out: what could not be measured, and why.
        skipped: (key, reason) of pictures that could not be read.
    """

    model: str
    source: str
    pairs: EmbeddingGeometry
    data: ImageTextDataset
    report: GeometryReport
    landscape: ShiftLandscape
    scale: float
    recall: dict[str, dict[str, float]]
    usual: Usualness | None
    left_out: list[str]
    skipped: list[tuple[str, str]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        best = dict(zip(("image", "text"), self.landscape.best, strict=True))
        keys = self.data.keys
        usual = None
        if self.usual is not None:
            order = self.usual.image.argsort().tolist()
            rows = [
                {"image": keys[int(self.usual.rows[i])], "log_likelihood": float(self.usual.image[i])} for i in order
            ]
            usual = {"dimensions": self.usual.width, "images": rows}
        return {
            "model": self.model, "data": self.source, "count": len(self.pairs.image),
            "figures": asdict(self.report),
            "least_loss_at": best, "recall": self.recall, "likelihood": usual,
            "left_out": self.left_out,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
        }  # fmt: skip


def measured(
    name: str, source: str, split: str | None, limit: int | None, say: Callable[[str], object], *,
    device: str = "cpu", dtype: str = "float32", batch_size: int = 64,
) -> Geometry:  # fmt: skip
    """Encode pictures and captions and measure where they lie.

    Raises:
        UsageError: shards, which are streamed.
        DataError: fewer than twenty pairs, or captions that are all alike.
    """
    split = held_out_split(source) if split is None else split
    data = load_data(source, split=None if split == "all" else split)
    if not isinstance(data, ImageTextDataset):
        raise UsageError(f"--data {source}: shards are streamed; give a folder or a named set")
    model = load_encoder(name, device=device, dtype=dtype)
    count = min(len(data), limit or len(data))
    parts, kept, skipped = encode_set(
        model, data, batch_size, limit, lambda done: say(f"picture {min(done, count)} of {count}")
    )
    found = sum(len(part) for part in parts)
    if found < LEAST:
        raise DataError(
            f"{source} has {number_of(found, 'picture')} that can be read: a geometry needs {LEAST}, better thousands"
        )
    captions = [str(caption) for caption in kept.captions]
    distinct = list(dict.fromkeys(captions))
    if len(distinct) < 2:
        raise DataError(f"all captions of {source} are {distinct[0]!r}: where one text lies says nothing of texts")
    say("encoding captions")
    place = {caption: number for number, caption in enumerate(distinct)}
    with torch.no_grad():
        texts = model.encode_text(distinct)[[place[caption] for caption in captions]]
    say("measuring")
    pairs = EmbeddingGeometry(EmbeddingSet(torch.cat(parts), "image"), EmbeddingSet(texts, "text"))
    scale = float(model.scale().detach())
    recall = {
        PLAIN: pairs.retrieval_behind(captions=captions),
        GAP: pairs.retrieval_behind(GapRemoval(), captions=captions),
    }
    usual, left_out, needed = None, [], 4 * texts.shape[1]
    if found >= needed:
        usual = _usual(pairs)
    else:
        left_out.append(
            f"likelihoods: {number_of(found, 'pair')} are too few for a covariance, which half of {needed} determine"
        )
    landscape = pairs.shift_landscape(ALPHAS, scale=scale, batch=min(BATCH, found))
    return Geometry(model.name, f"{source}, split {split}" if split else source, pairs, kept, pairs.report(), landscape,
                    scale, recall, usual, left_out, list(skipped))  # fmt: skip


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

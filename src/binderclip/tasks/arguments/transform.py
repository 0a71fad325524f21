"""`--transform`: a map of embeddings in front of what a verb compares by, fitted on captioned pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.tasks.events import start

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.similarity import EmbeddingTransform

FITTED_ON, MOST = "openclipart", 2000
"""Where nothing is named, and the most pairs that are encoded."""


@dataclass(frozen=True)
class TransformChoice:
    """What the user wrote.

    Attributes:
        name: of `similarity.TRANSFORMS`. data: what it is fitted on.
    """

    name: str
    data: str = FITTED_ON


def parse_transform(text: str | None) -> TransformChoice | None:
    """`NAME` or `NAME=DATA`.

    Raises:
        UsageError: an unknown name, or no data behind the sign.
    """
    if text is None:
        return None
    from binderclip.similarity import transform_named

    name, sign, data = text.partition("=")
    transform_named(name)
    if sign and not data.strip():
        raise UsageError(f"--transform {text}: name captioned pictures behind the sign: {name}=DATA")
    return TransformChoice(name, data or FITTED_ON)


def fitted(model: ImageTextModel, choice: TransformChoice, *, batch_size: int = 64) -> EmbeddingTransform:
    """The transform, fitted on embeddings of pictures and their captions, drawn at random where there are many.

    Raises:
        DataError: the data cannot be opened, or holds no picture that can be read.
        UsageError: it has too few pictures for this transform, or is a stream of shards.
    """
    import torch

    from binderclip.data import ImageTextDataset, held_out_split, load_data
    from binderclip.evaluate.model import encode_set
    from binderclip.similarity import EmbeddingSet, transform_named

    data = load_data(choice.data, split="train" if held_out_split(choice.data) else None)
    if not isinstance(data, ImageTextDataset):
        raise UsageError(f"--transform is fitted on a folder, a zip, Parquet files or a named set, not {choice.data}")
    rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:MOST].sort().values.tolist()
    start(f"fitting {choice.name} on {number_of(len(rows), 'picture')} of {choice.data}")
    parts, seen, skipped = encode_set(model, data.subset(rows), batch_size)
    if not parts:
        raise DataError(f"no picture of {choice.data} can be read: {skipped[0][1] if skipped else 'it is empty'}")
    with torch.no_grad():
        texts = model.encode_text(list(seen.captions))
    return transform_named(choice.name).fit(EmbeddingSet(torch.cat(parts), "image"), EmbeddingSet(texts, "text"))

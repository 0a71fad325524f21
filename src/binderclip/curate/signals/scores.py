"""Signals of an image-text model: embeddings, the CLIP score, and the score after a caption was cleaned.

Pictures and texts are encoded once a model, whatever asks: features lie in the `FeatureCache`, keyed by content. Where
a signal is given a `version` they do not: then whoever asked keeps the column, as of a pool too large for a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch.nn import functional

from binderclip.curate.engine.columns import ColumnValues
from binderclip.curate.engine.rule import SampleSignal
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.cleaning import strip_numbers
from binderclip.curate.signals.plain import shard_pictures, texts_of
from binderclip.data.cache.features import FeatureCache, content_hash
from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

CHUNK = 256
"""Pictures or texts that are looked up, encoded and stored together."""


class LateModel:
    """A model that is loaded when a signal first asks for something of it; not where the data have all columns.

    Args:
        load: gives the model; called once, whatever thread asks first. In another process it is called again, so that
            the model itself is never sent there.
        before: called before that, in this process alone; to say so, for instance.
    """

    def __init__(self, load: Callable[[], ImageTextModel], before: Callable[[], object] | None = None) -> None:
        self._load, self._before, self._lock = load, before, Lock()
        self._model: ImageTextModel | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return LateModel, (self._load,)

    def open(self) -> ImageTextModel:
        """The model, loaded now if it was not before."""
        with self._lock:
            if self._model is None:
                if self._before is not None:
                    self._before()
                self._model = self._load()
            return self._model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.open(), name)


@dataclass(frozen=True, eq=False)
class ImageEmbedding:
    """`image_embedding`: unit features of each picture, (n, E) float32; a row of NaN where it cannot be read.

    Args:
        model: encodes.
        batch_size: pictures that go through it at once.
        root: of the feature cache, see `data.cache_root`.
        version: "" where that keeps what was computed.
    """

    model: ImageTextModel | LateModel
    batch_size: int = 64
    root: str | Path | None = None
    name: str = "image_embedding"
    needs: tuple[str, ...] = ()
    version: str = ""  # the feature cache keeps it, by picture

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "ImageEmbedding")

    def __call__(self, shard: Shard) -> ColumnValues:
        """One row a sample."""
        if self.version:
            rows = [self._encoded(chunk) for chunk in _chunks(shard_pictures(shard, self.name))]
        else:
            view = f"whole, background {self.model.preprocess.background}"
            cache = FeatureCache(self.model.fingerprint, view, self.root)
            rows = [self._chunk(cache, chunk) for chunk in _chunks(shard_pictures(shard, self.name))]
        return np.concatenate([np.empty((0, self.model.embed_dim), np.float32), *rows])

    def _encoded(self, pictures: list[Any]) -> Float[np.ndarray, "k E"]:
        encoded = self.model.encode_files(pictures, batch_size=self.batch_size, on_error="skip")
        rows = torch.full((len(pictures), self.model.embed_dim), torch.nan)
        rows[encoded.index] = functional.normalize(encoded.features.cpu().float(), dim=-1)
        return rows.numpy()

    def _chunk(self, cache: FeatureCache, pictures: list[Any]) -> Float[np.ndarray, "k E"]:
        keys = [_hash_of(picture) for picture in pictures]
        known = cache.get(keys)
        missing = {key: place for place, key in enumerate(keys) if key not in known}
        if missing:
            sources = [pictures[place] for place in missing.values()]
            encoded = self.model.encode_files(sources, batch_size=self.batch_size, on_error="skip")
            names = [list(missing)[place] for place in encoded.index]
            if names:
                cache.put(names, encoded.features.cpu())
            known |= dict(zip(names, encoded.features.cpu(), strict=True))
        lost = torch.full((self.model.embed_dim,), torch.nan)
        rows = torch.stack([known.get(key, lost).float() for key in keys])
        return functional.normalize(rows, dim=-1).numpy()


@dataclass(frozen=True, eq=False)
class CaptionEmbedding:
    """`caption_embedding`: unit features of each caption, (n, E) float32; a row of NaN where there is no text.

    Args:
        model: encodes.
        cleaner: what is done to a caption before; None for nothing.
        batch_size: texts that go through the model at once.
        root: of the feature cache.
        version: as of `ImageEmbedding`.
    """

    model: ImageTextModel | LateModel
    cleaner: Callable[[str], str] | None = None
    batch_size: int = 256
    root: str | Path | None = None
    name: str = "caption_embedding"
    needs: tuple[str, ...] = ("text",)
    version: str = ""

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "CaptionEmbedding")

    def __call__(self, shard: Shard) -> ColumnValues:
        """One row a sample."""
        cache = None if self.version else FeatureCache(self.model.fingerprint, "text", self.root)
        texts = texts_of(shard, "text")
        cleaned = texts if self.cleaner is None else [self.cleaner(text) for text in texts]
        rows = [self._chunk(cache, chunk) for chunk in _chunks(iter(cleaned))]
        return np.concatenate([np.empty((0, self.model.embed_dim), np.float32), *rows])

    def _chunk(self, cache: FeatureCache | None, texts: list[str]) -> Float[np.ndarray, "k E"]:
        there = [text for text in texts if text.strip()]
        out = np.full((len(texts), self.model.embed_dim), np.nan, np.float32)
        if there:

            def encoded(rows: list[int]) -> torch.Tensor:
                with torch.inference_mode():
                    return self.model.encode_text([there[row] for row in rows], batch_size=self.batch_size).clone()

            if cache is None:
                raw = encoded(list(range(len(there)))).cpu()
            else:
                raw = cache.fetch([content_hash(text.encode("utf-8", "surrogatepass")) for text in there], encoded)
            out[[bool(text.strip()) for text in texts]] = functional.normalize(raw.float(), dim=-1).numpy()
        return out


@dataclass(frozen=True)
class ClipScore:
    """Cosine of two embeddings of a sample, such as `clip_score` of picture and caption; NaN where one is missing.

    Args:
        image, text: columns of embeddings, of a model's signals or of the data (DataComp's `l14_img`, `l14_txt`).
        name: of the column.
    """

    image: str = "image_embedding"
    text: str = "caption_embedding"
    name: str = "clip_score"
    version: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Both columns."""
        return (self.image, self.text)

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        return paired_cosines(embeddings_of(shard, self.image), embeddings_of(shard, self.text))


@dataclass(frozen=True, eq=False)
class MaskedTextScore:
    """CLIP score of each picture with its caption after cleaning; NaN where nothing is left of the caption.

    Of "Devil in the Number: Towards Robust Multi-modality Data Filter" (arXiv 2309.13770): captions whose numbers match
    text in the picture score too high, those with irrelevant numbers too low. Only the text tower runs again. A sample
    whose caption the cleaner leaves alone has its raw score exactly; a sample without a score is dropped by every rule.

    Args:
        model: the scorer.
        cleaner: caption -> caption, such as one of `CLEANERS`; cut off at the model's context after cleaning.
        image: column of picture embeddings.
        root: of the feature cache.
        name: of the column.

    Raises:
        UsageError: when it is called, the column holds no embeddings.

    Examples:
        >>> rule = ScoreTopFraction(column="masked_clip_score", fraction=0.4)              # doctest: +SKIP
        >>> CurationPipeline([rule], {"masked_clip_score": MaskedTextScore(model)})        # doctest: +SKIP
    """

    model: ImageTextModel | LateModel
    cleaner: Callable[[str], str] = strip_numbers
    image: str = "image_embedding"
    root: str | Path | None = None
    name: str = "masked_clip_score"
    version: str = ""

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "MaskedTextScore")

    @property
    def needs(self) -> tuple[str, ...]:
        """Embeddings of pictures, and texts."""
        return (self.image, "text")

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        texts = CaptionEmbedding(self.model, self.cleaner, root=self.root, version=self.version)(shard)
        assert isinstance(texts, np.ndarray)
        return paired_cosines(embeddings_of(shard, self.image), texts)


def paired_cosines(a: Float[np.ndarray, "n E"], b: Float[np.ndarray, "n E"]) -> Float[np.ndarray, "n"]:
    """The cosine of each pair of rows, in float64, NaN where either has no length."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def embeddings_of(shard: Shard, column: str) -> Float[np.ndarray, "n E"]:
    """A column of embeddings.

    Raises:
        UsageError: it holds something else.
    """
    values = shard.columns[column]
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise UsageError(f"column {column!r} does not hold embeddings, one row of numbers a sample")
    return values


def model_signals(
    model: ImageTextModel | LateModel,
    *,
    cleaner: Callable[[str], str] = strip_numbers,
    root: str | Path | None = None,
    version: str = "",
) -> dict[str, SampleSignal]:
    """The signals that a model gives, by name.

    Args:
        model: encodes pictures and captions.
        cleaner: of `masked_clip_score`.
        root: of the feature cache.
        version: of all of them, naming model and cleaner: columns are kept whole in the run's `ColumnStore`, where
            other machines find them, and not by sample in the feature cache.
    """
    refuse_bare_module(model, "model_signals")
    signals: Sequence[SampleSignal] = (
        ImageEmbedding(model, root=root, version=version),
        CaptionEmbedding(model, root=root, version=version),
        ClipScore(version=version),
        MaskedTextScore(model, cleaner, root=root, version=version),
    )
    return {signal.name: signal for signal in signals}


def _chunks(items: Iterator[Any]) -> Iterator[list[Any]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _hash_of(picture: Any) -> str:
    try:
        return content_hash(np.array(picture) if isinstance(picture, Image.Image) else picture)
    except DataError:
        return content_hash(b"")

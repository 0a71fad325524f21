"""Text in pictures: how much of a caption only repeats what its picture spells out (p051)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from binderclip.curate.engine.columns import ColumnValues
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.plain import shard_pictures, texts_of
from binderclip.curate.signals.text_reader import TextReader
from binderclip.data.images import open_image
from binderclip.errors import DataError, MissingDependency, UsageError

if TYPE_CHECKING:
    from PIL import Image


def cooccurring_text_rate(
    caption: str,
    ocr_text: str,
    *,
    fuzzy: float | None = None,
    normalize: Callable[[str], str] | None = None,
) -> float:
    """Share of a caption's words that stand in its picture: |words(caption) & words(picture)| / |words(caption)|.

    Of "Parrot Captions Teach CLIP to Spot Text" (arXiv 2312.14232). Words are what stands between white space, with
    their punctuation and case, each counted once; a caption above 0 parrots. The text of the paper calls this an
    intersection over union, its pseudo-code divides by the caption's words, as here.

    Args:
        caption: of the picture.
        ocr_text: what was read in the picture.
        fuzzy: a word also counts if a word of the picture has at least this normalised Levenshtein similarity,
            1 - distance / longer length; the paper's experiments have 0.8. None counts equal words alone.
        normalize: done to every word before, such as `str.lower`; words that become empty do not count.

    Returns:
        0 to 1; 0 for a caption without words.

    Raises:
        UsageError: fuzzy outside (0, 1].

    Examples:
        >>> round(cooccurring_text_rate("a red car", "RED car sale"), 3)
        0.333
    """
    if fuzzy is not None and not 0 < fuzzy <= 1:
        raise UsageError(f"fuzzy is {fuzzy}; a similarity of words is above 0 and at most 1")
    caption_words, read = (
        {word for raw in text.split() if (word := normalize(raw) if normalize else raw)} for text in (caption, ocr_text)
    )
    if not caption_words:
        return 0.0
    if fuzzy is None:
        return len(caption_words & read) / len(caption_words)
    return sum(any(_similarity(word, other) >= fuzzy for other in read) for word in caption_words) / len(caption_words)


def _similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance over the longer length, of words that are not empty."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return 1 - row[-1] / max(len(a), len(b))


@dataclass(frozen=True, eq=False)
class ReadText:
    """`ocr`: the text in each picture, read by a function of the caller; "" where a picture cannot be read.

    Args:
        read: RGB picture -> the words in it, between spaces; default `TextReader()`, where its package is installed.
            Without it the column comes from the data, or asking for it is an error that says so.
        version: names reader and settings, so that what it read is kept on disk; "" keeps nothing.

    Raises:
        UsageError: when it is called without a reader, and the default's package is not installed.
    """

    read: Callable[[Image.Image], str] | None = None
    version: str = ""
    name: str = "ocr"
    needs: tuple[str, ...] = ()

    def __call__(self, shard: Shard) -> ColumnValues:
        """One text a sample."""
        read = self.read or _default_reader()
        return [self._one(read, picture) for picture in shard_pictures(shard, self.name)]

    def _one(self, read: Callable[[Image.Image], str], picture: object) -> str:
        try:
            return str(read(open_image(picture).convert("RGB")))  # type: ignore[arg-type]  # as of `open_image`
        except DataError:
            return ""


@lru_cache(maxsize=1)
def _default_reader() -> TextReader:
    try:
        return TextReader()
    except MissingDependency as error:
        raise UsageError(
            "text in pictures is not read here: give the data a column `ocr` with the words of each picture, or "
            f"install a reader: {error}"
        ) from error


@dataclass(frozen=True)
class EmbeddedTextSignal:
    """`cotr`, the `cooccurring_text_rate` of caption and `ocr`; or `ocr_words`, the number of words in the picture.

    Args:
        name: which of them.
        fuzzy, normalize: of `cooccurring_text_rate`.
    """

    name: str = "cotr"
    fuzzy: float | None = None
    normalize: Callable[[str], str] | None = None
    version: str = ""
    needs: tuple[str, ...] = ("ocr", "text")

    def __call__(self, shard: Shard) -> Float[np.ndarray, "n"]:
        """One number a sample."""
        read = texts_of(shard, "ocr")
        if self.name == "ocr_words":
            return np.array([len(text.split()) for text in read], np.float64)
        pairs = zip(texts_of(shard, "text"), read, strict=True)
        rates = [cooccurring_text_rate(*pair, fuzzy=self.fuzzy, normalize=self.normalize) for pair in pairs]
        return np.array(rates, np.float64)


EMBEDDED_TEXT_SIGNALS = (ReadText(), EmbeddedTextSignal("cotr"), EmbeddedTextSignal("ocr_words"))

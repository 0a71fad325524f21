"""Does a model read? Cosines of pictures that show a word with that word as text (p051)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.made.words import render_text
from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

__all__ = ["STYLES", "TextSpottingBenchmark", "TextSpottingFigures"]

WHITE, GREY, BLACK = (255, 255, 255), (128, 128, 128), (0, 0, 0)
STYLES = ((WHITE, BLACK), (BLACK, WHITE), (GREY, WHITE), (GREY, BLACK))
"""Background and letters, as in the paper."""


@dataclass(frozen=True)
class TextSpottingFigures:
    """How alike words as pictures and as texts are.

    Attributes:
        mean, std: of the cosines of all words and styles.
        spotting: mean cosine of a word's picture with its own text less that with the other texts: 0 for a model that
            does not read, whatever its cosines' offset.
        by_length: letters -> mean. by_frequency: first rank of a tenth of the vocabulary, from 1 -> mean.
        cosines: (S, V) of each style and word with its own text.
    """

    mean: float
    std: float
    spotting: float
    by_length: dict[int, float]
    by_frequency: dict[int, float]
    cosines: Float[Tensor, "S V"]


class TextSpottingBenchmark:
    """Pictures of single words, centred on a plain ground, against the words as texts.

    The paper's letters are Arial of 32 pixels on 224; here they are Pillow's own font.

    Args:
        vocabulary: distinct words, the most frequent first; or word -> count.
        styles: (background, letters) of each picture of a word.
        side, size: of the picture and its letters, in pixels.
        template: put around each word as a text.

    Raises:
        UsageError: fewer than two words, one twice or empty, or no style.

    Paper: Parrot Captions Teach CLIP to Spot Text (arXiv 2312.14232).
    """

    def __init__(
        self,
        vocabulary: Sequence[str] | Mapping[str, float],
        *,
        styles: Sequence[tuple[tuple[int, int, int], tuple[int, int, int]]] = STYLES,
        side: int = 224,
        size: int = 32,
        template: str = "{}",
    ) -> None:
        if isinstance(vocabulary, Mapping):
            counts = vocabulary
            vocabulary = sorted(counts, key=lambda word: -counts[word])
        self.words = list(vocabulary)
        if len(self.words) < 2 or len(set(self.words)) < len(self.words) or not all(map(str.strip, self.words)):
            raise UsageError("the vocabulary must have at least two words, none empty and none twice")
        if not styles:
            raise UsageError("styles is empty: give at least one pair of background and colour of letters")
        self.styles, self.side, self.size, self.template = tuple(styles), side, size, template

    @torch.no_grad()
    def evaluate(self, model: ImageTextModel, *, batch_size: int = 64) -> TextSpottingFigures:
        """Measure a model.

        Raises:
            UsageError: a word that does not fit into the picture.
        """
        refuse_bare_module(model, "TextSpottingBenchmark.evaluate")
        texts = model.encode_text([self.template.format(word) for word in self.words], normalize=True)
        figures, total = [], 0.0
        for style in self.styles:
            features = self._features(model, *style, batch_size).to(texts)  # (V, E)
            figures.append((features * texts).sum(1).double())
            # The sum over all pairs needs no matrix of them.
            total += float(features.sum(0).double() @ texts.sum(0).double())
        own, count = torch.stack(figures).cpu(), len(self.words)  # (S, V)
        others = (total - float(own.sum())) / (len(self.styles) * count * (count - 1))
        means = own.mean(0)
        lengths = sorted({len(word) for word in self.words})
        tenth = -(-count // 10)
        return TextSpottingFigures(
            float(own.mean()),
            float(own.std(correction=0)),
            float(own.mean() - others),
            {n: float(means[[len(word) == n for word in self.words]].mean()) for n in lengths},
            {start + 1: float(means[start : start + tenth].mean()) for start in range(0, count, tenth)},
            own,
        )

    def _features(
        self, model: ImageTextModel, ground: tuple[int, int, int], letters: tuple[int, int, int], batch_size: int
    ) -> Float[Tensor, "V E"]:
        from PIL import Image

        blank = Image.new("RGB", (self.side, self.side), ground)
        pictures = (render_text(blank, word, size=self.size, colour=letters).image for word in self.words)
        parts = []
        while part := list(islice(pictures, batch_size)):
            parts.append(model.encode_image(part, normalize=True, batch_size=batch_size))
        return torch.cat(parts)

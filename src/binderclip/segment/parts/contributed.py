"""Scores from the exact decomposition of the image embedding: what attention to each patch contributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from binderclip.models.towers import Record, Recorder, Site
from binderclip.models.towers.contributions import TERMS, Contributions, contributions
from binderclip.segment.parts.context import Context, to_map
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.text import BoundText


@dataclass(frozen=True)
class TokenContributions:
    """A `fusion` part: how much attention to each patch adds to the cosine with every word, blocks and heads summed.

    No block is rewired, so the segmenter's `last_block` plays no role. Over the patches, the prefix tokens and what is
    no token's (MLPs, biases, the stem) the scores sum to the cosine of the whole window with the word; those of single
    patches are small, and probabilities of the classes accordingly flat.

    Args:
        layers: blocks that are summed (negative from the end); None for all.

    Raises:
        NotSupported: when used, on a tower whose embedding is no sum (maximum pooling, MLP projection, inner norms).
    """

    layers: Sequence[int] | None = None

    @property
    def record(self) -> Record:
        """What the sum is made of, so that no block runs twice."""
        return Record(*TERMS)

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Parts of the cosines."""
        return self._map(context, self._terms(context, text.rows))

    def features(self, context: Context) -> Float[Tensor, "B E gh gw"]:
        """What each patch contributes to the unit embedding."""
        return self._map(context, self._terms(context, None))

    def _terms(self, context: Context, onto: Tensor | None) -> Contributions:
        tower = context.tower
        recorder = Recorder(self.record, tower.depth)
        final = tower.run(context.tokens, start=-1, record=recorder)
        sites = context.sites | recorder.values
        whole = all(Site(name, layer) in sites for name in TERMS for layer in range(tower.depth))
        return contributions(
            tower, context.start, final, by="token", layers=self.layers, onto=onto, recorded=sites if whole else None
        )

    @staticmethod
    def _map(context: Context, terms: Contributions) -> Tensor:
        height, width = context.grid
        patches = terms.unit().values.sum(1)[:, context.prefix : context.prefix + height * width]
        return to_map(patches, context.grid)

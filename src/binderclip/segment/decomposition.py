"""Zero-shot segmentation by what attention to each patch adds to the image embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.segment.output.result import Segmentation
from binderclip.segment.parts.contributed import TokenContributions
from binderclip.segment.segmenter import Segmenter


class DecompositionSegmenter(Segmenter):
    """Labels pixels by the share their patches have in the image embedding: the preset `decomposition`.

    The embedding is an exact sum over source tokens of attention; the terms of a patch, compared with a text, are its
    heat map. Nothing is trained and no block is rewired.

    Paper: Interpreting CLIP's Image Representation via Text-Based Decomposition (arXiv 2310.05916).

    Args:
        model: an `ImageTextModel` with a transformer image tower.
        layers: blocks that are summed (negative from the end); None for all, (-4, -3, -2, -1) for the last four.
        options: of `Segmenter`, `size` and `background` among them.

    Raises:
        NotSupported: the tower cannot be opened, or its embedding is no sum (when called).
        UsageError: bad options.

    Examples:
        >>> DecompositionSegmenter(model)("street.jpg", ["car", "tree"]).overlay()               # doctest: +SKIP
        >>> DecompositionSegmenter(model).foreground("cat.jpg", "a cat", ["a dog", "a house"])   # doctest: +SKIP
    """

    def __init__(self, model: Any, *, layers: Sequence[int] | None = None, **options: Any) -> None:
        refuse_bare_module(model, "DecompositionSegmenter")
        part = TokenContributions(None if layers is None else tuple(layers))
        super().__init__(model, "decomposition", **{"fusion": part, **options})

    def foreground(self, image: Any, label: str, others: Sequence[str]) -> Segmentation:
        """Where the label is, as the paper finds it: the label's heat above the mean of its map.

        The heat is that of the label minus the mean over all classes, in logits.

        Args:
            image: as for the call itself.
            label: what is looked for.
            others: what it is compared with, at least one class.

        Returns:
            Classes ("background", label); the background's score is the mean of the label's, everywhere.

        Raises:
            UsageError: no other class.
        """
        if isinstance(others, str) or not list(others):
            raise UsageError(f"others={others!r}: give a list of at least one class to compare {label!r} with")
        segmentation = self(image, [label, *(name for name in others if name != label)])
        row = segmentation.classes.index(label)
        heat = segmentation.scores[row] - segmentation.scores.mean(dim=0)
        scores = torch.stack([heat.mean().expand_as(heat), heat])
        drawn = torch.nn.functional.interpolate(scores[None], size=segmentation.size, mode="bilinear")[0]
        labels = (drawn[1] > drawn[0]).to(torch.int32)
        return replace(segmentation, classes=("background", label), labels=labels, scores=scores, background=True)

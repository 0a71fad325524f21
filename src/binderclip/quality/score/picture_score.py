"""What every score of pictures without reference has: features of files, and scores of features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.models.image_text.encode import EncodedImages, OnError
from binderclip.models.image_text.preprocess import ImageLike


@dataclass(frozen=True)
class QualityScores:
    """Scores of the pictures that could be read.

    Attributes:
        keys: names of the N pictures: paths, or positions for other sources.
        names: of the S scores: sets of prompts, or one.
        each: (N, S) each alone, in [0, 1], higher is better.
        total: (N,) the score over all.
        skipped: (key, reason) of the pictures that could not be read.
    """

    keys: list[str]
    names: list[str]
    each: Float[Tensor, "N S"]
    total: Float[Tensor, "N"]
    skipped: list[tuple[str, str]]


class PictureScore(nn.Module, ABC):
    """Base of the scores that need no reference; higher is better.

    A score says what its features of files are (`files`), and what it makes of features (`each`, `total`).
    """

    lower_better = False

    @property
    def names(self) -> list[str]:
        """Of the columns of `each`."""
        return ["quality"]

    @abstractmethod
    def files(
        self,
        sources: Sequence[ImageLike],
        *,
        batch_size: int = 64,
        on_error: OnError = "skip",
        progress: Callable[[int], object] | None = None,
    ) -> EncodedImages:
        """Features of pictures, without gradients; the arguments are those of `score_files`."""

    @abstractmethod
    def total(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N"]:
        """The score of features."""

    def each(self, features: Float[Tensor, "N F"]) -> Float[Tensor, "N S"]:
        """The scores that `total` is made of; itself where it is one."""
        return self.total(features)[:, None]

    @torch.no_grad()
    def score_files(
        self,
        sources: Sequence[ImageLike],
        *,
        batch_size: int = 64,
        on_error: OnError = "skip",
        progress: Callable[[int], object] | None = None,
    ) -> QualityScores:
        """Score many pictures in one pass; unreadable ones are left out and named.

        Args:
            sources: paths, bytes, PIL images, arrays or 8-bit tensors.
            batch_size: pictures that go through the network at once, at most.
            on_error: `skip`, or `raise` at the first picture that cannot be read.
            progress: called with the number of pictures done after every batch.

        Raises:
            DataError: an unreadable picture, with `on_error="raise"`.
        """
        scores = self.files(list(sources), batch_size=batch_size, on_error=on_error, progress=progress)
        each, total = self.each(scores.features).cpu(), self.total(scores.features).cpu()
        return QualityScores(scores.keys, self.names, each, total, scores.skipped)

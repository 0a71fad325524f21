"""The direction from backlit to well-lit pictures in an embedding space, and what it says in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.quality.enhance.light_prompts import LightGuidance

RESIDUAL_WEIGHT = 1920.0
"""6 * 16 * 20 on the squared distance."""
SAME = 1e-6
"""Length of a difference of means below which they are the same."""


class ResidualVector(LightGuidance):
    """Lead results along the difference of two means until they are as far along it as well-lit pictures are.

        mu = unit(mean of unit embeddings) of either set,  r = unit(mu_well - mu_back),  theta = mu_well . r
        loss = 1920 * mean (v . r - theta)^2

    Nothing is learned. Without the threshold theta results would become ever brighter.

    Args:
        mean: mu_well, (E,).
        direction: r, (E,); normalised here.

    Attributes:
        theta: the threshold.

    Raises:
        DataError: a direction of length 0.

    Paper: RAVE: Residual Vector Embedding for CLIP-Guided Backlit Image Enhancement (arXiv 2404.01889).

    Examples:
        >>> residual = ResidualVector.between(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        >>> residual.direction
        tensor([ 0.7071, -0.7071])
    """

    mean: Tensor
    direction: Tensor

    def __init__(self, mean: Float[Tensor, "E"], direction: Float[Tensor, "E"]) -> None:
        super().__init__()
        if not float(direction.norm()) > SAME:
            raise DataError("well-lit and backlit pictures have the same mean: there is no direction between them")
        self.register_buffer("mean", mean.detach().float())
        self.register_buffer("direction", F.normalize(direction.detach().float(), dim=-1))

    @classmethod
    def between(cls, well_lit: Float[Tensor, "M E"], backlit: Float[Tensor, "N E"]) -> ResidualVector:
        """Of embeddings of two sets of pictures, paired or not.

        Args:
            well_lit, backlit: a row a picture, of any length.

        Raises:
            DataError: the means are the same.
            UsageError: a set without a row.
        """
        if not len(well_lit) or not len(backlit):
            raise UsageError(f"{len(well_lit)} well-lit and {len(backlit)} backlit pictures: one of each at least")
        above, below = (F.normalize(F.normalize(x.double(), dim=-1).mean(0), dim=-1) for x in (well_lit, backlit))
        return cls(above, above - below)

    @property
    def theta(self) -> Float[Tensor, ""]:
        """How far along the direction the mean of well-lit pictures lies."""
        return self.mean @ self.direction

    def along(self, features: Float[Tensor, "*B E"]) -> Float[Tensor, "*B"]:
        """How far along the direction embeddings lie, minus theta: below 0 light is missing."""
        return F.normalize(features, dim=-1) @ self.direction - self.theta

    def loss(self, features: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
        return RESIDUAL_WEIGHT * self.along(features).square().mean()

    def words(self, model: ImageTextModel, words: Sequence[str]) -> list[tuple[str, float]]:
        """Words and the cosines of their texts with the direction, from what it adds to what it takes away.

        Args:
            model: whose embeddings the direction lies among.
            words: any texts; the paper takes all tokens of the vocabulary.
        """
        refuse_bare_module(model, "ResidualVector.words")
        with torch.no_grad():
            cosines = model.encode_text(list(words), normalize=True).float() @ self.direction.to(model.device)
        order = cosines.argsort(descending=True, stable=True).tolist()
        return [(words[row], float(cosines[row])) for row in order]

    def without(self, texts: Float[Tensor, "W E"], n: int = 15) -> ResidualVector:
        """The same without what content of the two sets gave it: words most and least along it are projected away.

            a = unit(mean of c_w text_w over the n highest), b over the n lowest, m = unit(a + b), r' = r - m (m . r)

        Args:
            texts: raw embeddings of words, best of those that are no matter of light.
            n: highest and lowest words. The official script takes 15 whatever it is asked for.

        Raises:
            UsageError: n below 1, or fewer than 2 n words.
            DataError: nothing is left of the direction.
        """
        if n < 1 or len(texts) < 2 * n:
            raise UsageError(f"n = {n} from either end asks for at least {max(2 * n, 2)} texts, got {len(texts)}")
        raw, along = texts.detach().double(), self.direction.double()
        cosines = F.normalize(raw, dim=-1) @ along  # (W,)
        order = cosines.argsort(descending=True, stable=True)
        ends = [F.normalize((cosines[rows, None] * raw[rows]).mean(0), dim=-1) for rows in (order[:n], order[-n:])]
        away = F.normalize(ends[0] + ends[1], dim=-1)
        return ResidualVector(self.mean, along - away * (away @ along))

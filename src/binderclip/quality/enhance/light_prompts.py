"""Two ends of light, well-lit and backlit, as vectors: of words, of learned prompts, or learned themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.text.prompts import STD, trimmed, word_std
from binderclip.numeric import check_number

WORDS = ("a well-lit photo", "a backlit photo")


class LightGuidance(nn.Module, ABC):
    """Says of embeddings how much light their pictures lack.

    Attributes:
        lr: learning rate of what it learns, by Adam.
    """

    lr: ClassVar[float] = 0.0

    @abstractmethod
    def loss(self, features: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
        """What an enhancer descends, with the paper's weight, mean over pictures.

        Args:
            features: embeddings of its results.
        """


class LightPrompts(LightGuidance):
    """A pair of vectors, well-lit and backlit: the probability of backlit is softmax(scale * v . [t_well, t_back])_2.

    Args:
        scale: factor on the cosines.
    """

    weight: ClassVar[float] = 320.0
    """The paper's 16 * 20 on the mean probability."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    @property
    @abstractmethod
    def vectors(self) -> Float[Tensor, "2 E"]:
        """Unit vectors of the well-lit and the backlit end."""

    def logits(self, features: Float[Tensor, "*B E"]) -> Float[Tensor, "*B 2"]:
        """Scaled cosines with the well-lit and the backlit end."""
        return self.scale * F.normalize(features, dim=-1) @ self.vectors.T

    def backlit(self, features: Float[Tensor, "*B E"]) -> Float[Tensor, "*B"]:
        """The probability of the backlit end, in [0, 1]."""
        return self.logits(features).softmax(-1)[..., 1]

    def loss(self, features: Float[Tensor, "B E"]) -> Float[Tensor, ""]:
        return self.weight * self.backlit(features).mean()


class LightWords(LightPrompts):
    """The pair of two texts, which stay: what CLIP-LIT is compared with.

    Args:
        model: an image-text model.
        words: the well-lit and the backlit text.
        scale: None is the model's own.
    """

    def __init__(self, model: ImageTextModel, words: tuple[str, str] = WORDS, *, scale: float | None = None) -> None:
        refuse_bare_module(model, "LightWords")
        super().__init__(_scale(model, scale))
        with torch.no_grad():
            held = model.encode_text(list(words), normalize=True).float()
        self.held: Tensor
        self.register_buffer("held", held)

    @property
    def vectors(self) -> Float[Tensor, "2 E"]:
        return self.held


class LearnedLightPrompts(LightPrompts):
    """The pair of two learned sentences: every token vector of each is learned, those of start and end too.

    Both begin as "X X ... X" and are read off where that sentence ends; positions are added as to any sentence. The
    text tower is used and never changed.

    Args:
        model: an image-text model.
        n_ctx: X's. Default the paper's 16, or what fits.
        scale: None is the model's own.

    Attributes:
        table: the parameter, (2, L, D), in units in which the standard deviation of the model's word vectors is
            0.02 as CLIP's, so that the paper's learning rate means the same for every model. Tokens behind the end,
            which a causal tower never reads, are left out.

    Paper: Iterative Prompt Learning for Unsupervised Backlit Image Enhancement (arXiv 2303.17569).
    """

    lr = 5e-6

    def __init__(self, model: ImageTextModel, *, n_ctx: int = 16, scale: float | None = None) -> None:
        refuse_bare_module(model, "LearnedLightPrompts")
        super().__init__(_scale(model, scale))
        check_number("n_ctx", n_ctx, least=1)
        self._tower = model.text_tower
        count = min(n_ctx, self._tower.context_length - 2)
        self._ids = trimmed(self._tower, model.tokenize([" ".join("X" * count)] * 2))
        with torch.no_grad():
            words = self._tower.embed_tokens(self._ids.ids.to(self._tower.device)).float()
        self.unit = word_std(self._tower) / STD
        self.table = nn.Parameter(words / self.unit)

    @property
    def vectors(self) -> Float[Tensor, "2 E"]:
        tower, ids = self._tower, self._ids.to(self.table.device)
        tokens = tower.embed(ids.ids, override=self.table * self.unit, pool_at=ids.position)
        return F.normalize(tower.project(tower.pool(tower.run(tokens))).float(), dim=-1)


class LatentPromptGuidance(LightPrompts):
    """The pair of two vectors that are learned in the embedding space itself, without a text tower (CLIP-LIT-Latent).

    Args:
        width: E.
        scale: factor on the cosines. Default CLIP's 100.
        seed: of the start, Xavier's normal distribution.

    Paper: RAVE: Residual Vector Embedding for CLIP-Guided Backlit Image Enhancement (arXiv 2404.01889).
    """

    lr = 5e-4

    def __init__(self, width: int, *, scale: float = 100.0, seed: int = 0) -> None:
        super().__init__(scale)
        generator = torch.Generator().manual_seed(seed)
        self.ends = nn.Parameter(nn.init.xavier_normal_(torch.empty(2, width), generator=generator))

    @property
    def vectors(self) -> Float[Tensor, "2 E"]:
        return F.normalize(self.ends, dim=-1)


def _scale(model: ImageTextModel, scale: float | None) -> float:
    with torch.no_grad():
        return float(model.scale()) if scale is None else scale

"""Discriminators of what an image-text model sees: middle maps place by place, and a learned pair of prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.text.prompts import PromptContext


def real_fake_loss(logits: Sequence[Tensor], *, real: bool) -> Float[Tensor, ""]:
    """Binary cross-entropy against one answer: mean over places, then over levels.

    Args:
        logits: of each level.
        real: what they should say.
    """
    target = float(real)
    each = [F.binary_cross_entropy_with_logits(x, torch.full_like(x, target)) for x in logits]
    return torch.stack(each).mean()


class FeatureDiscriminator(nn.Module):
    """Is the picture real, asked at every place of several feature maps.

    For each level: convolutions 1x1 to 256 channels, 3x3 to 256, 3x3 to 128 and 1x1 to one logit, spectrally
    normalised, with leaky ReLU (0.2) between them; a logit sees five by five places.

    Args:
        channels: of the map of each level.
        hidden: channels of the first two convolutions; the third has half of them. Default the 256 above.

    Raises:
        UsageError: no level.

    Paper: Exploring Semantic Feature Discrimination for Perceptual Image Super-Resolution and Opinion-Unaware
    No-Reference Image Quality Assessment (arXiv 2503.19295); no training code is public, so the widths are common ones.
    """

    def __init__(self, channels: Sequence[int], *, hidden: int = 256) -> None:
        super().__init__()
        if not channels:
            raise UsageError("channels is empty: one number for each level")
        self.heads = nn.ModuleList([self._head(width, hidden) for width in channels])

    @staticmethod
    def _head(width: int, hidden: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after, side in ((width, hidden, 1), (hidden, hidden, 3), (hidden, hidden // 2, 3)):
            layers += [spectral_norm(nn.Conv2d(before, after, side, padding=side // 2)), nn.LeakyReLU(0.2)]
        return nn.Sequential(*layers, spectral_norm(nn.Conv2d(hidden // 2, 1, 1)))

    def forward(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> list[Tensor]:
        """A logit for every place of every level, (B, 1, h, w) each; above 0 is real.

        Raises:
            UsageError: another number of maps.
        """
        if len(maps) != len(self.heads):
            raise UsageError(f"{len(maps)} maps for {len(self.heads)} levels")
        return [head(x) for head, x in zip(self.heads, maps, strict=True)]

    def score(self, maps: Sequence[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "B"]:
        """The mean probability of being real, over places, then over levels, in [0, 1]."""
        return torch.stack([x.sigmoid().mean((1, 2, 3)) for x in self(maps)]).mean(0)


class PromptPairDiscriminator(nn.Module):
    """Is the picture real, asked of two learned prompts: softmax(scale * v . [t_real, t_fake]).

    Both prompts are vectors in the place of words, with no word of a class, in front of the full stop; the text tower
    is used and never changed.

    Args:
        model: an image-text model.
        n_ctx: vectors a prompt. Default the paper's 16, or what fits.
        scale: factor on the cosines. Default the paper's 100.
        seed: of the start, N(0, 0.02^2) in CLIP's units.

    Paper: as `FeatureDiscriminator` (learnable prompt pair, text-guided discrimination).
    """

    def __init__(self, model: ImageTextModel, *, n_ctx: int = 16, scale: float = 100.0, seed: int = 0) -> None:
        refuse_bare_module(model, "PromptPairDiscriminator")
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.prompts = PromptContext(model, ["."], n_ctx=min(n_ctx, _room(model)), n_prompts=2, generator=generator)
        self.scale = scale

    @property
    def text(self) -> Float[Tensor, "2 E"]:
        """Unit features of the real and the fake prompt."""
        return F.normalize(self.prompts()[:, 0], dim=-1)

    def logits(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B 2"]:
        """Scaled cosines with the real and the fake prompt."""
        return self.scale * F.normalize(embedding, dim=-1) @ self.text.T

    def loss(self, embedding: Float[Tensor, "B E"], *, real: bool) -> Float[Tensor, ""]:
        """-log of the probability of one answer, mean over pictures."""
        answer = torch.full((len(embedding),), 0 if real else 1, device=embedding.device)
        return F.cross_entropy(self.logits(embedding), answer)

    def score(self, embedding: Float[Tensor, "B E"]) -> Float[Tensor, "B"]:
        """The probability of being real, in [0, 1]."""
        return self.logits(embedding).softmax(-1)[:, 0]


def _room(model: ImageTextModel) -> int:
    """Vectors that fit beside a full stop and the tokens around a text."""
    return max(1, model.text_tower.context_length - 4)

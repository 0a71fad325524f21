"""Grouping of patches by a few learned centres, each patch to one, and its way back to patches (SegCLIP)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from open_clip.transformer import QuickGELU
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

__all__ = ["GroupedPatches", "PatchRestoration", "SemanticGrouping"]


@dataclass(frozen=True)
class GroupedPatches:
    """Groups of patches.

    Attributes:
        tokens: (B, G, D) one a group.
        hard: (B, G, N) the one centre of each patch, columns sum to 1; the gradient is that of probabilities.
        soft: (B, G, N) probabilities over the centres, without noise; columns sum to 1.
    """

    tokens: Float[Tensor, "B G D"]
    hard: Float[Tensor, "B G N"]
    soft: Float[Tensor, "B G N"]


class CentreAttention(nn.Module):
    """A pre-norm block: centres attend to themselves and the patches, then the MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_centres, self.norm_keys, self.norm = (nn.LayerNorm(width) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), QuickGELU(), nn.Linear(4 * width, width))

    def forward(self, centres: Float[Tensor, "B G D"], patches: Float[Tensor, "B N D"]) -> Float[Tensor, "B G D"]:
        """Updated centres."""
        keys = self.norm_keys(torch.cat([centres, patches], 1))  # (B, G + N, D)
        centres = centres + self.attention(self.norm_centres(centres), keys, keys, need_weights=False)[0]
        return centres + self.mlp(self.norm(centres))


class SemanticGrouping(nn.Module):
    """Learned centres look at the patches of a picture, then each patch goes to one of them; a group is their mean.

    In training the choice is drawn (Gumbel noise) and differentiable by the straight-through estimator; in eval mode
    the likeliest centre has the patch. A centre without a patch keeps its own token.

    Args:
        width: D of the patches.
        groups: number G of centres.
        heads: of the attention and of the grouped projections, a divisor of `width`; default `width // 64`.
        layers: rounds in which the centres look at the patches.
        temperature: of the draw.

    Raises:
        UsageError: heads that do not divide the width, a number below 1, or a temperature that is not positive.

    Paper: SegCLIP: Patch Aggregation with Learnable Centers for Open-Vocabulary Semantic Segmentation (ICML 2023,
    arXiv 2211.14813). Its released cross-attention attends across the batch; here each picture is by itself.

    Examples:
        >>> found = SemanticGrouping(64, groups=4)(torch.randn(2, 49, 64))
        >>> found.tokens.shape, found.hard.shape
        (torch.Size([2, 4, 64]), torch.Size([2, 4, 49]))
    """

    def __init__(
        self, width: int, *, groups: int = 8, heads: int | None = None, layers: int = 2, temperature: float = 0.9
    ) -> None:
        super().__init__()
        heads = max(1, width // 64) if heads is None else heads
        if min(width, groups, heads, layers) < 1 or width % heads or not temperature > 0:
            raise UsageError(
                "width must be a multiple of heads, groups and layers at least 1 and temperature positive, not "
                f"width={width}, heads={heads}, groups={groups}, layers={layers}, temperature={temperature}"
            )
        self.temperature = temperature
        self.centres = nn.Parameter(nn.init.trunc_normal_(torch.empty(groups, width), std=0.02))
        self.look = nn.ModuleList(CentreAttention(width, heads) for _ in range(layers))
        self.norm_patches, self.norm_centres, self.norm_keys, self.norm = (nn.LayerNorm(width) for _ in range(4))
        self.key, self.value = (nn.Conv1d(width, width, 1, groups=heads, bias=False) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.activation = QuickGELU()

    def forward(self, patches: Float[Tensor, "B N D"]) -> GroupedPatches:
        """Groups of these patches, in any order and number."""
        centres = self.centres.expand(len(patches), -1, -1).to(patches)
        for look in self.look:
            centres = look(centres, patches)
        centres = self.norm_centres(centres)  # q (B, G, D)
        normal = self.norm_patches(patches).mT  # (B, D, N)
        scores = centres @ self.norm_keys(self.key(normal).mT).mT  # S (B, G, N), unscaled
        soft = scores.softmax(1)
        if self.training:
            hard = F.gumbel_softmax(scores, tau=self.temperature, hard=True, dim=1)
        else:
            chosen = F.one_hot(scores.argmax(1), scores.shape[1]).mT.to(soft)
            hard = chosen - soft.detach() + soft
        mean = (hard @ self.value(normal).mT) / hard.sum(-1, keepdim=True).clamp(min=1)  # (B, G, D)
        return GroupedPatches(self.activation(self.mlp(self.norm(centres + mean))), hard, soft)


class PatchRestoration(nn.Module):
    """Patches out of groups: each is a mixture of the groups' tokens, by weights made of its assignment.

    Args:
        groups: number G of groups.

    Paper: SegCLIP (arXiv 2211.14813).
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.weigh, self.activation = nn.Linear(groups, groups), QuickGELU()

    def forward(self, tokens: Float[Tensor, "B G D"], hard: Float[Tensor, "B G N"]) -> Float[Tensor, "B N D"]:
        """Restored patches.

        Args:
            tokens: of the groups.
            hard: the centre of each patch, see `GroupedPatches`.
        """
        return self.activation(self.weigh(hard.mT) @ tokens)

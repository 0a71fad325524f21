"""From what an image tower sees to what a generator is told: which tokens, through which layers, into which input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.towers import Tower

__all__ = ["ConditionTap", "ImageCondition", "VisualFeatures"]

Bridge = Literal["linear", "mlp"]


@dataclass(frozen=True)
class VisualFeatures:
    """What a tower says of pictures, in the shared space and not normalised.

    Attributes:
        embedding: of the whole picture.
        patches: of each patch, through the final norm and the projection; None where nobody asks for them.
    """

    embedding: Float[Tensor, "B E"]
    patches: Float[Tensor, "B N E"] | None = None


@dataclass(frozen=True)
class ImageCondition:
    """What a generator is told of pictures.

    Attributes:
        sequence: tokens that it attends to, in the place of a prompt's.
        pooled: one vector, added to the embedding of the time.
    """

    sequence: Float[Tensor, "B S W"] | None = None
    pooled: Float[Tensor, "B P"] | None = None

    def rolled(self, by: int = 1) -> ImageCondition:
        """The conditions of other pictures of the batch, row i with that of row i - by: a control."""
        parts = {"sequence": self.sequence, "pooled": self.pooled}
        return replace(self, **{name: part.roll(by, 0) for name, part in parts.items() if part is not None})


class ConditionTap(nn.Module):
    """Turns the features of a tower into a generator's condition; gradients flow back into the tower.

    Features are never normalised: their length carries information.

    Args:
        embed_dim: E, of the shared space.
        sequence_width: W, of the generator's tokens; None gives it no sequence.
        pooled_width: P, of the generator's vector; None gives it none.
        local: patch tokens that follow the embedding in the sequence: how many are drawn, uniformly with replacement,
            anew at every call; or "all", row by row. 0: the embedding alone.
        pool: with "all", means over so many patches in a row, as far as they go.
        bridge: the trained layers between: "linear"; "mlp", a layer norm and two linear layers with GELU between,
            one such for each input of the generator; None, nothing, which needs widths of `embed_dim`.
        prompt: the generator's tokens of an empty prompt, which the sequence is added to: token by token where there
            are as many, otherwise their mean. Not trained.

    Raises:
        UsageError: settings that do not fit together.
    """

    prompt: Tensor | None

    def __init__(
        self,
        embed_dim: int,
        *,
        sequence_width: int | None = None,
        pooled_width: int | None = None,
        local: int | Literal["all"] = 0,
        pool: int = 1,
        bridge: Bridge | None = "linear",
        prompt: Float[Tensor, "S W"] | None = None,
    ) -> None:
        super().__init__()
        check_whole("embed_dim", embed_dim, least=1)
        check_whole("pool", pool, least=1)
        if bridge is not None:
            check_choice("bridge", bridge, ("linear", "mlp"))
        if local != "all":
            check_whole("local", local, least=0)
        widths = [width for width in (sequence_width, pooled_width) if width is not None]
        if not widths:
            raise UsageError("a condition needs sequence_width, pooled_width or both")
        for width in widths:
            check_whole("the width of a condition", width, least=1)
        if sequence_width is None and (local != 0 or prompt is not None):
            raise UsageError("patch tokens and a prompt go into the sequence: give sequence_width")
        if pool > 1 and local != "all":
            raise UsageError(f"pool = {pool} takes means over all patches: set local = 'all'")
        if bridge is None and any(width != embed_dim for width in widths):
            raise UsageError(f"without a bridge the generator's widths are embed_dim = {embed_dim}, got {widths}")
        if prompt is not None and (prompt.ndim != 2 or prompt.shape[1] != sequence_width or not len(prompt)):
            raise UsageError(f"prompt must be (S, {sequence_width}), got {tuple(prompt.shape)}")
        self.embed_dim, self.local, self.pool = embed_dim, local, pool
        self.sequence = None if sequence_width is None else _bridge(bridge, embed_dim, sequence_width)
        self.pooled = None if pooled_width is None else _bridge(bridge, embed_dim, pooled_width)
        self.register_buffer("prompt", None if prompt is None else prompt.detach().clone())

    def features(self, tower: Tower, pixels: Float[Tensor, "B 3 H W"]) -> VisualFeatures:
        """What the tower says of pictures, by one forward.

        Args:
            tower: with a shared space of `embed_dim`.
            pixels: normalised as the tower takes them.
        """
        tokens = tower.run(tower.embed(pixels))
        embedding = tower.project(tower.pool(tokens))
        if embedding.shape[-1] != self.embed_dim:
            raise UsageError(
                f"the tower's space has {embedding.shape[-1]} dimensions, not embed_dim = {self.embed_dim}"
            )
        return VisualFeatures(embedding, tower.project(tower.norm(tokens.patches)) if self.local else None)

    def tokens(self, features: VisualFeatures, generator: torch.Generator | None = None) -> Float[Tensor, "B S E"]:
        """The embedding and the chosen patch tokens, before the bridge.

        Args:
            features: of the tower.
            generator: of the draw, on the CPU or the features' device; default torch's.
        """
        whole = features.embedding[:, None]  # (B, 1, E)
        if self.local == 0:
            return whole
        patches = features.patches
        if patches is None or not patches.shape[1]:
            raise UsageError("this condition needs patch tokens, and the features have none")
        if self.local == "all":
            if self.pool > patches.shape[1]:
                raise UsageError(f"pool = {self.pool} is more than the {patches.shape[1]} patches")
            return torch.cat([whole, F.avg_pool1d(patches.mT, self.pool).mT], 1)
        where = patches.device if generator is None else generator.device
        shape = (len(patches), self.local, 1)
        index = torch.randint(patches.shape[1], shape, generator=generator, device=where).to(patches.device)
        return torch.cat([whole, patches.gather(1, index.expand(-1, -1, patches.shape[2]))], 1)

    def forward(self, features: VisualFeatures, generator: torch.Generator | None = None) -> ImageCondition:
        """The condition of pictures.

        Args:
            features: of the tower.
            generator: of drawn patches, on the CPU or the features' device; default torch's.
        """
        sequence = pooled = None
        if self.sequence is not None:
            sequence = self.sequence(self.tokens(features, generator))
            if self.prompt is not None:
                same = len(self.prompt) == sequence.shape[1]
                sequence = sequence + (self.prompt if same else self.prompt.mean(0))
        if self.pooled is not None:
            pooled = self.pooled(features.embedding)
        return ImageCondition(sequence, pooled)


def _bridge(kind: Bridge | None, width_in: int, width: int) -> nn.Module:
    if kind is None:
        return nn.Identity()
    if kind == "linear":
        return nn.Linear(width_in, width)
    return nn.Sequential(nn.LayerNorm(width_in), nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width))

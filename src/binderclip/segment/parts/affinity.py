"""Affinity of patches from outside the tower's last attention: features of another image model, and their cosines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import correlation
from binderclip.models.towers import Block, Record
from binderclip.models.towers.block import join_heads
from binderclip.numeric import check_number
from binderclip.segment.parts.context import Context, resample, to_map
from binderclip.segment.parts.last_block import PatchWeights, Qkv
from binderclip.segment.parts.resolution import resized
from binderclip.segment.parts.rewire import PLACES, terms_of
from binderclip.settings import check_choice

#: pixels (B, 3, h, w) in [0, 1] -> features (B, C, gh, gw) on a grid of their own; no need for unit length
Features: TypeAlias = "Callable[[Tensor], Tensor]"

OWN = "own"
"""Name of the source that needs no other model: the tower's normalised tokens as they enter the last block."""
TOKENS = "tokens"
"""What `External` takes of a tower unless told otherwise."""


@dataclass(frozen=True)
class External:
    """Dense features that say which patches belong together, for the windows that are segmented.

    Args:
        source: a callable from pixels to features; or the name of a vision tower (`models.load_vision`), whose last
            patch tokens are used; or `own` for the tokens of the segmenter's own tower before its last block.
        per: `window` runs the source on every window; `image` runs it once on the picture at its own size and cuts the
            windows out of its features.
        size: shorter side in pixels at which a named tower sees what it is given; None as it comes.
        of: what of a named tower or `own`: its `tokens`; or queries, keys or values of its last block, heads side by
            side, or the sum of several, such as "q+k".

    Raises:
        UsageError: an unknown `per` or `of`, `of` with a callable, or a source that gives no (B, C, h, w).
    """

    source: str | Features = OWN
    per: Literal["window", "image"] = "window"
    size: int | None = None
    of: str = TOKENS

    def __post_init__(self) -> None:
        check_choice("per", self.per, ("window", "image"))
        if self.of != TOKENS:
            terms_of(self.of)
            if not isinstance(self.source, str):
                raise UsageError(f"of={self.of!r} needs the name of a tower or own as source, not {self.source!r}")

    @property
    def record(self) -> Record:
        """Nothing of earlier blocks."""
        return Record()

    def __call__(self, context: Context) -> Float[Tensor, "B C gh gw"]:
        """Unit features of every window; made once for all segmenters of one call."""
        key = ("external", self)
        if key not in context.notes:
            context.notes[key] = F.normalize(self._raw(context).float(), dim=1)
        return context.notes[key]

    def _raw(self, context: Context) -> Tensor:
        if self.source == OWN and self.of != TOKENS:
            return to_map(summed(context.qkv(-1), self.of)[:, context.prefix :], context.grid)
        if self.source == OWN:
            return to_map(context.block.norm1(context.tokens.x)[:, context.prefix :], context.grid)
        if self.per == "window":
            return self._features(context.pixels)
        frame = context.frame
        whole = frame.once(("external", self), lambda: self._features(frame.image))
        patch = context.pixels.shape[-1] // context.grid[1]
        grid = tuple(side // patch for side in frame.pixels.shape[-2:])
        # On the tower's grid of the whole picture, so that every window is whole cells of it.
        spread = resample(whole, (grid[0], grid[1]))[0]
        (height, width), corners = context.grid, [(y // patch, x // patch) for y, x in context.places]
        return torch.stack([spread[:, y : y + height, x : x + width] for y, x in corners])

    def _features(self, pixels: Float[Tensor, "B 3 h w"]) -> Tensor:
        source = self.source
        features = _named(source, pixels, self.size, self.of) if isinstance(source, str) else source(pixels)
        if features.ndim != 4 or len(features) != len(pixels):
            raise UsageError(
                f"features of {len(pixels)} pictures must be of shape (B, C, h, w), not {tuple(features.shape)}"
            )
        return features.to(pixels.device)


def cosines(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N N"]:
    """Cosine of every patch with every patch, N = h * w."""
    return correlation(features.flatten(2).mT)


def summed(qkv: Qkv, of: str) -> Float[Tensor, "B L D"]:
    """The sum of queries, keys or values (see `External.of`), heads side by side."""
    return torch.stack([join_heads(qkv[PLACES[term]]) for term in terms_of(of)]).sum(0)


@dataclass(frozen=True)
class CentredSoftmax:
    """Patches attend to what outside features hold to be like them: cosines above their mean, through a softmax.

    weights = softmax(gamma * (cosine - beta * mean cosine)), entries below 0 left out. This takes the place of the last
    block's attention between patches, so that the values stay those of the text's space.

    Args:
        features: of the windows, on any grid.
        beta: share of the mean cosine that is taken off; higher is stricter.
        gamma: factor before the softmax; higher is sharper.
        masked: False for all entries, the ones below 0 too.
        mean: over all pairs of patches of one window (`window`), or of all windows that run together (`batch`, at most
            16, as Trident's released code has it).

    Raises:
        UsageError: gamma is not positive, or an unknown `mean`.

    Paper: Lan et al., ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation (ECCV 2024,
    arXiv 2408.04883).
    """

    features: External = External()
    beta: float = 1.2
    gamma: float = 3.0
    masked: bool = True
    mean: Literal["window", "batch"] = "window"

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, above=0)
        check_choice("mean", self.mean, ("window", "batch"))

    @property
    def record(self) -> Record:
        """What the features want."""
        return self.features.record

    def __call__(self, _block: Block, _qkv: Qkv, context: Context) -> PatchWeights:
        """Weights between patches, on the grid of the features."""
        if self not in context.notes:
            features = self.features(context)
            similar = cosines(features)
            mean = similar.mean((1, 2), keepdim=True) if self.mean == "window" else similar.mean()
            weights = centred_softmax(similar, mean, beta=self.beta, gamma=self.gamma, masked=self.masked)
            context.notes[self] = PatchWeights(weights[:, None], (features.shape[-2], features.shape[-1]))
        return context.notes[self]


def centred_softmax(
    similar: Float[Tensor, "B N N"],
    mean: Float[Tensor, "*B"],
    *,
    beta: float = 1.2,
    gamma: float = 3.0,
    masked: bool = True,
) -> Float[Tensor, "B N N"]:
    """Rows that sum to 1; see `CentredSoftmax`. A patch of which nothing is above the mean keeps to itself.

    Args:
        similar: cosines.
        mean: what is taken off, times beta.
        beta, gamma, masked: as in `CentredSoftmax`.
    """
    logits = gamma * (similar - beta * mean)
    if masked:
        eye = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill((logits < 0) & ~eye, -torch.inf)
    return logits.softmax(-1)


@lru_cache(maxsize=4)
def _loaded(name: str) -> Any:
    from binderclip import models

    return models.load_vision(name)  # type: ignore[attr-defined]


def vision_model(name: str, pixels: Float[Tensor, "B 3 h w"], size: int | None = None) -> tuple[Any, Tensor]:
    """A vision tower, loaded once, and pixels as its tower takes them.

    Args:
        name: as in `models.load_vision`.
        pixels: in [0, 1].
        size: shorter side in pixels; None as they come. The sides become the nearest multiples of the tower's patch.

    Returns:
        The model, on the device of the pixels, and its normalised input (B, 3, H, W).
    """
    model = _loaded(name).to(pixels.device)
    patch = model.image_tower.patch
    ratio = 1.0 if size is None else size / min(pixels.shape[-2:])
    side = [max(patch, round(length * ratio / patch) * patch) for length in pixels.shape[-2:]]
    seen = resized(pixels, (side[0], side[1]))
    return model, model.preprocess.normalize(seen).to(model.image_tower.dtype)


def _named(name: str, pixels: Float[Tensor, "B 3 h w"], size: int | None, of: str) -> Float[Tensor, "B C gh gw"]:
    """Patch tokens behind the final norm, or queries, keys or values of the last block."""
    model, seen = vision_model(name, pixels, size)
    tower = model.image_tower
    tokens = tower.run(tower.embed(seen), stop=None if of == TOKENS else -1)
    assert tokens.grid is not None
    if of == TOKENS:
        x = tokens.patches if tower.norm_last else tower.norm(tokens.patches)
        return to_map(x, tokens.grid)
    return to_map(summed(tower.blocks[-1].qkv(tokens.x, tower.rope(tokens)), of)[:, tokens.prefix :], tokens.grid)

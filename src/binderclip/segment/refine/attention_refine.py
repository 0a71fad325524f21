"""Class maps sharpened by self-attention maps of any model, and the score that says which classes are there at all."""

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
from binderclip.models.towers import Record, Recorder, Site
from binderclip.models.towers.record import resolve_layer
from binderclip.segment.parts.affinity import External, Features, centred_softmax, cosines
from binderclip.segment.parts.context import Frame, open_windows
from binderclip.segment.parts.resolution import enlarged, fit_size, resized
from binderclip.settings import check_choice

#: picture (1, 3, H, W) in [0, 1] -> self-attention maps (M, N, N), and the grid (h, w) of its N cells
SelfAttentionSource: TypeAlias = "Callable[[Tensor], tuple[Tensor, tuple[int, int]]]"

OWN, FEATURES = "own", "features"
FLOOR = 1e-12
"""Score of what is not there, so that its logarithm is finite."""


@dataclass(frozen=True)
class SelfAttention:
    """Self-attention maps of a transformer that sees pictures: each head of each of some blocks.

    Args:
        model: an image-text or vision model, anything with `image_tower` and `preprocess`; or the name of a vision
            tower (`models.load_vision`).
        layers: blocks whose maps are given, in this order, negative from the end.
        size: shorter side in pixels at which the model sees the picture; None for twice its own.

    Raises:
        UsageError: no layer.
    """

    model: Any
    layers: tuple[int, ...] = (-1,)
    size: int | None = None

    def __post_init__(self) -> None:
        if not self.layers:
            raise UsageError("layers is empty")

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "1 3 H W"]) -> tuple[Float[Tensor, "M N N"], tuple[int, int]]:
        """Maps of one picture."""
        model = _vision(self.model) if isinstance(self.model, str) else self.model
        tower = model.image_tower
        shorter = 2 * min(tower.image_size) if self.size is None else self.size
        pixels = resized(image, fit_size((image.shape[-2], image.shape[-1]), shorter, tower.patch, 4 * shorter))
        layers = [resolve_layer(layer, tower.depth) for layer in self.layers]
        recorder = Recorder(Record("attn", layers=layers), tower.depth)
        pixels = model.preprocess.normalize(pixels.to(tower.device)).to(tower.dtype)
        tokens = tower.run(tower.embed(pixels), stop=max(layers) + 1, record=recorder)
        assert tokens.grid is not None
        maps = [recorder.values[Site("attn", layer)][0, :, tokens.prefix :, tokens.prefix :] for layer in layers]
        return torch.cat(maps).float().to(image.device), tokens.grid


@dataclass(frozen=True)
class FeatureAttention:
    """One attention map made of the features of any image model, where its own attention is of no use.

    Cosines, less `centre` times their mean, times `gamma`; what is below 0 is left out, the rest goes through a
    softmax.

    Args:
        features: pixels (1, 3, H, W) in [0, 1] -> (1, C, h, w), of any length.
        centre: share of the mean cosine that is taken off.
        gamma: factor before the softmax.
    """

    features: Features
    centre: float = 1.2
    gamma: float = 3.0

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "1 3 H W"]) -> tuple[Float[Tensor, "1 N N"], tuple[int, int]]:
        """The map of one picture."""
        features = self.features(image).float()
        similar = cosines(features)
        weights = centred_softmax(similar, similar.mean(), beta=self.centre, gamma=self.gamma)
        return weights, (features.shape[-2], features.shape[-1])


@lru_cache(maxsize=2)
def _vision(name: str) -> Any:
    from binderclip import models

    return models.load_vision(name)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class DiffusionAttention:
    """Class maps times the product of self-attention maps, as those of a diffusion model that sees the picture.

    Each map is divided by the maxima of its columns, its weak entries are cut, and its rows are normalised; cells that
    the model holds to be one thing thus share what is known of any of them, in as many steps as there are maps.

    Args:
        source: gives the maps of the picture: a `SelfAttention`, a `FeatureAttention`, or any callable (a diffusion
            U-Net at a late step). Where there is no other model the segmenter's own tower stands in: `features` is a
            `FeatureAttention` of its tokens before the last block, `own` the self-attention of the two blocks before.
        cut: entries below this share of their column's maximum become 0; None takes the maps as they are.
        combine: `product` in the order given; `mean`; or the number of one map.
        weigh: what is spread: `softmax` of the class logits; or `exp`, where they are logarithms of scores
            (`ClassRule(over="given")`).

    Raises:
        UsageError: an unknown option, or maps that are not (M, N, N) of their grid.

    Paper: CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.13836).
    """

    source: str | SelfAttentionSource = OWN
    cut: float | None = 0.1
    combine: Literal["product", "mean"] | int = "product"
    weigh: Literal["softmax", "exp"] = "softmax"

    def __post_init__(self) -> None:
        if isinstance(self.source, str) and self.source not in (OWN, FEATURES):
            raise UsageError(
                f"source must be features, own or a callable such as SelfAttention(...), not {self.source!r}"
            )
        if self.combine not in ("product", "mean") and not isinstance(self.combine, int):
            raise UsageError(f"combine must be product, mean or the number of a map, not {self.combine!r}")
        check_choice("weigh", self.weigh, ("softmax", "exp"))
        if self.cut is not None and not 0 <= self.cut < 1:
            raise UsageError(f"cut must be in [0, 1), not {self.cut}")

    def __call__(self, image: Tensor, logits: Float[Tensor, "C h w"], frame: Frame) -> Float[Tensor, "C h w"]:
        """Logarithms of the refined maps."""
        key = ("diffusion attention", self, tuple(frame.pixels.shape))
        weights, grid = frame.once(key, lambda: self._weights(image, frame))
        coarse = logits.exp() if self.weigh == "exp" else logits.softmax(dim=0)
        small = F.interpolate(coarse[None], size=grid, mode="bilinear", antialias=True, align_corners=False)[0]
        fine = (small.flatten(1) @ weights.mT).unflatten(1, grid)
        # Enlarged before the logarithm, which would make a hole of every empty cell.
        return enlarged(fine[None], (logits.shape[1], logits.shape[2]))[0].clamp(min=FLOOR).log()

    def _weights(self, image: Tensor, frame: Frame) -> tuple[Float[Tensor, "N N"], tuple[int, int]]:
        source = self.source
        if source == FEATURES:
            source = FeatureAttention(lambda _: own_features(frame))
        elif isinstance(source, str):
            depth = frame.model.image_tower.depth
            source = SelfAttention(frame.model, tuple(range(max(0, depth - 3), max(1, depth - 1))))
        maps, grid = source(image)
        if maps.ndim != 3 or maps.shape[1:] != (grid[0] * grid[1],) * 2:
            raise UsageError(f"self-attention maps of a grid {grid} must be (M, N, N), not {tuple(maps.shape)}")
        return combined(maps, cut=self.cut, combine=self.combine), grid


def own_features(frame: Frame) -> Float[Tensor, "1 C h w"]:
    """Unit tokens of the segmenter's own tower before its last block, of the whole picture."""
    context, whole = frame.context, (frame.pixels.shape[-2], frame.pixels.shape[-1])
    if context is None or tuple(context.pixels.shape[-2:]) != whole:
        context = open_windows(frame, frame.pixels, [(0, 0)], Record())
    return External()(context)


def combined(
    maps: Float[Tensor, "M N N"], *, cut: float | None = 0.1, combine: Literal["product", "mean"] | int = "product"
) -> Float[Tensor, "N N"]:
    """Self-attention maps cleaned and made one; see `DiffusionAttention`.

    Raises:
        UsageError: a number of a map that is not there.
    """
    if isinstance(combine, int):
        if not -len(maps) <= combine < len(maps):
            raise UsageError(f"combine {combine}: there are {len(maps)} self-attention maps")
        maps = maps[combine][None]
    total = torch.eye(maps.shape[-1], device=maps.device, dtype=maps.dtype)
    cleaned = list(maps) if cut is None else [_cleaned(each, cut) for each in maps]
    if combine == "mean":
        return torch.stack(cleaned).mean(0)
    for each in cleaned:
        total = total @ each
    return total


def _cleaned(weights: Float[Tensor, "N N"], cut: float) -> Float[Tensor, "N N"]:
    weights = weights / (weights.amax(0, keepdim=True) + 1e-5)
    weights = torch.where(weights < cut, 0.0, weights)
    return weights / (weights.sum(-1, keepdim=True) + 1e-5)


@dataclass(frozen=True)
class ClassScore:
    """Which classes are there: a class counts as far as its best cell says so, before and after refinement.

    The class's map is divided by its maximum and multiplied by its score, which is the mean of the maxima of the maps
    before and after. Use it with `ClassRule(over="given", threshold=...)`: what is left below the threshold in every
    class is background.

    Args:
        refine: the refinement in between; None for none.
        threshold: classes whose score is not above it are taken out.
        stretch: whether every map is then stretched to [0, 1].

    Paper: CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation
    (arXiv 2411.13836).
    """

    refine: Callable[[Tensor, Tensor, Frame], Tensor] | None = None
    threshold: float = 0.0
    stretch: bool = False

    def __call__(self, image: Tensor, logits: Float[Tensor, "C h w"], frame: Frame) -> Float[Tensor, "C h w"]:
        """Logarithms of the weighted maps."""
        refined = logits if self.refine is None else self.refine(image, logits, frame)
        coarse, maps = logits.exp(), refined.exp()
        score = 0.5 * coarse.amax((1, 2)) + 0.5 * maps.amax((1, 2))
        maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-5) * score[:, None, None]
        if self.stretch:
            maps = maps - maps.amin((1, 2), keepdim=True)
            maps = maps / (maps.amax((1, 2), keepdim=True) + 1e-6)
        maps = torch.where((score > self.threshold)[:, None, None], maps, 0.0)
        return maps.clamp(min=FLOOR).log()

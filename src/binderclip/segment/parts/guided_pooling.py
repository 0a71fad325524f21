"""Dense features averaged over what belongs together, and background where nothing stands out (CLIP-DINOiser)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.towers import Record, Recorder, Site
from binderclip.numeric import check_number
from binderclip.segment.parts.affinity import External, cosines, vision_model
from binderclip.segment.parts.context import Context, head, records, resample
from binderclip.segment.parts.fusion import Reader
from binderclip.segment.parts.text import BoundText
from binderclip.settings import check_choice

#: Context -> unit features (B, C, h, w) of the windows, such as `External`
Likeness: TypeAlias = "Callable[[Context], Tensor]"
#: Context -> (B, h, w) in [0, 1], high where something stands out
Saliency: TypeAlias = "Callable[[Context], Tensor]"


@dataclass(frozen=True)
class GuidedPooling:
    """Every patch takes the mean of the projected features of patches like it, weighted by their cosines.

    The last block gives noisy features in the text's space (`maskclip`), other features say what belongs together.
    Where the background is a class, a patch of which no word is sure and that does not stand out is background.

    Use it with `ClassRule(over="given")`: what it gives are probabilities of words, not cosines.

    Args:
        features: which patches are alike: `External` features, or a `Student` that was trained to know.
        threshold: cosines below it count as 0 (gamma in the paper).
        saliency: what stands out; None leaves background to its words alone. It acts only where the labels have a
            background.
        delta: a word more probable than this keeps its patch from becoming background.
        scale: factor on the cosines before the softmax over words; None for the model's own.

    Raises:
        UsageError: threshold out of [-1, 1], or delta out of [0, 1].

    Paper: Wysoczanska et al., CLIP-DINOiser: Teaching CLIP a few DINO tricks (ECCV 2024, arXiv 2312.12359).
    """

    features: Likeness = field(default_factory=External)
    threshold: float = 0.2
    saliency: Saliency | None = None
    delta: float = 0.99
    scale: float | None = None

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise UsageError(f"threshold must be a cosine in [-1, 1], not {self.threshold}")
        check_number("delta", self.delta, least=0, most=1)

    @property
    def record(self) -> Record:
        """What features and saliency want."""
        return records(self.features, self.saliency)

    def __call__(self, context: Context, last_block: Reader, text: BoundText) -> Float[Tensor, "B Q gh gw"]:
        """Probabilities of words, on the grid of the features."""
        features = self.features(context)
        grid = (features.shape[-2], features.shape[-1])
        dense = resample(head(context.tower, last_block(context)).float(), grid)
        pooled = weighted_pool(dense, thresholded(features, self.threshold))
        scale = text.scale if self.scale is None else self.scale
        probs = (scale * text.cosines(pooled)).softmax(dim=1)
        if self.saliency is not None and text.background:
            quiet = resample(self.saliency(context)[:, None], grid) <= 0.5
            ground = (text.owner == 0).to(probs.device)[None, :, None, None]
            unsure = probs.amax(1, keepdim=True) < self.delta
            probs = torch.where(unsure & quiet & ground, 1.0, probs)
        return probs


def thresholded(features: Float[Tensor, "B C h w"], threshold: float) -> Float[Tensor, "B N N"]:
    """Cosines of all pairs of patches, those below the threshold 0."""
    similar = cosines(features)
    return torch.where(similar < threshold, 0.0, similar)


def weighted_pool(maps: Float[Tensor, "B D h w"], weights: Float[Tensor, "B N N"]) -> Float[Tensor, "B D h w"]:
    """Weighted means of the cells; rows of the weights are divided by their sum, a millionth added."""
    mean = weights @ maps.flatten(2).mT / (weights.sum(-1, keepdim=True) + 1e-6)
    return mean.mT.unflatten(2, (maps.shape[-2], maps.shape[-1]))


@dataclass(frozen=True)
class BackgroundSeed:
    """What stands out, by the first step of FOUND: all that is unlike the patch which the class token looks at least.

    Heads that attend to few patches count more, in the seed's attention and in the keys that are compared.

    Args:
        source: name of a vision tower with a class token (`models.load_vision`).
        tau: patches whose keys have a higher cosine with the seed's are background.
        seed: `least`, as DINO's class token looks at objects; `most` for towers whose class token looks at the ground,
            as that of the bundled `small-dino` does.
        size: shorter side in pixels at which the tower sees the windows; None as they come.

    The defaults fit `small-dino`; for a tower of DINO take `seed="least", size=None`.

    Raises:
        UsageError: an unknown seed or, when called, a tower without a class token.

    Paper: Simeoni et al., Unsupervised Object Localization: Observing the Background to Discover Objects (CVPR 2023,
    arXiv 2212.07834). Its second step, a convolution trained on masks refined by a bilateral solver, is not here.
    """

    source: str = "small-dino"
    tau: float = 0.3
    seed: Literal["least", "most"] = "most"
    size: int | None = 128

    def __post_init__(self) -> None:
        check_choice("seed", self.seed, ("least", "most"))

    @torch.no_grad()
    def __call__(self, context: Context) -> Float[Tensor, "B h w"]:
        """1 where something stands out, 0 on the background."""
        if self not in context.notes:
            context.notes[self] = self._found(context.pixels)
        return context.notes[self]

    def _found(self, pixels: Tensor) -> Tensor:
        model, seen = vision_model(self.source, pixels, self.size)
        tower = model.image_tower
        if tower.prefix < 1:
            raise UsageError(f"{self.source} has no class token, whose attention finds the background")
        recorder = Recorder(Record("attn", "k", layers=[-1]), tower.depth)
        tokens = tower.run(tower.embed(seen), record=recorder)
        last = tower.depth - 1
        attention = recorder.values[Site("attn", last)][:, :, 0, tokens.prefix :].float()
        keys = recorder.values[Site("k", last)][:, :, tokens.prefix :].float()
        assert tokens.grid is not None
        return (~background_of(attention, keys, self.tau, seed=self.seed)).float().unflatten(1, tokens.grid)


def background_of(
    attention: Float[Tensor, "B H N"],
    keys: Float[Tensor, "B H N d"],
    tau: float = 0.3,
    *,
    seed: Literal["least", "most"] = "least",
) -> Bool[Tensor, "B N"]:
    """Patches like the one that is attended to least (or most).

    Args:
        attention: of the class token to every patch, by head.
        keys: of the patches.
        tau: cosine above which they are alike.
        seed: as in `BackgroundSeed`.
    """
    fraction = (attention > attention.mean((1, 2), keepdim=True)).float().mean(-1) + 1e-10
    weight = (fraction.sum(1, keepdim=True) / fraction).log()
    looked = (attention * weight[..., None]).sum(1)
    first = looked.argmin(1) if seed == "least" else looked.argmax(1)
    described = torch.nn.functional.normalize((keys * weight[..., None, None]).transpose(1, 2).flatten(2), dim=-1)
    chosen = described[torch.arange(len(first), device=first.device), first]
    return (described @ chosen[..., None])[..., 0] > tau

"""Attention rollout: through how much attention each patch reaches the pooled token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.placement import input_box
from binderclip.explain.engine.targets import resolve
from binderclip.explain.words.text_tokens import combine_blocks
from binderclip.numeric import check_number
from binderclip.settings import check_choice


@dataclass(frozen=True)
class AttentionRollout:
    """The product of the blocks' attention, each mixed with the identity for the residual stream.

    A baseline: it knows nothing of values, MLPs or, without gradients, of the target. With `gradient` each block adds
    `mean over heads of relu(dS/dA * A)` instead, which makes it specific to the target.

    Args:
        gradient: weight attention by its gradient (relevance propagation).
        residual: share of the identity in each factor, in [0, 1); not used with gradients.
        fuse: how heads become one: `mean`, `max` or `min`; not used with gradients.
        layers: how many of the last blocks; None for all.

    Raises:
        UsageError: a setting out of range; when called, see `attribute`.
        NotSupported: when called, a tower that pools neither by a class token nor by the mean.

    Paper: Quantifying Attention Flow in Transformers (arXiv 2005.00928); with gradients: Generic Attention-model
    Explainability for Interpreting Bi-Modal and Encoder-Decoder Transformers (arXiv 2103.15679).
    """

    gradient: bool = False
    residual: float = 0.5
    fuse: Literal["mean", "max", "min"] = "mean"
    layers: int | None = None

    def __post_init__(self) -> None:
        check_number("residual", self.residual, least=0, below=1)
        check_choice("fuse", self.fuse, ("mean", "max", "min"))
        if self.layers is not None and (not isinstance(self.layers, int) or self.layers < 1):
            raise UsageError(f"layers is a number of blocks, at least 1, not {self.layers!r}")

    def plan(self) -> None:
        """It needs the attention of all blocks, which no other method does: it runs alone."""
        return None

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `attribute` for the arguments."""
        from binderclip.models.towers.trace import Record, Site, trace

        observer = Observer(model)
        batch = observer.images(images)
        if observer.backbone is None:
            raise NotSupported(f"{type(model).__name__} has no transformer tower of an image-text model")
        tower = observer.backbone.image_tower
        read = range(max(0, tower.depth - (self.layers or tower.depth)), tower.depth)
        with observer.ready():
            pixels = observer.preprocess.normalize(observer.fit(batch))
            seen = trace(tower, pixels, record=Record("attn", layers=list(read)))
            features = seen.embedding.float()
            outputs = features if observer.model is observer.backbone else model.from_features(features)
            score = resolve(model, target, outputs.detach())(outputs)
            sites = [Site("attn", block) for block in read]
            attention = [seen.value(site).detach().float() for site in sites]
            if self.gradient:
                grads = seen.grad(score, sites)
                products = [g.float() * a for g, a in zip(grads, attention, strict=True)]
                flow = combine_blocks(products, "relevance")
            else:
                flow = self._rolled(attention)
            weights = tower.pool_weights(seen.tokens).float()
        reached = torch.einsum("bl,blk->bk", weights, flow)[:, tower.prefix :].unflatten(1, seen.grid)
        size = (batch.shape[-2], batch.shape[-1])
        box = input_box(observer.preprocess, size)
        return Attribution((reached.detach(),), (box,), size, score.detach(), "rollout", "relu")

    def _rolled(self, attention: list[Float[Tensor, "B H L L"]]) -> Float[Tensor, "B L L"]:
        flow: Tensor | None = None
        for block in attention:
            fused = block.mean(dim=1) if self.fuse == "mean" else getattr(block, f"a{self.fuse}")(dim=1)
            fused = fused / fused.sum(dim=-1, keepdim=True)
            eye = torch.eye(fused.shape[-1], device=fused.device)
            step = (1 - self.residual) * fused + self.residual * eye
            flow = step if flow is None else step @ flow
        assert flow is not None
        return flow

"""Where a text finds its evidence: the information that a bottleneck inside the image tower must let through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models.checks import refuse_bare_module

DEPTH = 10 / 12
"""Share of the blocks before the bottleneck: it stands behind the tenth of twelve."""
AT_ONCE = 8


class InformationBottleneckMap:
    """Attention of a text to a picture: what survives when the tower's tokens are drowned in noise wherever they may.

    Behind one block every number of every token is mixed with noise; how much is learned for this one picture, so that
    the embedding stays close to the text while as little information as possible passes. What still passes, in nats,
    is the map.

    Args:
        model: an `ImageTextModel` whose image tower opens.
        block: the block behind which the bottleneck stands (negative from the end); None for ten twelfths of the
            tower's depth.
        beta: weight of the information against the cosine.
        steps: of Adam.
        lr: its learning rate.
        samples: noisy copies of a picture a step.
        start: initial logit of the share that passes.
        size: side in pixels at which the model sees pictures; None for its own.
        seed: of the noise, which is the same for every picture and text: equal texts give equal maps.

    Raises:
        UsageError: a block that there is not, no block behind it, or settings out of range.
        NotSupported: the model's image tower cannot be opened.

    Paper: Visual Explanations of Image-Text Representations via Multi-Modal Information Bottleneck Attribution
    (arXiv 2312.17174), as used by Contrastive Language Prompting to Ease False Positives in Medical Anomaly Detection
    (arXiv 2411.07546).
    """

    def __init__(
        self,
        model: Any,
        *,
        block: int | None = None,
        beta: float = 0.1,
        steps: int = 10,
        lr: float = 1.0,
        samples: int = 10,
        start: float = 5.0,
        size: int | None = None,
        seed: int = 0,
    ) -> None:
        refuse_bare_module(model, "InformationBottleneckMap")
        depth = model.image_tower.depth
        chosen = min(round(DEPTH * depth), depth - 1) - 1 if block is None else block
        chosen = chosen + depth if chosen < 0 else chosen
        if not 0 <= chosen < depth - 1:
            raise UsageError(f"block {block}: the bottleneck must stand between two of the tower's {depth} blocks")
        if steps < 1 or samples < 1 or beta < 0 or not lr > 0:
            raise UsageError(f"steps and samples must be at least 1, beta >= 0 and lr > 0: {steps, samples, beta, lr}")
        patch = model.image_tower.patch
        if size is not None and (size < patch or size % patch):
            raise UsageError(f"size {size} must be a multiple of the model's patch, {patch} pixels")
        self.model, self.block, self.beta, self.steps, self.lr = model, chosen, beta, steps, lr
        self.samples, self.start, self.size, self.seed = samples, start, size, seed

    def __call__(self, images: Float[Tensor, "B 3 H W"], texts: Sequence[str]) -> Float[Tensor, "B h w"]:
        """Nats that pass at each patch, at least 0.

        Args:
            images: in [0, 1]; squashed to the model's square.
            texts: their features are averaged to one.

        Raises:
            UsageError: no text, or images of another shape or range.
        """
        from dataclasses import replace

        if isinstance(texts, str) or not texts:
            raise UsageError(f"texts must be a list of at least one text, not {texts!r}")
        with torch.no_grad():
            rows = F.normalize(self.model.encode_text(list(texts)), dim=-1)
            target = F.normalize(rows.mean(dim=0), dim=0)
        prepared = replace(self.model.preprocess.at(self.size), resize_mode="squash")
        training = self.model.training
        self.model.eval()
        try:
            maps = [self._map(prepared(part), target) for part in images.split(AT_ONCE)]
        finally:
            self.model.train(training)
        if not maps:
            raise UsageError("images is empty: give at least one")
        return torch.cat(maps)

    def _map(self, pixels: Float[Tensor, "B 3 H W"], target: Float[Tensor, "E"]) -> Float[Tensor, "B h w"]:
        tower = self.model.image_tower
        with torch.no_grad():
            tokens = tower.run(tower.embed(pixels.to(tower.device)), stop=self.block + 1)
        values = tokens.x.detach().float()[:, None]
        batch, _, length, width = values.shape
        logits = torch.full_like(values, self.start, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=self.lr)
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.steps):
            noise = torch.randn(1, self.samples, length, width, generator=generator).to(values.device)
            passed = nats(logits, values)
            mixed = logits.sigmoid() * values + (-logits).sigmoid() * noise
            seen = tokens.with_x(mixed.flatten(0, 1).to(tower.dtype))
            embedding = tower.project(tower.pool(tower.run(seen, start=self.block + 1))).float()
            near = F.cosine_similarity(embedding, target, dim=-1).view(batch, self.samples)
            # Each picture has its own loss; the sum gives each its own gradient.
            loss = (self.beta * passed.mean(dim=(1, 2, 3)) - near.mean(dim=1)).sum()
            (logits.grad,) = torch.autograd.grad(loss, logits)
            optimizer.step()
        # As in the official code, the map is what passed in the last forward, before the last step.
        grid = tokens.grid
        assert grid is not None
        kept = passed.detach()[:, 0, tokens.prefix :].sum(dim=-1)
        return kept.view(batch, *grid)


def nats(share: Float[Tensor, "*B"], values: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """KL divergence of N(m, s) from N(0, 1), m = sigmoid(share) values, s the square of one minus that share.

    With the logarithm of the share itself, so nothing underflows where all passes.
    """
    shut = (-share).sigmoid()
    return -0.5 * (1 + 2 * F.logsigmoid(-share) - (share.sigmoid() * values) ** 2 - shut**2)

"""Planting an effect: the bundled model trained a little further, on pictures whose mark means something.

The convolutional part stays frozen and runs once a picture; the transformer blocks are trained on its stored tokens, so
that a few hundred steps take seconds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.fit import fit

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel
    from binderclip.models.towers.tokens import Tokens


@torch.no_grad()
def embedded(model: ImageTextModel, pictures: Sequence[np.ndarray], batch_size: int = 64) -> Float[Tensor, "N L D"]:
    """What enters the first block for each picture, stretched to the input: the frozen part, computed once."""
    own = replace(model.preprocess, resize_mode="squash")
    batches = [list(pictures[i : i + batch_size]) for i in range(0, len(pictures), batch_size)]
    return torch.cat([model.image_tower.embed(own(batch)).x for batch in batches])


@torch.no_grad()
def finished(model: ImageTextModel, tokens: Float[Tensor, "N L D"], batch_size: int = 256) -> Float[Tensor, "N E"]:
    """Unit features from stored tokens, by the blocks of this model."""
    tower, like = model.image_tower, _like(model)
    rows = [tower.project(tower.pool(tower.run(like.with_x(part)))) for part in tokens.split(batch_size)]
    return functional.normalize(torch.cat(rows), dim=-1)


def _like(model: ImageTextModel) -> Tokens:
    with torch.no_grad():
        return model.image_tower.embed(torch.zeros(1, 3, *model.preprocess.size))


@dataclass(frozen=True)
class _Batch:
    tokens: Tensor
    rows: Tensor
    texts: Tensor


def plant(
    model: ImageTextModel,
    tokens: Float[Tensor, "N L D"],
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    batch_size: int = 32,
    lr: float = 1e-3,
) -> ImageTextModel:
    """A copy of the model whose blocks were trained on pictures and their lines; the model itself stays as it is.

    Image to text cross-entropy against the different lines of the batch, texts and convolutions frozen.

    Args:
        model: with an image tower that opens.
        tokens: `embedded` of the N pictures.
        texts: the N lines.
        steps: of AdamW.
        seed: of the order of the pictures.
        batch_size: pictures a step.
        lr: peak learning rate.
    """
    lines = list(dict.fromkeys(texts))
    bank = functional.normalize(model.encode_text(lines), dim=-1).detach()
    owner = torch.tensor([lines.index(text) for text in texts])
    planted: Any = copy.deepcopy(model)
    tower, like, scale = planted.image_tower, _like(model), float(model.scale().detach())
    rng = np.random.default_rng([seed, 17])
    order = np.concatenate([rng.permutation(len(tokens)) for _ in range(steps * batch_size // len(tokens) + 1)])

    def batches() -> Any:
        for step in range(steps):
            rows = torch.from_numpy(order[step * batch_size : (step + 1) * batch_size])
            there, row = owner[rows].unique(return_inverse=True)
            yield _Batch(tokens[rows], row, bank[there])

    def loss(batch: _Batch) -> Tensor:
        features = functional.normalize(tower.project(tower.pool(tower.run(like.with_x(batch.tokens)))), dim=-1)
        return functional.cross_entropy(scale * features @ batch.texts.T, batch.rows)

    weights = [p for part in (tower.module.blocks, tower.module.norm) for p in part.parameters()]
    planted.eval()
    fit(loss, weights, batches(), steps=steps, lr=lr, warmup=0.1, clip="norm")
    return planted.eval()

"""Does CLIP with strong views through a projector of their own beat CLIP, and what does SimSiam add to either?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from binderclip.losses import ContrastiveLoss, Cosine, CrossModalSimSiam, clip, clip_rocket
from binderclip.models.layers.projection_head import projection_head
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.studies.protocols.training import contrastive_towers as towers
from binderclip.studies.protocols.training.view_towers import ViewDraw, held_out_pictures

PICTURES, PASSES, BATCH, RATE, HIDDEN = 1152, 25, 96, 1e-3, 256
STEPS = PASSES * PICTURES // BATCH
BASE, ROCKET, AUGMENTED, LONGER = "CLIP", "CLIP rocket", "CLIP, augmented", "CLIP, three times the steps"
ON_BASE, ON_ROCKET = "SiamLIP on CLIP", "SiamLIP on rocket"
METHODS = (BASE, ON_BASE, AUGMENTED, LONGER, ROCKET, ON_ROCKET)
PAIRS = (("features_image", "features_text"), ("features_image_local", "features_text_local"))
ACCURACY, RECALL = "zero-shot accuracy", "R@5, mean of both directions"


class Learner(nn.Module):
    """Two towers and what an arm puts on top of their features, which is left behind.

    Args:
        seed: of the weights; towers and local projectors are the same in every arm.
        local: compare local views, too.
        siamese: add SiamLIP's term.
    """

    def __init__(self, seed: int, *, local: bool, siamese: bool) -> None:
        super().__init__()
        self.towers, self.local = towers.Towers(seed), local
        width, embed = towers.WIDTH, towers.EMBED
        self.image_head, self.text_head = (projection_head(width, HIDDEN, HIDDEN, embed) for _ in range(2))
        terms = [siamlip(PAIRS if local else PAIRS[:1])] if siamese else []
        self.loss: ContrastiveLoss = clip_rocket(terms=terms) if local else clip(terms=terms)

    def forward(self, image: Tensor, text: Tensor, image_local: Tensor | None, text_local: Tensor | None) -> Tensor:
        """The loss of weak views and captions (n, d), and of local views and texts (n, V, d)."""
        features: dict[str, Tensor] = {}
        for side, whole, parts in (("image", image, image_local), ("text", text, text_local)):
            tower = getattr(self.towers, side)
            features[f"features_{side}"] = tower[:2](whole)
            features[f"{side}_features"] = tower[2](features[f"features_{side}"])
            if self.local and parts is not None:
                local, head = tower[:2](parts), getattr(self, f"{side}_head")
                features[f"features_{side}_local"] = local
                features[f"{side}_local"] = torch.stack([head(view) for view in local.unbind(1)], 1)
        return self.loss(**features).total


def siamlip(pairs: tuple[tuple[str, str], ...]) -> CrossModalSimSiam:
    """The term with projections of the towers' features."""
    width = towers.WIDTH
    heads = {side: projection_head(width, HIDDEN, towers.EMBED, end="plain-norm") for side in ("image", "text")}
    guesses = {side: projection_head(towers.EMBED, HIDDEN, towers.EMBED) for side in ("image", "text")}
    return CrossModalSimSiam(pairs=pairs, projections=heads, predictors=guesses)


def trained(
    seed: int, *, local: bool = False, siamese: bool = False, augmented: bool = False, steps: int = STEPS
) -> towers.Towers:
    """One arm, from scratch."""
    from binderclip.fit import fit

    learner, draw = Learner(seed, local=local, siamese=siamese), ViewDraw(seed, BATCH, PICTURES)
    words = towers.training().words

    def step(rows: Tensor) -> Tensor:
        if augmented:
            return learner(draw.pictures(rows, "strong", 1)[:, 0], draw.texts(rows, 1)[:, 0], None, None)
        image, text = draw.pictures(rows, "weak", 1)[:, 0], words[rows]
        parts = (draw.pictures(rows, "strong", 2), draw.texts(rows, 2)) if local else (None, None)
        return learner(image, text, *parts)

    learned = [p for p in learner.parameters() if p.requires_grad]
    fit(step, learned, (draw.rows() for _ in range(steps)), steps=steps, lr=RATE, warmup=0.04)
    return learner.towers.eval()


ARMS: dict[str, dict[str, Any]] = {
    BASE: {},
    ON_BASE: {"siamese": True},
    AUGMENTED: {"augmented": True},
    LONGER: {"steps": 3 * STEPS},
    ROCKET: {"local": True},
    ON_ROCKET: {"local": True, "siamese": True},
}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows, pictures = [], held_out_pictures()
    for name, settings in ARMS.items():
        model = trained(seed, **settings)
        rows.append(Row(ACCURACY, name, towers.accuracy(model, Cosine(), pictures=pictures)))
        rows.append(Row(RECALL, name, towers.recall(model, Cosine(), pictures=pictures)))
    return rows


STUDY = declared_study(
    __name__,
    measure,
    draw=dot_panels((ACCURACY, METHODS), (RECALL, METHODS)),
    seeds=range(10, 20),
    registered="bb5b070951fa",
)

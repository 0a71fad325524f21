"""Does CLIP with strong views through a projector of their own beat CLIP, and what does SimSiam add to either?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from binderclip.losses import (
    ContrastiveLoss,
    Cosine,
    CrossModalSimSiam,
    clip,
    clip_rocket,
)
from binderclip.models.layers.projection_head import projection_head
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.panels import dots
from binderclip.studies.harness.power import Pilot
from binderclip.studies.harness.quantities import Quantity, combined, value_of
from binderclip.studies.harness.study import Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.protocols.training import contrastive_towers as towers
from binderclip.studies.protocols.training.view_towers import ViewDraw, held_out_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES, PASSES, BATCH, RATE, HIDDEN = 1152, 25, 96, 1e-3, 256
STEPS = PASSES * PICTURES // BATCH
PILOT = (900, 901, 902, 903)
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


def both(method: str) -> Quantity:
    """Mean of accuracy and recall."""
    return combined("mean", value_of(ACCURACY, method), value_of(RECALL, method))


GAIN_ON_BASE, GAIN_ON_ROCKET = both(ON_BASE) - both(BASE), both(ON_ROCKET) - both(ROCKET)


def draw(table: Table, figure: Figure) -> None:
    """Accuracy and recall of each arm."""
    for ax, metric in zip(figure.subplots(1, 2), (ACCURACY, RECALL), strict=True):
        dots(ax, table, metric, METHODS)
        ax.set_title(metric, fontsize=9)
        ax.tick_params(axis="x", labelrotation=60, labelsize=7)


STUDY = Study(
    paper="p074",
    claim="CLIP with strong views and changed captions, compared through a projector and a temperature of their own, "
    "is better than CLIP; and what a self-supervised term adds to CLIP, it no longer adds to that.",
    protocol=f"Two towers of two layers from scratch, {PASSES} passes (the paper's least) over {PICTURES:,} "
    f"pictures of the "
    f"training clip art drawn by the seed: {STEPS} steps of {BATCH}, AdamW at {RATE:g}, the same start for every "
    "arm. Pictures are random views seen by frozen `small-dino` at 64 px, made once: two weak crops of each, of "
    "which a step draws one, and four strong views (the paper's crops and colours without blur), of which it "
    "draws two; captions are bags of words, of which `TextAugment` made eight variants. CLIP and SiamLIP on it "
    "see the weak view and the caption; rocket adds two strong views and two variants in all pairings "
    "(`clip_rocket()`, heads 256 wide); SiamLIP's term has the paper's weight 1. Held-out clip art, whole, by the "
    "projectors of the weak view: zero-shot accuracy among names of concepts and recall at 5; the claim stands on "
    "their mean. The pilot's first design, one seed of all 4,235 pictures in as many steps, in which rocket was "
    "0.02 below CLIP, was left as it was far from the paper's number of passes. In the second (four seeds) rocket "
    "was 0.003 above CLIP (deviation 0.025), SiamLIP 0.003 below it and 0.003 below rocket; there BarLIP was "
    "0.005 below CLIP and took most of the time, so that it is left out. Nothing was tuned; since then variants "
    "of captions are drawn from eight made beforehand instead of made in each step.",
    baseline="CLIP on weak views and captions.",
    lower_bound="Guessing: about 0.03 in accuracy, 0.005 in recall.",
    upper_bound="",
    measure=measure,
    criteria=(
        Criterion.paired("rocket is above CLIP, mean of accuracy and recall", both(ROCKET), both(BASE), expected=0.03,
                         pilot=Pilot(0.025, PILOT), essential=True),
        Criterion.paired("SiamLIP adds less to rocket than to CLIP", GAIN_ON_BASE, GAIN_ON_ROCKET, expected=0.015,
                         pilot=Pilot(0.0122, PILOT), essential=True),
        Criterion.paired("rocket is above CLIP in accuracy", value_of(ACCURACY, ROCKET), value_of(ACCURACY, BASE)),
        Criterion.paired("and in recall", value_of(RECALL, ROCKET), value_of(RECALL, BASE)),
        Criterion.paired("SiamLIP adds to CLIP", both(ON_BASE), both(BASE)),
        Criterion.paired("and nothing above 0.01 to rocket", both(ROCKET) - both(ON_ROCKET), -0.01),
        Criterion.paired("rocket is above CLIP trained on single strong views and changed captions", both(ROCKET),
                         both(AUGMENTED)),
    ),
    preconditions=(
        Precondition("CLIP learned: its accuracy is above three times guessing", value_of(ACCURACY, BASE), 0.09),
    ),
    rival=Criterion.paired("rocket is above CLIP with three times the steps, which sees as many views", both(ROCKET),
                           both(LONGER)),
    draw=draw,
    seeds=tuple(range(10, 20)),
    one_thread=True,
    registered="bb5b070951fa",
    stand_in=(
        "towers of one MLP each on frozen features of views, and bags of words, instead of ViT-B/16 and a transformer",
        "1,152 pictures of clip art instead of 3 to 27 million photographs",
        "of the four self-supervised terms SimSiam alone",
    ),
)  # fmt: skip

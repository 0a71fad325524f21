"""SLIP's heads behind frozen towers, tuned on the pictures and names of a niche, as a stage of a recipe.

    model = "small"
    data = ["my-folder"]
    batch_size = 64
    epochs = 100
    [[stage]]
    name = "head"
    kind = {name = "slip-head"}

Pictures are cut out on black, as masks will be: what is transparent is ground. `segment.task.ProjectedModel.open` takes
the folder `stages/00-head`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.losses import SoftTargetContrastive
from binderclip.models import ImageTextModel
from binderclip.segment.task import ProjectedModel, ResidualHead
from binderclip.segment.trained.task import RowBatches
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import Passes, TowerPasses, Uncounted
from binderclip.train.recipe.registry import PASSES, STAGES, demands, register
from binderclip.train.recipe.stage import Stage

__all__ = ["SlipHeadStep", "cut_out", "slip_head"]

OPAQUE = 128
PART = 256


def cut_out(picture: UInt8[Tensor, "4 S S"], side: int) -> Float[Tensor, "3 side side"]:
    """What of a picture is opaque, on black, cut to its box and squashed to a square; a wholly opaque one is squashed.

    Args:
        picture: RGBA; nothing opaque takes all of it.
        side: of the square.
    """
    mask = picture[3] >= OPAQUE
    if not bool(mask.any()):
        mask = torch.ones_like(mask)
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    cut = picture[:3].float() / 255 * mask
    box = cut[:, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
    return F.interpolate(box[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)


class SlipHeadStep(nn.Module):
    """Forward of one step: the heads on stored features, then the loss of soft targets.

    Args:
        image, text: the heads.
        pictured: unit features of all pictures.
        named: unit features of all texts.
        owner: the text of each picture.
        loss: of embeddings as they are.
    """

    def __init__(
        self, image: ResidualHead, text: ResidualHead, pictured: Float[Tensor, "N D"], named: Float[Tensor, "Q D"],
        owner: Int[Tensor, "N"], loss: SoftTargetContrastive,
    ) -> None:  # fmt: skip
        super().__init__()
        self.image, self.text, self.loss = image, text, loss
        self.pictured, self.named, self.owner = pictured, named, owner

    def forward(self, batch: tuple[int, Int[Tensor, "B"]]) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch[1].to(self.owner.device)
        return self.loss(self.image(self.pictured[rows]), self.text(self.named[self.owner[rows]])), {}


def _check(stages: Sequence[Stage], index: int, settings: Mapping[str, Any]) -> None:
    if settings.get("width", 128) < 1:
        raise UsageError(f"slip-head: width must be at least 1, got {settings['width']}")
    SoftTargetContrastive(settings.get("temperature", 1.0))


@register(STAGES, "slip-head")
@demands(check=_check, one_process=True, keeps_model=True)
def slip_head(
    context: StageContext, *, width: int = 128, temperature: float = 1.0, detach_targets: bool = False
) -> dict[str, Any]:
    """Train a head behind each tower on stored features of pictures, cut out on black, and of their texts.

    The towers stay as they are and are run once; the loss is `losses.SoftTargetContrastive`, whatever the recipe's
    entry `loss`. Batches are drawn with replacement. The heads are left in the stage's folder.

    Args:
        context: of the stage; of several captions a picture has its first.
        width: of the embeddings.
        temperature, detach_targets: of the loss.

    Raises:
        UsageError: a setting out of range.
        NotSupported: shards, pictures that do not fit in memory, several processes, or no image-text model.

    Paper: Zero Shot Context-Based Object Segmentation using SLIP (SAM+CLIP) (arXiv 2405.07284).
    """
    model, stage = context.model, context.stage
    if not isinstance(model, ImageTextModel):
        raise NotSupported(f"slip-head takes image-text models, not {type(model).__name__}")
    pictures = context.pictures
    if pictures.images is None:
        raise NotSupported("slip-head: the training pictures do not fit in memory; raise cache_mb, or use fewer")
    texts = list(dict.fromkeys(pictures.captions))
    place = {text: number for number, text in enumerate(texts)}
    with torch.no_grad():
        parts = [torch.stack([cut_out(p, context.image_size) for p in part]) for part in pictures.images.split(PART)]
        pictured = torch.cat([model.encode_image(part, normalize=True).float() for part in parts])
        named = model.encode_text(texts, normalize=True).float()
    owner = torch.tensor([place[text] for text in pictures.captions], device=pictured.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        image, text = ResidualHead(pictured.shape[1], width), ResidualHead(named.shape[1], width)
    loss = SoftTargetContrastive(temperature, detach_targets=detach_targets)
    each = stage.batch_size * stage.accumulate
    steps = max(1, round((stage.samples or (stage.epochs or 0) * len(pictured)) / each))
    batches = RowBatches(len(pictured), stage.batch_size, context.seed)
    context.fit(SlipHeadStep(image, text, pictured, named, owner, loss), batches, steps=steps)
    ProjectedModel(model, image.eval(), text.eval()).save(context.folder("stages"))
    return {"pictures": len(pictured), "texts": len(texts)}


@register(PASSES, "slip-head")
def _passes(stage: Stage, **settings: object) -> Passes:
    """Every picture and text is encoded once, as many texts as pictures at most."""
    if stage.epochs is None:
        return Uncounted("each picture is encoded once, and a length in samples does not say how many there are")
    return TowerPasses(pictures=0, captions=0, copied_pictures=1 / stage.epochs, copied_captions=1 / stage.epochs)

"""Losses of the image tower of `small`: every training caption is a class, every object of a scene has a mask.

With few pictures a batch holds few negatives. The caption table is small enough to compare each image with all of it,
so image to text is a softmax over the whole table, softened towards captions that mean the same; text to image uses
the batch and a queue of recent images. Dense terms look at the value path of the last block, location by location.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

__all__ = ["ImageLoss", "Queue", "TextTable", "attention_loss", "location_loss", "photograph_loss", "soft_targets"]


@dataclass(frozen=True)
class TextTable:
    """Unit text features that images are compared with, and what they mean to the sentence teacher.

    Attributes:
        features: (U, E) features of the text tower. teacher: (U, E) unit embeddings of the sentence encoder.
        sharpness: how fast the soft share falls with the teacher's cosine; share: how much of a target is soft.
    """

    features: Float[Tensor, "U E"]
    teacher: Float[Tensor, "U E"]
    sharpness: float = 20.0
    share: float = 0.3


def soft_targets(table: TextTable, rows: Int[Tensor, "B"]) -> Float[Tensor, "B U"]:
    """Targets over the table: most on the caption itself, the rest on captions of like meaning."""
    near = (table.sharpness * (table.teacher[rows] @ table.teacher.T)).softmax(-1) * table.share
    return near.scatter_add(1, rows[:, None], torch.full_like(near[:, :1], 1 - table.share))


class Queue(nn.Module):
    """The last `size` image features with their captions: further negatives for text to image.

    They are buffers, so a checkpoint holds them; rows of -1 are empty places.
    """

    features: Float[Tensor, "Q E"]
    rows: Int[Tensor, "Q"]

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, width))
        self.register_buffer("rows", torch.full((size,), -1))

    @torch.no_grad()
    def push(self, features: Float[Tensor, "B E"], rows: Int[Tensor, "B"]) -> None:
        """Put a batch in front and drop the oldest."""
        size = len(self.rows)
        self.features.copy_(torch.cat([features.detach().float(), self.features])[:size])
        self.rows.copy_(torch.cat([rows, self.rows])[:size])


@dataclass
class ImageLoss:
    """Contrastive and regression terms of whole images.

    Attributes:
        table: the texts. scale: logit scale. cosine: weight of 1 - cosine to the caption's own feature.
        queue: recent images.
    """

    table: TextTable
    queue: Queue
    cosine: float = 1.0

    def __call__(
        self, features: Float[Tensor, "B E"], rows: Int[Tensor, "B"], scale: Float[Tensor, ""]
    ) -> dict[str, Float[Tensor, ""]]:
        features = nn.functional.normalize(features, dim=-1)
        texts = self.table.features
        logits = scale * features @ texts.T
        image = -(soft_targets(self.table, rows) * logits.log_softmax(-1)).sum(-1).mean()
        pool = torch.cat([features, self.queue.features.clone()])
        owners = torch.cat([rows, self.queue.rows])
        unique = rows.unique()
        back = (scale * texts[unique] @ pool.T).masked_fill(owners < 0, -torch.inf)
        hit = unique[:, None] == owners[None]
        text = -(back.log_softmax(-1).masked_fill(~hit, 0).sum(-1) / hit.sum(-1)).mean()
        centred = nn.functional.normalize(texts[rows] - texts.mean(0), dim=-1)
        regress = (1 - (features * centred).sum(-1)).mean()
        self.queue.push(features, rows)
        return {"image": 0.5 * image, "text": 0.5 * text, "cosine": self.cosine * regress}


def location_loss(
    dense: Float[Tensor, "B L E"],
    rows: Int[Tensor, "B K"],
    masks: Float[Tensor, "B K L"],
    table: TextTable,
    scale: Float[Tensor, ""],
    *,
    covered: float = 0.4,
) -> Float[Tensor, ""]:
    """Each location against the captions of the batch; right is what covers most of it, if that is at least `covered`.

    Locations weigh by their cover, and each object counts as much as another, whatever its size.
    """
    most, slot = masks.max(1)
    owner = rows.gather(1, slot)
    keep: Bool[Tensor, "B L"] = (most >= covered) & (owner >= 0)
    if not bool(keep.any()):
        return dense.sum() * 0
    unique, index = owner[keep].unique(return_inverse=True)
    area = (masks * keep[:, None]).sum(2).clamp(min=1.0)
    weight = (most / area.gather(1, slot))[keep]
    states = nn.functional.normalize(dense[keep], dim=-1)
    logits = scale * states @ table.features[unique].T
    target = soft_targets(TextTable(table.features[unique], table.teacher[unique], 30.0, 0.2), index)
    losses = -(target * logits.log_softmax(-1)).sum(-1)
    return (weight * losses).sum() / weight.sum()


def attention_loss(attention: Float[Tensor, "B H N"], masks: Float[Tensor, "B K L"]) -> Float[Tensor, ""]:
    """Minus log of the share of CLS attention that lies on objects, mean over heads first.

    A head may look elsewhere as long as others do not, so heads keep roles of their own. The loss is zero where all
    attention is on fully covered patches.

    Args:
        attention: weights of CLS over all N = 1 + L tokens, CLS first.
        masks: the share of each patch that each object covers.
    """
    cover = masks.sum(1).clamp(max=1.0)  # (B, L)
    mass = (attention.mean(1)[:, 1:] * cover).sum(-1)  # (B,)
    there = cover.amax(-1) > 0.5
    return -(mass.clamp(min=1e-4).log() * there).sum() / there.sum().clamp(min=1)


def photograph_loss(
    features: Float[Tensor, "B E"],
    classes: Float[Tensor, "C E"],
    teacher: Float[Tensor, "B C"],
    scale: Float[Tensor, ""],
    *,
    floor: float = 1e-4,
) -> Float[Tensor, ""]:
    """Cross entropy from an ImageNet classifier's distribution to the one over the class names' text features."""
    logits = scale * nn.functional.normalize(features, dim=-1) @ classes.T
    target = teacher.clamp(min=floor)
    target = target / target.sum(-1, keepdim=True)
    return -(target * logits.log_softmax(-1)).sum(-1).mean()

"""DeeCLIP: tokens of many layers of an adapted tower, fused, with a triplet loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.losses import TokenTriplet
from binderclip.losses.contrastive.terms.triplet import Distance
from binderclip.models import DeeFuser
from binderclip.models.checks import refuse_bare_module
from binderclip.quality.forensics.adapted_tower import AdaptedDetector
from binderclip.quality.forensics.detector import DetectorOutput, Parts, PictureEncoder, Sampling
from binderclip.quality.forensics.views import View

LAYERS = (1, 3, 5, 8, 10, 13, 15, 17, 19, 21, 22, 23)
"""The paper's hidden states of a tower of 24 blocks: state i enters block i, so the last is before the last block."""


def scaled_layers(depth: int) -> list[int]:
    """The paper's layers in a tower of another depth: the same places between the first block and the last.

    Raises:
        UsageError: fewer than three blocks, where there is nothing to fuse.
    """
    if depth < 3:
        raise UsageError(
            f"a tower of {number_of(depth, 'block')} has no earlier layers to fuse: at least 3, or give layers"
        )
    return sorted({max(1, round(layer * (depth - 1) / 23)) for layer in LAYERS})


class DeeCLIP(AdaptedDetector):
    """Detect generated pictures by tokens of shallow and deep layers of an adapted tower.

    The patch tokens of the last of `layers` attend to those of all others (`models.DeeFuser`); each fused token is
    projected to length one, their mean gives the logit. loss = triplet loss of the token embeddings + 2 * binary
    cross-entropy of all three roles. Labels are those of the pictures: the released loop orders them sample by sample
    and logits role by role, so with more than one triplet they do not fit each other there.

    Args:
        model: a name or an opened model, which is copied.
        layers: hidden states; state i enters block i. Default: the paper's, scaled to the depth.
        view: "resize" (the paper's) or "crop".
        side: of the input in pixels; default the model's.
        width: of the token embeddings. Default 768.
        mlp_hidden: of the fuser; default 4 times the tower's width, as released 4.
        margin, distance: of the triplet loss, see `losses.TokenTriplet`.
        triplet: weight of the triplet loss; 0 leaves it out.
        r, lora_alpha, lora_dropout, target_modules, blocks: of the adapters, see `models.lora_`. The dropout there
            draws once a pass, not for every token.

    Raises:
        UsageError: layers that the tower does not have, fewer than two, or a side that it does not take.

    Paper: DeeCLIP: A Robust and Generalizable Transformer-Based Framework for Detecting AI-Generated Images
    (arXiv 2504.19876).

    Examples:
        >>> detector = DeeCLIP("open_clip:ViT-L-14/openai")  # doctest: +SKIP
        >>> train_detector(detector, real_fake_folder("pictures"), steps=200, lr=5e-5)  # doctest: +SKIP
    """

    sampling: ClassVar[Sampling] = "triplets"

    def __init__(
        self,
        model: PictureEncoder | str = "small",
        *,
        layers: Sequence[int] | None = None,
        view: View = "resize",
        side: int | None = None,
        width: int = 768,
        mlp_hidden: int | None = None,
        margin: float = 1.0,
        distance: Distance = "pooled",
        triplet: float = 1.0,
        r: int = 16,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.05,
        target_modules: Sequence[str] = ("q", "k", "v"),
        blocks: int | Sequence[int] | None = None,
    ) -> None:
        refuse_bare_module(model, "DeeCLIP")
        settings = {
            "layers": None if layers is None else list(layers), "view": view, "side": side, "width": width,
            "mlp_hidden": mlp_hidden, "margin": margin, "distance": distance, "triplet": triplet, "r": r,
            "lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "target_modules": list(target_modules),
            "blocks": blocks,
        }  # fmt: skip
        super().__init__(
            model, settings, view=view, side=side, r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout,
            target_modules=target_modules, blocks=blocks,
        )  # fmt: skip
        depth = self.tower.depth
        self.layers = scaled_layers(depth) if layers is None else sorted(layers)
        there = len(self.layers) > 1 and 0 <= self.layers[0] <= self.layers[-1] <= depth
        if not there or len(set(self.layers)) != len(self.layers):
            raise UsageError(f"layers {self.layers}: two or more different ones of 0..{depth}")
        self.first = min(self.first, self.layers[0])
        self.triplet = triplet
        self.triplet_loss = TokenTriplet(margin, distance=distance)
        self.fuser = DeeFuser(self.tower.width, mlp_hidden=mlp_hidden)
        self.project = nn.Linear(self.tower.width, width)
        self.line = nn.Linear(width, 1)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.normal_(self.line.weight, 0.0, 0.02)

    def read(self, features: Parts) -> DetectorOutput:
        """The logit, the mean of the unit token embeddings, and these."""
        tokens = self.tokens(features)
        states, place = [], self.first
        for layer in self.layers:
            tokens = self.tower.run(tokens, start=place, stop=layer)
            place = layer
            states.append(tokens.patches)  # (B, N, D)
        fused = self.fuser(torch.cat(states[:-1], 1), states[-1])
        unit = functional.normalize(self.project(fused), dim=-1)  # (B, N, width)
        pooled = unit.mean(1)
        return DetectorOutput(self.line(pooled)[:, 0], pooled, unit)

    def objective(
        self, features: Parts, labels: Float[Tensor, "B"], patch_labels: Float[Tensor, "B N"] | None = None
    ) -> Float[Tensor, ""]:
        """Triplet loss + 2 binary cross-entropies; rows are anchors, then positives, then negatives.

        Raises:
            UsageError: rows that are no triplets.
        """
        if len(labels) % 3:
            raise UsageError(f"no triplets, {number_of(len(labels), 'row')}: anchors, then positives, then negatives")
        readout = self.read(features)
        image_loss = functional.binary_cross_entropy_with_logits(readout.logit, labels)
        if not self.triplet:
            return 2 * image_loss
        assert readout.tokens is not None
        anchor, positive, negative = readout.tokens.chunk(3)
        return self.triplet * self.triplet_loss(anchor, positive, negative) + 2 * image_loss

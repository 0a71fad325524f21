"""Teach a promptable segmenter's encoder an image-text model's semantics without losing its masks (SAM-CLIP)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.dense.mask_sets import dice_loss, soft_focal_loss
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.models.layers.freezing import frozen
from binderclip.numeric import check_number
from binderclip.segment.promptable import PromptModel
from binderclip.segment.promptable.drawn import PromptTokens
from binderclip.segment.promptable.network import FeaturePyramid, PromptNetwork
from binderclip.segment.promptable.object_prompts import first_prompts
from binderclip.segment.trained.merged import MergedEncoder
from binderclip.segment.trained.task import HeadTask, RowBatches, run_task

__all__ = ["MERGE_STAGES", "MaskRehearsal", "MergeStage", "MergeTraining", "text_distance", "train_merge"]


@dataclass(frozen=True, kw_only=True)
class MergeStage:
    """A stage of the merging.

    Attributes:
        lr: of the head.
        encoder_lr: the encoder and the mask decoder learn at so many times `lr`; 0 leaves the segmenter as it is.
        rehearsal: weight of the segmenter's own masks; 0 does without.
        sides: in pixels, one drawn at each step, at which the head sees pictures; default half, three quarters and,
            where `whole`, all of the segmenter's own.
        whole: whether the segmenter's own side is among them, so that one pass serves both heads afterwards.
    """

    lr: float
    encoder_lr: float = 0.0
    rehearsal: float = 0.0
    sides: tuple[int, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        if min(self.encoder_lr, self.rehearsal) < 0 or self.lr <= 0:
            raise UsageError(
                f"lr must be positive, encoder_lr and rehearsal not negative, got {self.lr:g}, {self.encoder_lr:g} and "
                f"{self.rehearsal:g}"
            )
        if any(side < 8 or side % 8 for side in self.sides):
            raise UsageError(f"sides are positive multiples of 8 pixels, got {self.sides}")

    def sides_of(self, encoder: MergedEncoder) -> tuple[int, ...]:
        """The sides at which the head sees pictures.

        Args:
            encoder: whose segmenter's side is the whole.
        """
        small = self.sides or tuple(max(8, round(encoder.size * part / 8) * 8) for part in (0.5, 0.75))
        return (*small, encoder.size) if self.whole else small


#: The paper's three stages, by name: its rates and weights. Its sides, 224 and 448 of 1,024 pixels, would leave a small
#: segmenter too few cells.
MERGE_STAGES: Mapping[str, MergeStage] = {
    "probe": MergeStage(lr=8e-4),
    "joint": MergeStage(lr=4e-5, encoder_lr=0.1, rehearsal=10.0),
    "resolution": MergeStage(lr=8e-4, whole=True),
}


class StemMaps:
    """What the convolutions below an encoder's blocks make of pictures, kept where they do not learn.

    Args:
        encoder: merged.
        images: in [0, 1].
        kept: whether the maps of all pictures are computed once, when a side is first asked for.
    """

    def __init__(self, encoder: MergedEncoder, images: Float[Tensor, "N 3 H W"], *, kept: bool) -> None:
        self.encoder, self.images, self.kept = encoder, images, kept
        self._coarse: dict[int, Tensor] = {}
        self._levels: tuple[Tensor, Tensor, Tensor] | None = None

    def coarse(self, rows: Int[Tensor, "B"], side: int) -> Float[Tensor, "B C h w"]:
        """The coarsest map of some pictures, seen at a side."""
        if not self.kept:
            return self._made(self.images[rows], side)[2]
        if side not in self._coarse:
            with torch.no_grad():
                self._coarse[side] = torch.cat([self._made(some, side)[2] for some in self.images.split(32)])
        return self._coarse[side][rows]

    def levels(self, rows: Int[Tensor, "B"]) -> tuple[Tensor, Tensor, Tensor] | None:
        """All maps of some pictures, seen at the segmenter's own side; None where they are not kept."""
        if not self.kept:
            return None
        if self._levels is None:
            with torch.no_grad():
                parts = [self._made(some, self.encoder.size) for some in self.images.split(32)]
            fine, middle, coarse = (torch.cat(level) for level in zip(*parts, strict=True))
            self._levels = fine, middle, coarse
        fine, middle, coarse = (level[rows] for level in self._levels)
        return fine, middle, coarse

    def _made(self, images: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.encoder.segmenter.backbone.stem.levels(self.encoder.pixels(images, side))


def text_distance(
    encoder: MergedEncoder, level: Float[Tensor, "B S h w"], target: Float[Tensor, "B E"]
) -> Float[Tensor, ""]:
    """1 - cosine of the merged encoder's and the image-text model's embeddings, mean over pictures: L_CLIP.

    Args:
        encoder: is trained.
        level: the coarsest map of its stem.
        wanted: embeddings of the image-text model.
    """
    pooled = encoder.pooled(encoder.segmenter.backbone.coarse(level))
    return 1 - F.cosine_similarity(pooled.float(), target.float(), dim=-1).mean()


@dataclass(frozen=True, kw_only=True)
class MaskRehearsal:
    """L_SAM: the segmenter's masks are to stay those of the segmenter it was, for the same clicks and boxes.

    20 times focal plus dice for each of its mask tokens against the same token of before. No true mask is a target:
    where masks are given, clicks and boxes alone come from them; else from the masks that the segmenter of before finds
    at random places. The targets are probabilities, so both are of the form that is 0, with no gradient, where the
    segmenter does what it did: dice with V-Net's squares, since the one with plain areas draws unsure pixels towards
    sure ones. The paper adapts SAM's loss "for distillation" and gives no formula.

    Args:
        original: the segmenter as it was.
        prompts: objects asked for in each picture.

    Raises:
        UsageError: no prompt.
    """

    original: PromptModel
    prompts: int = 4

    def __post_init__(self) -> None:
        check_number("prompts", self.prompts, least=1)

    def __call__(
        self,
        encoder: MergedEncoder,
        images: Float[Tensor, "B 3 H W"],
        generator: torch.Generator,
        objects: Sequence[Bool[Tensor, "_ H W"]] | None = None,
        levels: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Float[Tensor, ""]:
        """The loss.

        Args:
            encoder: is trained.
            images: in [0, 1]; seen at the segmenter's own side.
            generator: of the prompts.
            objects: masks of each picture.
            levels: maps of the stem, where it does not learn and they are known.
        """
        network, before = encoder.segmenter.backbone, self.original.backbone

        def maps(net: PromptNetwork) -> FeaturePyramid:
            return net.encode(encoder.pixels(images)) if levels is None else net.pyramid(levels)

        with torch.no_grad():
            taught = maps(before)
            rows, masks = self._given(objects, encoder.size, generator) if objects else self._found(taught, generator)
            if not len(rows):
                return taught.coarse.new_zeros(()).requires_grad_()
            points, labels = first_prompts(masks, generator)
            rows, like = rows.to(taught.coarse.device), taught.coarse
            asked = PromptTokens(points.to(like), labels.to(like.device))
            target = before.decode(taught.rows(rows), asked)[0].sigmoid()  # z (P, 4, h, w)
        logits = network.decode(maps(network).rows(rows), asked)[0]
        return (20 * soft_focal_loss(logits, target) + dice_loss(logits, target, squared=True)).mean()

    def _given(
        self, objects: Sequence[Tensor], side: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "P"], Bool[Tensor, "P S S"]]:
        """Some masks of each picture, squashed to a side."""
        rows, chosen = [], []
        for row, masks in enumerate(objects):
            if len(masks):
                drawn = torch.randint(len(masks), (self.prompts,), generator=generator)
                small = F.interpolate(masks[drawn, None].float().cpu(), (side, side), mode="nearest")[:, 0] > 0.5
                chosen.append(small)
                rows += [row] * self.prompts
        return self._kept(
            torch.tensor(rows, dtype=torch.long), torch.cat(chosen) if chosen else torch.zeros(0, side, side) > 0
        )

    def _found(
        self, taught: FeaturePyramid, generator: torch.Generator
    ) -> tuple[Int[Tensor, "P"], Bool[Tensor, "P S S"]]:
        """The masks at random places."""
        rows = torch.arange(len(taught.coarse)).repeat_interleave(self.prompts)
        places = torch.rand(len(rows), 1, 2, generator=generator).to(taught.coarse)
        clicks = PromptTokens(places, torch.ones(len(rows), 1, dtype=torch.long, device=places.device))
        logits = self.original.backbone.decode(taught.rows(rows.to(places.device)), clicks)[0]
        return self._kept(rows, logits[:, 0].cpu() > 0)

    @staticmethod
    def _kept(rows: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        there = masks.flatten(1).any(1)
        return rows[there], masks[there]


@dataclass(frozen=True)
class MergeTraining:
    """What training left: the encoder in eval mode, and of each stage the figures of its steps.

    Attributes:
        encoder: merged.
        losses: name of the stage -> `text` and, where there was rehearsal, `masks`, one a step.
    """

    encoder: MergedEncoder
    losses: dict[str, dict[str, Float[np.ndarray, "_"]]]


@contextmanager
def stage_frozen(
    encoder: MergedEncoder, stage: MergeStage, *, stem: bool = True
) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """Freeze what stays as it is in a stage; parameter groups of what learns, and whether the stem does.

    Args:
        encoder: is trained.
        stage: says what of it.
        stem: whether the convolutions below the blocks learn where the encoder does.
    """
    network = encoder.segmenter.backbone
    image, prompts, decoder = network.parts()
    kept = [*prompts, network.score, *([] if stem else [network.stem])]  # no loss asks for a predicted IoU
    learns = [part for part in (*image, *decoder) if part not in kept] if stage.encoder_lr else []
    kept = kept if learns else [encoder.segmenter]
    with frozen(encoder.model.backbone, *kept):
        groups: list[dict[str, Any]] = [{"params": [p for part in encoder.head for p in part.parameters()]}]
        if learns:
            slow = [p for part in learns for p in part.parameters()]
            groups.append({"params": slow, "lr_scale": stage.encoder_lr})
        yield groups, bool(learns) and stem


def merge_step(
    encoder: MergedEncoder,
    stage: MergeStage,
    text: Callable[[int], Float[Tensor, ""]],
    masks: Callable[[torch.Generator], Float[Tensor, ""]],
    generator: torch.Generator,
    backward: Callable[[Tensor], None],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """The two losses of a step, each with its own backward pass, so that one optimizer step takes both gradients.

    Args:
        encoder, stage: what learns, and how.
        text: L_CLIP of pictures seen at a side.
        masks: L_SAM.
        generator: of the side and the prompts.
        backward: called with each loss.
    """
    sides = stage.sides_of(encoder)
    total = text(sides[int(torch.randint(len(sides), (), generator=generator))])
    backward(total)
    parts = {"text": total.detach()}
    if stage.rehearsal:
        again = masks(generator)
        backward(stage.rehearsal * again)
        parts["masks"] = again.detach()
        total = total.detach() + stage.rehearsal * again.detach()
    return total.detach(), parts


def train_merge(
    encoder: MergedEncoder,
    images: Float[Tensor, "N 3 H W"],
    *,
    embeddings: Float[Tensor, "N E"] | None = None,
    rehearsed: Float[Tensor, "M 3 h w"] | None = None,
    objects: Sequence[Bool[Tensor, "_ h w"]] | None = None,
    stages: Sequence[str] | Mapping[str, MergeStage] = ("probe", "joint", "resolution"),
    steps: int | Sequence[int] = (300, 300, 50),
    batch: int = 64,
    rehearsal_batch: int = 8,
    prompts: int = 4,
    stem: bool = True,
    weight_decay: float = 0.1,
    seed: int = 0,
) -> MergeTraining:
    """Merge an image-text model into a promptable segmenter: its embeddings are learnt, the masks of before rehearsed.

    First the new head alone (`probe`), then by both losses (`joint`) all but the prompts' part and the predicted IoU,
    then the head alone at larger sides (`resolution`). AdamW with a cosine to 0 in each; the image-text model stays as
    it is.

    Args:
        encoder: to be trained; its segmenter as it is now is what is rehearsed.
        images: in [0, 1], without labels, for the image-text model's embeddings.
        embeddings: the image-text model's of the images, where they are known; default computed once.
        rehearsed: in [0, 1], for the masks; default `images`. The paper takes 5.7 % of the segmenter's own data.
        objects: masks of each of the rehearsed pictures, whose places are asked for; default those found at random.
        stages: names of `MERGE_STAGES`, or stages by name.
        steps: of each stage. The paper has 20, 16 and 3 epochs of 40.6 million pictures: fewer steps ask for a larger
            `lr` of the joint stage.
        batch, rehearsal_batch: pictures of the two losses a step; 2,048 and 32 in the paper.
        prompts: objects asked for in each rehearsed picture; 32 in the paper.
        stem: False leaves the convolutions below the encoder's blocks as they are, whose maps are then computed once:
            far fewer seconds a step, half a megabyte a rehearsed picture of 128 px. What does not learn in a stage is
            computed once in any case.
        weight_decay: of AdamW.
        seed: of batches, sides and prompts.

    Raises:
        UsageError: no picture, an unknown stage, steps, masks or embeddings that are not as many.

    Paper: Wang et al., SAM-CLIP: Merging Vision Foundation Models towards Semantic and Spatial Understanding (CVPR 2024
    Workshops, arXiv 2310.15308).
    """
    again = images if rehearsed is None else rehearsed
    chosen = _stages(stages)
    counts = [steps] * len(chosen) if isinstance(steps, int) else list(steps)
    if len(counts) != len(chosen):
        raise UsageError(f"{len(counts)} numbers of steps for the stages {', '.join(chosen)}")
    if images.ndim != 4 or not len(images) or again.ndim != 4 or not len(again):
        raise UsageError(f"pictures are (N, 3, H, W), one at least, not {tuple(images.shape)} and {tuple(again.shape)}")
    if objects is not None and len(objects) != len(again):
        raise UsageError(f"masks of {len(objects)} pictures for {len(again)} that are rehearsed")
    if embeddings is not None and embeddings.shape != (len(images), encoder.model.embed_dim):
        raise UsageError(f"embeddings are {tuple(embeddings.shape)} for {len(images)} pictures")
    with torch.no_grad():
        target = encoder.model.encode_image(images).float() if embeddings is None else embeddings
    rehearsal = MaskRehearsal(original=copy.deepcopy(encoder.segmenter).eval(), prompts=prompts)
    made: dict[bool, tuple[StemMaps, StemMaps]] = {}
    losses: dict[str, dict[str, Any]] = {}
    for place, ((name, stage), count) in enumerate(zip(chosen.items(), counts, strict=True)):
        with stage_frozen(encoder, stage, stem=stem) as (groups, moves), fast_gradients(encoder):
            if moves:
                made.clear()  # what was kept is of the stem before
            if moves not in made:
                made[moves] = (StemMaps(encoder, images, kept=not moves), StemMaps(encoder, again, kept=not moves))
            own = (seed * 31 + place) * 1_000_003
            step = _stage_step(encoder, stage, rehearsal, *made[moves], target, objects, rehearsal_batch, own)
            task = HeadTask(encoder, step, RowBatches(len(images), batch, seed + place), groups)
            result = run_task(task, steps=count, lr=stage.lr, weight_decay=weight_decay, schedule="cosine")
        losses[name] = {part: np.asarray(result.history[part]) for part in ("text", "masks") if part in result.history}
    return MergeTraining(encoder, losses)


def _stage_step(
    encoder: MergedEncoder,
    stage: MergeStage,
    rehearsal: MaskRehearsal,
    seen: StemMaps,
    again: StemMaps,
    target: Float[Tensor, "N E"],
    objects: Sequence[Bool[Tensor, "_ h w"]] | None,
    rehearsal_batch: int,
    seed: int,
) -> Callable[..., tuple[Tensor, dict[str, Tensor]]]:
    """The step of a stage: rows of the pictures and a backward pass -> loss and figures."""

    def step(given: tuple[int, Tensor], backward: Callable[[Tensor], None]) -> tuple[Tensor, dict[str, Tensor]]:
        number, rows = given

        def text(side: int) -> Tensor:
            return text_distance(encoder, seen.coarse(rows, side), target[rows])

        def masks(generator: torch.Generator) -> Tensor:
            drawn = torch.randint(len(again.images), (rehearsal_batch,), generator=generator)
            own = None if objects is None else [objects[row] for row in drawn.tolist()]
            return rehearsal(encoder, again.images[drawn], generator, own, again.levels(drawn))

        return merge_step(encoder, stage, text, masks, torch.Generator().manual_seed(seed + number), backward)

    return step


def _stages(stages: Sequence[str] | Mapping[str, MergeStage]) -> dict[str, MergeStage]:
    """Stages by name."""
    if isinstance(stages, Mapping):
        result = dict(stages)
    else:
        if unknown := [name for name in stages if name not in MERGE_STAGES]:
            raise UsageError(f"unknown stage {unknown[0]!r}: {', '.join(MERGE_STAGES)}")
        result = {name: MERGE_STAGES[name] for name in stages}
    if not result:
        raise UsageError(f"no stage is named: {', '.join(MERGE_STAGES)}")
    return result

"""The stage that trains the self-supervised tower `small-dino`: what it sees is pictures alone, no name, no mask.

A student sees two large crops, with some patches hidden, and several small ones; a teacher, the average of past
students, sees the large ones whole. The student's class token must match the teacher's on the other crops (DINO,
arXiv 2104.14294), its hidden patches the teacher's on the same crop (iBOT, arXiv 2111.07832), and some of its patches
the teacher's neighbouring patches that are most like them (SelfPatch, arXiv 2206.07990).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from binderclip.data.sets.packs import TRAINING_PACKS, pack_hash
from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import vocabulary
from binderclip.errors import NotSupported
from binderclip.models.image_text.vision import VisionModel
from binderclip.train.bundled.data.batches import Numbered
from binderclip.train.bundled.vision import BACKGROUNDS, hybrid
from binderclip.train.engine.companions import cosine_momentum
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import OwnCount, SampleCost, forward_operations, step_operations, with_frozen_groups
from binderclip.train.recipe.registry import PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["DinoHead", "DinoStep", "MultiCrop", "dino", "tokens_of"]


@dataclass(frozen=True)
class MultiCrop:
    """Batches by number: two large and several small crops of each scene.

    Attributes:
        batch: scenes a batch. seed: of everything.
        large, small: sides of the crops in pixels. count: small crops of each scene.
        whole: side of the scene.
        split: least share of a side that a large crop keeps, which is the most of a small one.
        names, backgrounds: as `scenes` takes them. A scene holds 0 to 4 objects: without any it is a crop of a
            photograph, or a pattern.
        hidden: most patches of a large crop to hide, as a share; half of the crops hide none.
        patch: side of a patch in pixels.
    """

    batch: int
    seed: int
    large: int = 96
    small: int = 48
    count: int = 2
    whole: int = 144
    split: float = 0.6
    names: str | tuple[str, ...] = "captions"
    backgrounds: tuple[str, ...] = BACKGROUNDS
    hidden: float = 0.5
    patch: int = 8

    def __call__(self, number: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        images = scenes(
            self.seed,
            self.batch,
            self.whole,
            vocabulary=vocabulary(self.names, split="train"),
            objects=(0, 4),
            area=(0.02, 0.35),
            occlusion=0.4,
            background=list(self.backgrounds),
            first=number * self.batch,
        ).images
        large = [self._crop(images, self.large, (self.split, 1.0), generator) for _ in range(2)]
        small = [self._crop(images, self.small, (0.25, self.split), generator) for _ in range(self.count)]
        return {
            "large": torch.cat(large),
            "small": torch.cat(small) if small else None,
            "hidden": self._hide(2 * self.batch, generator),
            "sampled": self._sample(generator),
        }

    def _crop(
        self, images: Float[Tensor, "B 3 S S"], side: int, share: tuple[float, float], generator: torch.Generator
    ) -> Float[Tensor, "B 3 s s"]:
        """One crop of each image, mirrored at random, in other colours."""
        count = len(images)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator)

        extent = (share[0] + (share[1] - share[0]) * uniform(1)) * (0.9 + 0.2 * uniform(2))
        extent = extent.clamp(max=1.0)
        theta = torch.zeros(count, 2, 3)
        theta[:, :, 2] = (2 * uniform(2) - 1) * (1 - extent)
        theta[:, 0, 0] = extent[:, 0] * torch.where(uniform() < 0.5, -1.0, 1.0)
        theta[:, 1, 1] = extent[:, 1]
        grid = functional.affine_grid(theta, [count, 3, side, side], align_corners=False)
        views = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
        grey = views.mean(1, keepdim=True)
        views = grey + (views - grey) * (0.6 + 0.8 * uniform(1, 1, 1))
        views = views * (1 + 0.4 * (2 * uniform(1, 1, 1) - 1)) * (1 + 0.15 * (2 * uniform(3, 1, 1) - 1))
        views = torch.where(uniform(1, 1, 1) < 0.1, views.mean(1, keepdim=True), views)
        return views.clamp(0, 1)

    def _sample(self, generator: torch.Generator) -> Int[Tensor, "n"]:
        """An eighth of all patches of the large crops."""
        total = 2 * self.batch * (self.large // self.patch) ** 2
        return torch.randperm(total, generator=generator)[: max(1, total // 8)]

    def _hide(self, count: int, generator: torch.Generator) -> Bool[Tensor, "N L"]:
        """Blocks of neighbouring patches: a smooth random field above its own quantile."""
        cells = self.large // self.patch
        field = torch.rand(count, 1, max(2, cells // 3), max(2, cells // 3), generator=generator)
        field = functional.interpolate(field, size=(cells, cells), mode="bilinear", align_corners=False).flatten(1)
        fraction = self.hidden * torch.rand(count, generator=generator)
        fraction = torch.where(torch.rand(count, generator=generator) < 0.5, 0.0, fraction)
        rank = field.argsort(1).argsort(1)
        return rank >= (cells * cells * (1 - fraction)).round()[:, None]


class DinoHead(nn.Module):
    """Tokens -> logits over prototypes: an MLP, length one, a matrix of unit rows."""

    def __init__(self, width: int, prototypes: int, hidden: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B K"]:
        x = functional.normalize(self.mlp(x), dim=-1)
        return x @ functional.normalize(self.prototypes.weight, dim=-1).T


def tokens_of(
    trunk: Any, maps: Float[Tensor, "B C h w"], hidden: Bool[Tensor, "B L"] | None = None, mask: Tensor | None = None
) -> Float[Tensor, "B L1 D"]:
    """The normalised tokens of a hybrid tower from its stem's maps, the class token first.

    Args:
        trunk: the tower. maps: of its stem.
        hidden: patches that `mask` replaces before positions are added. mask: (D,).
    """
    x = trunk.patch_embed.proj(maps).permute(0, 2, 3, 1)
    if hidden is not None and mask is not None:
        x = torch.where(hidden.view(*x.shape[:3], 1), mask.to(x.dtype), x)
    x = trunk.norm_pre(trunk._pos_embed(x))
    for block in trunk.blocks:
        x = block(x)
    return trunk.norm(x)


class DinoStep(nn.Module):
    """Loss of a batch of `MultiCrop`. The teacher lives inside, so a checkpoint holds it.

    Args:
        model: the student; its stem rests.
        steps: of the stage; the teacher's momentum rises to 1 over them.
        prototypes: of the shared head.
        momentum: of the teacher at the start.
        student, teacher: temperatures; the teacher's rises from 0.04 during the first tenth.
        patches: weight of the hidden patches.
        neighbours: weight of the neighbouring patches.
        centre: momentum of the centres.
    """

    centres: Tensor
    step: Tensor

    def __init__(
        self,
        model: VisionModel,
        *,
        steps: int,
        prototypes: int = 512,
        momentum: float = 0.99,
        student: float = 0.1,
        teacher: float = 0.06,
        patches: float = 1.0,
        neighbours: float = 1.0,
        centre: float = 0.9,
    ) -> None:
        super().__init__()
        trunk = model.backbone
        self.model, self.head = model, DinoHead(trunk.embed_dim, prototypes)
        self.mask = nn.Parameter(0.02 * torch.randn(trunk.embed_dim))
        self.teacher = copy.deepcopy(trunk).requires_grad_(False)
        # The stem rests and is run once for both.
        self.teacher.patch_embed.backbone = nn.Identity()
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("centres", torch.zeros(2, prototypes))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.steps, self.momentum, self.temperatures = steps, momentum, (student, teacher)
        self.patches, self.neighbours, self.centre = patches, neighbours, centre

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        if self.training:
            self._follow()
        trunk, hidden = self.model.backbone, batch["hidden"]
        normalize = self.model.preprocess.normalize
        with torch.no_grad():
            maps = trunk.patch_embed.backbone(normalize(batch["large"]))
            seen = tokens_of(self.teacher, maps)
            whole = self._sharpen(self.teacher_head(seen[:, 0]), 0)
            parts = self._sharpen(self.teacher_head(seen[:, 1:][hidden]), 1)
        own = tokens_of(trunk, maps, hidden, self.mask)
        views = list(self.head(own[:, 0]).chunk(2))
        if batch["small"] is not None:
            with torch.no_grad():
                small = trunk.patch_embed.backbone(normalize(batch["small"]))
            views += self.head(tokens_of(trunk, small)[:, 0]).split(len(whole) // 2)
        pairs = [
            _cross_entropy(view, target, self.temperatures[0]).mean()
            for t, target in enumerate(whole.chunk(2))
            for v, view in enumerate(views)
            if v != t
        ]
        terms = {"class": torch.stack(pairs).mean()}
        if bool(hidden.any()):
            loss = _cross_entropy(self.head(own[:, 1:][hidden]), parts, self.temperatures[0])
            # Every crop counts as much as another, however many patches it hides.
            weight = (1 / hidden.sum(1).clamp(min=1))[:, None].expand_as(hidden)[hidden]
            terms["patches"] = self.patches * (weight * loss).sum() / hidden.any(1).sum()
        if self.neighbours:
            near, rows = self._near(seen[:, 1:], batch["sampled"])
            loss = _cross_entropy(self.head(own[:, 1:].flatten(0, 1)[rows]), near, self.temperatures[0])
            terms["neighbours"] = self.neighbours * loss.mean()
        used = whole.mean(0)
        metrics = {**terms, "prototypes": (-(used * used.clamp(min=1e-9).log()).sum()).exp()}
        return torch.stack(list(terms.values())).sum(), metrics

    @torch.no_grad()
    def _near(
        self, seen: Float[Tensor, "B L D"], rows: Int[Tensor, "n"], most: int = 3
    ) -> tuple[Float[Tensor, "n K"], Int[Tensor, "n"]]:
        """The teacher's mean distribution over the most similar of each patch's eight neighbours."""
        count, cells = seen.shape[:2]
        side = math.isqrt(cells)
        place = torch.arange(count * cells, device=seen.device).view(count, 1, side, side).float()
        around = functional.unfold(functional.pad(place, (1, 1, 1, 1), value=-1.0), 3).long()
        around = around[:, [0, 1, 2, 3, 5, 6, 7, 8]].transpose(1, 2).flatten(0, 1)[rows]
        unit = functional.normalize(seen.float(), dim=-1).flatten(0, 1)
        alike = (unit[around.clamp(min=0)] @ unit[rows][..., None])[..., 0].masked_fill(around < 0, -2.0)
        best = around.gather(1, alike.topk(most, dim=1).indices)  # a corner has three
        logits = self.teacher_head(seen.flatten(0, 1)[best.flatten()])
        return self._sharpen(logits, 1).unflatten(0, best.shape).mean(1), rows

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the teacher towards the student as the last step left it."""
        keep = cosine_momentum(int(self.step), max(1, self.steps), self.momentum)
        students = dict(self.model.backbone.named_parameters())
        for name, value in self.teacher.named_parameters():
            value.lerp_(students[name].detach(), 1 - keep)
        for value, other in zip(self.teacher_head.parameters(), self.head.parameters(), strict=True):
            value.lerp_(other.detach(), 1 - keep)
        self.step += 1

    def _sharpen(self, logits: Float[Tensor, "N K"], which: int) -> Float[Tensor, "N K"]:
        """The teacher's distribution: centred, so that no prototype wins everywhere, and sharpened."""
        logits = logits.float()
        warm = min(1.0, 10 * int(self.step) / max(1, self.steps))
        temperature = 0.04 + (self.temperatures[1] - 0.04) * warm
        target = ((logits - self.centres[which]) / temperature).softmax(-1)
        if self.training and len(logits):
            self.centres[which].lerp_(logits.mean(0), 1 - self.centre)
        return target


def _cross_entropy(
    logits: Float[Tensor, "N K"], target: Float[Tensor, "N K"], temperature: float
) -> Float[Tensor, "N"]:
    return -(target * (logits.float() / temperature).log_softmax(-1)).sum(-1)


@register(STAGES, "dino")
def dino(
    context: StageContext,
    *,
    small_crops: int = 2,
    prototypes: int = 512,
    momentum: float = 0.99,
    teacher: float = 0.06,
    patches: float = 1.0,
    neighbours: float = 1.0,
    hidden: float = 0.5,
    names: str | Sequence[str] = "captions",
    backgrounds: Sequence[str] = BACKGROUNDS,
) -> dict[str, Any]:
    """Self-distillation on crops of scenes and photographs of the training split; the teacher is what is kept.

    Args:
        context: of the stage. A batch is `batch_size` scenes; `image_size` is the side of the large crops (default
            three quarters of the model's), small ones have half of it.
        small_crops: of each scene.
        prototypes: of the head.
        momentum: of the teacher at the start.
        teacher: its temperature.
        patches: weight of the hidden patches. neighbours: of the neighbouring ones. With both at 0 it is DINO alone.
        hidden: most patches to hide, as a share.
        names, backgrounds: of the scenes.
    """
    if context.world.size > 1:
        raise NotSupported("dino runs in one process")
    model = hybrid(context)
    patch = model.image_tower.patch
    large = _large(context.stage, model)
    chosen = names if isinstance(names, str) else tuple(names)
    crops = MultiCrop(
        context.stage.batch_size, context.seed, large, _small(large, patch), small_crops, large * 3 // 2,
        names=chosen, backgrounds=tuple(backgrounds), hidden=hidden, patch=patch,
    )  # fmt: skip
    stem = model.backbone.patch_embed.backbone
    step = DinoStep(
        model, steps=context.steps, prototypes=prototypes, momentum=momentum, teacher=teacher, patches=patches,
        neighbours=neighbours,
    )  # fmt: skip
    flags = [parameter.requires_grad for parameter in stem.parameters()]
    stem.requires_grad_(False)
    try:
        result = context.fit(step, Numbered(crops, "-".join(pack_hash(name)[:8] for name in TRAINING_PACKS)))
    finally:
        for parameter, flag in zip(stem.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    # The stem is the student's own.
    model.backbone.load_state_dict(step.teacher.state_dict(), strict=False)
    return {"scenes": result.steps * context.stage.batch_size * context.stage.accumulate}


def _large(stage: Stage, model: VisionModel) -> int:
    """Side of the large crops in pixels."""
    patch = model.image_tower.patch
    return stage.image_size or max(model.preprocess.size) * 3 // 4 // patch * patch


def _small(large: int, patch: int) -> int:
    """Side of the small crops in pixels."""
    return large // 2 // patch * patch


@register(PASSES, "dino")
def _passes(
    stage: Stage, *, small_crops: int = 2, prototypes: int = 512, patches: float = 1.0, neighbours: float = 1.0,
    hidden: float = 0.5, **settings: object,
) -> OwnCount:  # fmt: skip
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        step, patch = DinoStep(model, steps=1, prototypes=prototypes).to("meta"), model.image_tower.patch
        large = _large(stage, model)
        trunk, batch, small = model.backbone, stage.batch_size, _small(large, patch)
        stem, cells = trunk.patch_embed.backbone, 2 * batch * (large // patch) ** 2
        near = max(1, cells // 8) if neighbours else 0  # as `MultiCrop` draws them
        hides = round(cells * hidden / 4)  # half of the crops hide none, the others half of the most on average

        def rows(number: int) -> Float[Tensor, "N D"]:
            return torch.empty(number, trunk.embed_dim, device="meta")

        def views(count: int, side: int) -> Float[Tensor, "B C h w"]:
            return stem(torch.empty(count, 3, side, side, device="meta"))

        def resting() -> None:
            tokens_of(step.teacher, views(2 * batch, large))
            if small_crops:
                views(small_crops * batch, small)
            step.teacher_head(rows(2 * batch + hides + 3 * near))

        def learning(maps: list[Tensor]) -> Tensor:
            seen = [tokens_of(trunk, part) for part in maps]
            own = torch.cat([seen[0][:, 1:].flatten(0, 1)[: hides + near], *(tokens[:, 0] for tokens in seen)])
            return step.head(own)

        with with_frozen_groups(stage, trunk):
            with torch.no_grad():
                maps = [views(2 * batch, large), *([views(small_crops * batch, small)] if small_crops else [])]
            operations = forward_operations(resting) + step_operations(lambda: learning(maps))
        tokens = 2 * (1 + (large // patch) ** 2) + small_crops * (1 + (small // patch) ** 2)
        return SampleCost(
            image_tokens=tokens, operations=operations / batch,
            left_out="of numbers of hidden patches, which are drawn, it is the mean",
        )  # fmt: skip

    return OwnCount(count=count)

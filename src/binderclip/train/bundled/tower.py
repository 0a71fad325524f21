"""The stage that trains the image tower of `small`, on cached maps of the lower convolutions or from the pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from binderclip.data.sets.packs import TRAINING_PACKS, pack_folder, pack_hash
from binderclip.errors import NotSupported
from binderclip.files import make_folder
from binderclip.models import ImageTextModel
from binderclip.models.bundled.architectures import LiteTrunk, fold_lite
from binderclip.train.bundled.data.batches import Mixture, Numbered
from binderclip.train.bundled.data.maps import Maps, frozen_depthwise, lower_maps, normalise, read_maps, write_maps
from binderclip.train.bundled.data.photographs import RealPictures, read_real
from binderclip.train.bundled.data.pictures import PackPictures, ViewBatch, compose_views, on_white, read_pictures
from binderclip.train.bundled.image import ImageLoss, Queue, TextTable, attention_loss, location_loss, photograph_loss
from binderclip.train.bundled.kinds import class_features, text_features
from binderclip.train.bundled.small import tower_states
from binderclip.train.bundled.teachers import SentenceTeacher, find_part, lite_state
from binderclip.train.engine.context import StageContext
from binderclip.train.recipe.passes import OwnCount, SampleCost, side_in, step_operations, with_frozen_groups
from binderclip.train.recipe.registry import PASSES, STAGES, register
from binderclip.train.recipe.stage import Stage

__all__ = ["ImageTowerStep", "image_tower"]

GRID = 8


class ImageTowerStep(nn.Module):
    """Loss of a batch of `Mixture`: the upper part of the tower on lower maps.

    Args:
        model: the model; its text tower is not run, the table holds its features.
        table: unit features of every training caption. classes: of ImageNet's classes.
        teacher: (P, 1000) an ImageNet classifier's distribution over the crops, None without photographs.
        counts: single objects, scenes, cut-outs and crops of a batch, in this order.
        dense, cosine, photographs, attention: weights of the terms.
        queue: recent images that serve as negatives.
    """

    def __init__(
        self,
        model: ImageTextModel,
        table: TextTable,
        classes: Float[Tensor, "C E"],
        teacher: Float[Tensor, "P C"] | None,
        counts: tuple[int, int, int, int],
        *,
        dense: float,
        cosine: float,
        photographs: float,
        attention: float,
        queue: int,
    ) -> None:
        super().__init__()
        self.model, self.counts = model, counts
        self.weights = {"dense": dense, "photographs": photographs, "attention": attention}
        self.queue = Queue(queue, table.features.shape[1])
        self.whole = ImageLoss(table, self.queue, cosine)
        self._fixed = (classes, teacher)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        visual = self.model.backbone.visual
        lower = batch["lower"].float().contiguous(memory_format=torch.channels_last)
        features = visual.trunk.patch_embed.backbone.upper(lower)
        pooled, values, attention = tower_states(visual.trunk, features)
        scale = self.model.backbone.logit_scale.float().exp()
        image = visual.head(pooled).float()
        singles, scenes, cutouts, _ = self.counts
        objects = singles + scenes + cutouts
        one = [*range(singles), *range(singles + scenes, objects)]
        terms = self.whole(image[one], batch["texts"][one, 0], scale)
        dense = visual.head(values[:objects]).float()
        masks = batch["masks"].flatten(2) if batch["masks"].ndim == 4 else batch["masks"]
        terms["dense"] = self.weights["dense"] * location_loss(
            dense, batch["texts"][:objects], masks[:objects], self.whole.table, scale
        )
        if self.weights["attention"]:
            terms["attention"] = self.weights["attention"] * attention_loss(attention[:objects], masks[:objects])
        classes, teacher = self._fixed
        if teacher is not None:
            terms["photographs"] = self.weights["photographs"] * photograph_loss(
                image[objects:], classes, teacher[batch["crops"]], scale
            )
        return torch.stack(list(terms.values())).sum(), terms


@dataclass
class _Caption:
    """The caption table of a stage: rows by text, for pictures and real ones alike."""

    texts: list[str]

    def rows(self, captions: Sequence[str]) -> Int[Tensor, "N"]:
        index = {text: i for i, text in enumerate(self.texts)}
        return torch.tensor([index.get(caption, -1) for caption in captions])


@dataclass
class _ViewCache:
    """Makes the maps of one stage, or reads those that an interrupted run left."""

    trunk: LiteTrunk
    pictures: PackPictures
    real: RealPictures | None
    captions: _Caption
    folder: Path
    size: int
    seed: int

    def get(self, name: str, count: int) -> Maps:
        """Maps of `count` views: `white`, `single0..`, `scenes`, `cutouts` or `crops`."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            make_folder(self.folder)
            write_maps(self._make(name, count), path)
        return read_maps(path)

    def _make(self, name: str, count: int) -> Maps:
        sort = name.rstrip("0123456789")
        generator = torch.Generator().manual_seed(self.seed * 1009 + sum(name.encode()))
        objects, rgba, mono, table = self._plan(sort, count, generator)
        backdrop = None if self.real is None else _shrink(self.real.crops[:1200], self.size + 16)
        parts = []
        for start in range(0, len(objects), 256):
            chosen = objects[start : start + 256]
            if sort == "white":
                cover = nn.functional.adaptive_avg_pool2d(rgba[chosen[:, 0], 3:].float() / 255, GRID)
                views = ViewBatch(on_white(rgba[chosen[:, 0]], self.size), chosen, cover)
            elif sort == "crops":
                crops = _shrink(rgba[chosen[:, 0]], self.size).float() / 255
                views = ViewBatch(crops, chosen, torch.ones(len(chosen), 1, GRID, GRID))
            else:
                views = compose_views(
                    rgba, mono, chosen, generator, size=self.size, photographs=backdrop, white=WHITE[sort]
                )
            known = torch.where(chosen >= 0, table[chosen.clamp(min=0)], chosen)
            parts.append(lower_maps(self.trunk, ViewBatch(views.images, known, views.masks)))
        return Maps(*(torch.cat([getattr(part, key) for part in parts]) for key in ("lower", "texts", "masks")))

    def _plan(
        self, sort: str, count: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "N K"], UInt8[Tensor, "M C H W"], Tensor, Int[Tensor, "M"]]:
        """Which objects stand in each view, out of which pictures, with which captions."""
        if sort in ("cutouts", "crops"):
            assert self.real is not None
            rgba = self.real.cutouts if sort == "cutouts" else self.real.crops
            names = self.real.cutout_captions if sort == "cutouts" else self.real.crop_captions
            plain = torch.arange(count) % len(rgba)
            return plain[:, None], rgba, torch.zeros(len(rgba), dtype=torch.bool), self.captions.rows(names)
        pictures = self.pictures
        table = self.captions.rows(pictures.captions)
        if sort != "scenes":
            return (torch.arange(count) % len(pictures))[:, None], pictures.rgba, pictures.mono, table
        # Clip art and emoji twice as often as icons, which are simpler.
        weights = torch.tensor([1.0 if source == "icons" else 2.0 for source in pictures.source])
        drawn = torch.multinomial(weights, MOST * count, replacement=True, generator=generator).view(count, MOST)
        few = torch.randint(2, 5, (count, 1), generator=generator)
        many = torch.randint(3, MOST + 1, (count, 1), generator=generator)
        crowd = torch.where(torch.arange(count)[:, None] % 2 == 0, few, many)
        return torch.where(torch.arange(MOST) < crowd, drawn, -1), pictures.rgba, pictures.mono, table


MOST = 6
WHITE = {"single": 0.4, "scenes": 0.15, "cutouts": 0.25}


def _shrink(images: UInt8[Tensor, "N C H W"], size: int) -> UInt8[Tensor, "N C S S"]:
    parts = [
        nn.functional.interpolate(part.float(), size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)
        for part in images.split(128)
    ]
    return torch.cat([part.round().to(torch.uint8) for part in parts])


@torch.inference_mode()
def _classifier(parts: dict[str, str] | None, crops: UInt8[Tensor, "P 3 224 224"]) -> Float[Tensor, "P 1000"]:
    """EfficientNet-Lite0's own distribution over the crops, on its own input scale."""
    state = lite_state("lite0", parts)
    trunk = LiteTrunk("lite0").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trunk.load_state_dict(fold_lite("lite0", state))
    rows = []
    for part in crops.split(64):
        x = ((part.float() - 127) / 128).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            pooled = trunk(x).float().mean((2, 3))
        rows.append((pooled @ state["classifier.weight"].T + state["classifier.bias"]).softmax(-1))
    return torch.cat(rows).clone()


@register(STAGES, "image-tower")
def image_tower(
    context: StageContext,
    *,
    parts: dict[str, str] | None = None,
    photographs: list[str] | None = None,
    stamps: str | None = None,
    gcompris: str | None = None,
    views: int = 2,
    scenes: int = 12_000,
    cutouts: int = 5,
    dense: float = 0.5,
    cosine: float = 1.0,
    photograph_weight: float = 0.7,
    attention: float = 0.1,
    queue: int = 3072,
    limit: int | None = None,
) -> dict[str, Any]:
    """Train everything above the fifth convolutional stage on cached maps of the part below.

    Freeze `text.*` and the lower convolutions in the recipe's groups. With `photographs`, `stamps` and `gcompris` (see
    `bundled.photographs`) real pictures join: an ImageNet classifier's view of them keeps zero-shot on photographs.

    Args:
        context: of the stage.
        parts: paths of the pretrained parts; `minilm` and, with photographs, `lite0` are read here.
        photographs, stamps, gcompris: folders of real pictures; all three, or none.
        views: augmented views of each training picture, besides the one on white.
        scenes: scenes of 2 to 4 objects, every other one of 3 to 6.
        cutouts: views of each cut-out.
        dense, cosine, photograph_weight: weights of the terms beside the contrastive ones.
        attention: weight of the term that asks CLS of the last block to attend to objects; 0 leaves it out.
        queue: recent images that serve as further negatives.
        limit: only the first so many training pictures, for a trial.
    """
    if context.world.size > 1:
        raise NotSupported("image-tower runs in one process")
    model = context.model
    trunk = model.backbone.visual.trunk.patch_embed.backbone
    pictures = read_pictures(pack_folder(), TRAINING_PACKS, "train").first(limit)
    real = _real(photographs, stamps, gcompris, context.seed)
    if real is not None:
        real = without_lookalikes(real, trunk, context.image_size)
    texts = list(dict.fromkeys([*pictures.captions, *_real_captions(real)]))
    cache = _ViewCache(
        trunk.eval().to(memory_format=torch.channels_last),
        pictures,
        real,
        _Caption(texts),
        context.folder("checkpoints") / "maps",
        context.image_size,
        context.seed,
    )
    singles = [cache.get("white", len(pictures)), *(cache.get(f"single{i}", len(pictures)) for i in range(views))]
    mixture = Mixture(
        singles,
        cache.get("scenes", scenes),
        None if real is None else cache.get("cutouts", cutouts * len(real.cutouts)),
        None if real is None else cache.get("crops", len(real.crops)),
        context.stage.batch_size,
        context.seed,
    )
    teacher = SentenceTeacher(find_part("minilm", parts))
    table = TextTable(text_features(model, texts), teacher.encode(texts))
    step = ImageTowerStep(
        model,
        table,
        class_features(lambda names: text_features(model, names)),
        None if real is None else _classifier(parts, real.crops),
        mixture.counts,
        dense=dense,
        cosine=cosine,
        photographs=photograph_weight,
        attention=attention,
        queue=queue,
    )
    with _learning(model, trunk):
        context.fit(step, Numbered(mixture, "-".join(pack_hash(name)[:8] for name in TRAINING_PACKS)))
    return {"pictures": len(pictures), "captions": len(texts), "real": 0 if real is None else len(real.crops)}


@register(PASSES, "image-tower")
def _passes(stage: Stage, **settings: object) -> OwnCount:
    def count(model: Any, stages: Sequence[Stage], index: int) -> SampleCost:
        visual, batch, side = model.backbone.visual, stage.batch_size, side_in(stage, model)
        trunk = visual.trunk.patch_embed.backbone
        with torch.no_grad():
            lower = trunk.lower(torch.empty(batch, 3, side, side, device="meta"))

        def step() -> Tensor:
            pooled, values, _ = tower_states(visual.trunk, trunk.upper(lower))
            return torch.cat([visual.head(pooled)[:, None], visual.head(values)], 1)

        with _learning(model, trunk), with_frozen_groups(stage, model.backbone):
            operations = step_operations(step)
        return SampleCost(
            image_tokens=1 + lower.shape[-2:].numel(), operations=operations / batch,
            left_out="the maps of the lower convolutions and the features of texts, computed once, are not counted",
        )  # fmt: skip

    return OwnCount(count=count)


@contextlib.contextmanager
def _learning(model: ImageTextModel, trunk: LiteTrunk) -> Iterator[None]:
    """Only what stands above the fifth stage learns; depthwise kernels rest."""
    resting = [*model.backbone.text.parameters(), *trunk.stem.parameters(), *trunk.stages[:5].parameters()]
    flags = [parameter.requires_grad for parameter in resting]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        with frozen_depthwise(trunk.stages[5:]):
            yield
    finally:
        for parameter, flag in zip(resting, flags, strict=True):
            parameter.requires_grad_(flag)


@torch.inference_mode()
def without_lookalikes(real: RealPictures, trunk: LiteTrunk, size: int, *, limit: float = 0.84) -> RealPictures:
    """Leave out cut-outs that look like a held-out drawing: some collections share their sources.

    Args:
        real: the pictures.
        trunk: the convolutions that judge.
        size: side in pixels at which they look.
        limit: cosine of centred pooled features from which two pictures count as one; by eye, pairs above 0.84 are.
    """
    held_out = [read_pictures(pack_folder(), TRAINING_PACKS, split).rgba for split in ("val", "test")]

    def pooled(rgba: UInt8[Tensor, "N 4 H H"]) -> Float[Tensor, "N F"]:
        parts = []
        for part in rgba.split(64):
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(trunk(normalise(on_white(part, size))).float().mean((2, 3)))
        return torch.cat(parts)

    others = pooled(torch.cat(held_out))
    own, centre = pooled(real.cutouts), others.mean(0)
    cosine = nn.functional.normalize(own - centre, dim=1) @ nn.functional.normalize(others - centre, dim=1).T
    keep = (cosine.amax(1) < limit).nonzero()[:, 0].tolist()
    names = tuple(real.cutout_captions[row] for row in keep)
    return RealPictures(real.crops, real.crop_captions, real.cutouts[keep].clone(), names)


def _real(photographs: list[str] | None, stamps: str | None, gcompris: str | None, seed: int) -> RealPictures | None:
    if photographs is None and stamps is None and gcompris is None:
        return None
    held_out = set()
    for split in ("val", "test"):
        held_out |= {text.lower() for text in read_pictures(pack_folder(), TRAINING_PACKS, split).captions}
    return read_real(photographs or [], stamps, gcompris, forbidden=held_out, seed=seed)


def _real_captions(real: RealPictures | None) -> list[str]:
    return [] if real is None else [text for text in (*real.cutout_captions, *real.crop_captions) if text]

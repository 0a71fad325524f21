"""Does tuning an image-text model on the pictures and names of a niche let it find the named thing among cut-outs?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.data.synthetic_scenes.vocabulary import OPAQUE, Vocabulary, vocabulary
from binderclip.fit import fit
from binderclip.losses import SoftTargetContrastive
from binderclip.segment.metrics import mask_iou
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import Look, MostSimilar, ProjectedModel, ResidualHead, region_retrieval
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots, pictures
from binderclip.studies.protocols.data.task_scenes import models

NICHE = (
    "cat face", "dragon face", "dog face", "smiling face with heart-eyes", "smiling face with sunglasses",
    "winking face with tongue", "fearful face", "grinning cat", "smiling cat with heart-eyes", "cat with wry smile",
    "kissing cat", "pouting cat", "face with rolling eyes", "sneezing face", "zany face", "shushing face",
    "face vomiting",
)  # fmt: skip
"""Faces of which there are pictures in several styles that the bundled models never saw, and one in OpenMoji's."""
SCENES, OBJECTS, SIZE = 5, 4, 128
STEPS, BATCH, WIDTH = 200, 64, 128
FOUND = "named object found"
EXACT, SMALL_SAM = "exact masks", "masks of small-sam"
BEFORE, TUNED, HARD, RANDOM = "small", "tuned, soft targets", "tuned, InfoNCE", "a mask at random"
COVERED = "objects that a mask covers"


def _niche(split: str) -> Vocabulary:
    return vocabulary({name: (f"{name}*",) for name in NICHE}, split=split)


@lru_cache(maxsize=1)
def _examples() -> tuple[Tensor, Tensor, Tensor]:
    """Features of the niche's pictures on black, squashed as cut-outs are, features of its names, and who is what."""
    model, known = models()[0], _niche("val+test")
    shown = []
    for sprite in known.sprites:
        mask = sprite[..., 3] >= OPAQUE
        rows, columns = np.nonzero(mask)
        box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        cut = np.where(mask[..., None], sprite[..., :3], 0)[box].astype(np.uint8)
        shown.append(Image.fromarray(cut).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    with torch.no_grad():
        pictured = model.encode_image(shown, normalize=True).float()
        named = model.encode_text(list(NICHE), normalize=True).float()
    return pictured, named, torch.from_numpy(known.owner)


def tuned(seed: int, *, soft: bool = True) -> ProjectedModel:
    """Heads trained on the niche's pictures and names by SLIP's loss, or by InfoNCE on unit vectors."""
    pictured, named, owner = _examples()
    torch.manual_seed(seed)
    image, text = ResidualHead(pictured.shape[1], WIDTH), ResidualHead(named.shape[1], WIDTH)
    loss = SoftTargetContrastive()
    generator = torch.Generator().manual_seed(seed)
    batches = [torch.randperm(len(owner), generator=generator)[:BATCH] for _ in range(STEPS)]

    def step(rows: Tensor) -> Tensor:
        x, y = image(pictured[rows]), text(named[owner[rows]])
        if soft:
            return loss(x, y)
        logits = 20.0 * nn.functional.normalize(x, dim=1) @ nn.functional.normalize(y, dim=1).T
        diagonal = torch.arange(len(rows))
        return (nn.functional.cross_entropy(logits, diagonal) + nn.functional.cross_entropy(logits.T, diagonal)) / 2

    parameters = [*image.parameters(), *text.parameters()]
    fit(step, parameters, batches, steps=STEPS, optimizer="adamw", lr=1e-3, schedule="constant")
    return ProjectedModel(models()[0], image.eval(), text.eval())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    model, promptable = models()
    made = scenes(
        seed, SCENES, SIZE, vocabulary=_niche("shift"), objects=OBJECTS, area=(0.06, 0.12), occlusion=0.05,
        background=["plain", "gradient"],
    )  # fmt: skip
    readers: dict[str, Any] = {BEFORE: model, TUNED: tuned(seed), HARD: tuned(seed, soft=False)}
    random = np.random.default_rng([seed, 9])
    hits: dict[tuple[str, str], list[bool]] = {}
    covered: list[bool] = []
    for image, masks, names in zip(made.images, made.visible, made.names, strict=True):
        picture = Image.fromarray((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())
        oracle = OracleSegmenter(torch.cat([masks, ~masks.any(0, keepdim=True)]))
        for source, segmenter, settings in ((EXACT, oracle, {}), (SMALL_SAM, promptable, {"pred_iou_thresh": None})):
            slip = region_retrieval(model, segmenter, **settings)
            found = slip.candidates(Look(picture, segmenter, segmenter.encode(picture)))
            for name, mask in zip(names, masks, strict=True):
                overlap = mask_iou(found.logits > 0, mask.expand(len(found), -1, -1)) if len(found) else torch.zeros(1)
                if source == SMALL_SAM:
                    covered.append(bool((overlap > 0.5).any()))
                for method, reader in readers.items():
                    answer = MostSimilar(reader, size=(SIZE, SIZE))(picture, found, [name]) > 0.5
                    hits.setdefault((method, source), []).append(bool(mask_iou(answer, mask) > 0.5))
                chance = overlap[int(random.integers(len(overlap)))]
                hits.setdefault((RANDOM, source), []).append(bool(chance > 0.5))
    rows = [Row(FOUND, method, float(np.mean(own)), source) for (method, source), own in hits.items()]
    return [*rows, Row(COVERED, SMALL_SAM, float(np.mean(covered)))]


def draw(table: Table, figure: Figure) -> None:
    """How often the named thing was found, and a scene."""
    axes: Any = figure.subplots(1, 3, width_ratios=(1, 1, 0.8))
    for ax, source in zip(axes, (EXACT, SMALL_SAM), strict=False):
        dots(ax, table, FOUND, (BEFORE, TUNED, HARD, RANDOM), source)
        ax.tick_params(axis="x", rotation=40, labelsize=7)
        ax.set(title=source, ylim=(0, 1))
    made = scenes(table.rows[0].seed, 1, SIZE, vocabulary=_niche("shift"), objects=OBJECTS, area=(0.06, 0.12))
    pictures(axes[2:], [made.images[0]], ["\n".join(made.names[0])])


STUDY = declared_study(__name__, measure, seeds=range(8), draw=draw, registered="5073f1eddfa6")

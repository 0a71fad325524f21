"""Does pooling by a self-supervised tower clean MaskCLIP's maps, and can two convolutions learn to do it alone?"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.segment import (
    BackgroundSeed,
    DINOiserHead,
    External,
    GuidedPooling,
    Parts,
    Student,
    StudentSaliency,
    cosines,
    parts_of,
    train_dinoiser,
)
from binderclip.segment.parts.context import Frame, head, open_windows, records, resample
from binderclip.studies.harness import Figure, Row, Table, declared_study, one_thread
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.tables.segment_figures import draw_grounds
from binderclip.studies.protocols.tables.segment_table import SETS, ground_rows, random_gains, scene_set, table_rows

N, SEEDS, PAIRED = 17, (10, 11, 12), 4
MASKCLIP, TEACHER, COARSE, STUDENT = "maskclip", "teacher pooling", "teacher pooling, tower's grid", "trained head"
CLIP = "CLIP's own cosines"
GROUND = ("background",)
WORDS, TEACHER_GROUND, STUDENT_GROUND = "maskclip, a word for the ground", "teacher + saliency", "head + saliency"
HEAD_WORDS = "head, a word for the ground"
AUROC = "AUROC of pairs in one object"
VALUES = External("small-dino", of="v")
ON_GRID = External("small-dino", of="v", size=128)


def train_head(seed: int = 0) -> DINOiserHead:
    """How the bundled head was made: 160 unlabelled scenes of the training drawings, 400 steps."""
    from binderclip.data.synthetic_scenes.stream import scenes

    grounds = ["plain", "gradient", "noise", "texture", "photo"]
    images = scenes(1000 + seed, 160, 256, objects=(1, 4), area=(0.03, 0.25), background=grounds).images
    return train_dinoiser(bundled(), images, steps=400, lr=1e-3, dim=32, threshold=0.8, seed=seed)


def pooled(features: Any, threshold: float, saliency: Any = None) -> Parts:
    """The preset with another pooling."""
    return parts_of("clip_dinoiser-teacher", fusion=GuidedPooling(features, threshold=threshold, saliency=saliency))


@lru_cache(maxsize=1)
def asked() -> dict[str, str | Parts]:
    """What is measured with the ground left out."""
    return {
        MASKCLIP: "maskclip",
        COARSE: pooled(ON_GRID, 0.8),
        TEACHER: pooled(VALUES, 0.8),
        STUDENT: pooled(Student(), 0.7),
    }


@lru_cache(maxsize=1)
def asked_with_ground() -> dict[str, str | Parts]:
    """What is measured with the ground as a class."""
    return {
        WORDS: "maskclip",
        HEAD_WORDS: pooled(Student(), 0.7),
        TEACHER_GROUND: pooled(VALUES, 0.8, BackgroundSeed()),
        STUDENT_GROUND: pooled(Student(), 0.7, StudentSaliency()),
    }


PAIRS = ((TEACHER, MASKCLIP), (STUDENT, MASKCLIP), (COARSE, MASKCLIP), (STUDENT, COARSE))
GROUND_PAIRS = ((STUDENT_GROUND, HEAD_WORDS), (TEACHER_GROUND, WORDS))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = table_rows(asked(), seed, against=PAIRS, n=N)
    for name in SETS:
        rows += ground_rows(asked_with_ground(), name, seed, GROUND, n=N, against=GROUND_PAIRS)
        with one_thread():
            rows += [Row(AUROC, each, value, name) for each, value in pair_scores(name, seed).items()]
    return rows


@torch.no_grad()
def pair_scores(name: str, seed: int, count: int = PAIRED) -> dict[str, float]:
    """Mean over scenes of the AUROC with which cosines find pairs of cells of one object (or of the ground)."""
    from sklearn.metrics import roc_auc_score

    data, model = scene_set(name, seed, N), bundled()
    scores: dict[str, list[float]] = {CLIP: [], COARSE: [], STUDENT: []}
    student = Student()
    for image, visible in zip(data.batch.images[:count], data.batch.visible[:count], strict=True):
        pixels = image[None]
        context = open_windows(Frame(model, pixels, pixels), pixels, [(0, 0)], records(student))
        own = head(context.tower, parts_of("maskclip").last_block(context))
        ids, pure = cells(visible.float(), context.grid)
        first, second = torch.triu_indices(len(ids), len(ids), 1)
        kept = pure[first] & pure[second]
        same = (ids[first] == ids[second])[kept]
        for each, features in ((CLIP, own), (COARSE, ON_GRID(context)), (STUDENT, student(context))):
            similar = cosines(F.normalize(resample(features, context.grid), dim=1))[0, first, second][kept]
            scores[each].append(float(roc_auc_score(same.numpy(), similar.numpy())))
    return {each: float(np.mean(values)) for each, values in scores.items()}


def cells(visible: Float[Tensor, "K H W"], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which object covers most of each cell (0 for the ground), and whether it covers 80 % of it."""
    share = F.adaptive_avg_pool2d(visible[None], grid)[0]
    share = torch.cat([1 - share.sum(0, keepdim=True), share]).flatten(1)
    most, which = share.max(0)
    return which, most > 0.8


def null(seed: int) -> list[Row]:
    """Pooling that changes the scenes at random."""
    return random_gains((*PAIRS, *GROUND_PAIRS), seed, N)


def draw(table: Table, figure: Figure) -> None:
    """Scenes with label maps above, both tables below."""
    shown: dict[str, tuple[str | Parts, tuple[str, ...]]] = {
        name: (asked()[name], ()) for name in (MASKCLIP, TEACHER, STUDENT)
    }
    shown |= {STUDENT_GROUND: (asked_with_ground()[STUDENT_GROUND], GROUND)}
    draw_grounds(figure, table, shown, SETS[:2], (list(asked()), list(asked_with_ground())), n=N)


STUDY = declared_study(__name__, measure, draw=draw, seeds=SEEDS, null=null, registered="4b267b839ae5")

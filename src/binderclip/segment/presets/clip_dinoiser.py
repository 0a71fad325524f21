"""CLIP-DINOiser (arXiv 2312.12359): MaskCLIP's features pooled over what belongs together, background by saliency.

The thresholds are for `small-dino` and the head that learned from it; the paper's, for DINO ViT-B/16, is 0.2.
`clip_dinoiser` asks a head on the tower itself (the bundled one is for `small`; `segment.train_dinoiser` makes others),
`clip_dinoiser-teacher` the vision model that such a head learns from, and works with any tower.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.affinity import External
from binderclip.segment.parts.guided_pooling import BackgroundSeed, GuidedPooling
from binderclip.segment.parts.last_block import LastBlock, identity
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.trained.dinoiser import Student, StudentSaliency

_SHARED: dict[str, Any] = {
    "last_block": LastBlock(identity, residual=True, mlp=True),
    "rule": ClassRule(over="given"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "clip_dinoiser": {**_SHARED, "fusion": GuidedPooling(Student(), threshold=0.7, saliency=StudentSaliency())},
    "clip_dinoiser-teacher": {
        **_SHARED,
        "fusion": GuidedPooling(External("small-dino", of="v"), threshold=0.8, saliency=BackgroundSeed()),
    },
}

DEPARTURES: dict[str, tuple[str, ...]] = {
    "clip_dinoiser": (
        "a head that learned from the bundled `small-dino` (the paper's from DINO ViT-B/16 and FOUND), threshold 0.7 "
        "(0.2)",
    ),
    "clip_dinoiser-teacher": ("`small-dino` instead of DINO ViT-B/16, threshold 0.8 (0.2), no FOUND",),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "clip_dinoiser": "things on a ground, quick: a learned head finds what stands out; default of small (p105)",
    "clip_dinoiser-teacher": "things on a ground, any tower with attention: asks a self-supervised one; slower (p105)",
}
"""Preset -> what it is for, in a line."""

"""CLIPer (arXiv 2411.13836): early attention in the last block, every layer's segmentation, attention to sharpen.

The self-attention of a diffusion model is not bundled: cosines of the segmenter's own tokens stand in for it, put to
use as the released code puts those of DINO, and any other source takes their place in `DiffusionAttention`. The
method lives on early heads that look at their own object (see the study of p132). `DEPARTURES` names what differs from
the paper, and the setting that takes it back where there is one.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.fused import FusedAttention, LayerEnsemble
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.refine.attention_refine import ClassScore, DiffusionAttention

_LAST = LastBlock(FusedAttention())
_REFINE = DiffusionAttention("features", cut=None, weigh="exp")

PRESETS: dict[str, dict[str, Any]] = {
    # The setting for pictures whose every pixel is some label (VOC20).
    "cliper": {
        "last_block": _LAST,
        "fusion": LayerEnsemble(),
        "rule": ClassRule(over="given"),
        "refine": ClassScore(_REFINE),
    },
    # The one for pictures with a background (VOC21): classes without evidence are dropped, weak pixels are background,
    # whose words only take up probability.
    "cliper-background": {
        "last_block": _LAST,
        "fusion": LayerEnsemble(background=False),
        "rule": ClassRule(over="given", threshold=0.6, below="background"),
        "refine": ClassScore(_REFINE, threshold=0.7, stretch=True),
    },
}

_DIFFERENT = (
    "cosines of the tower's own tokens instead of the self-attention of Stable Diffusion 2.1; in code "
    "DiffusionAttention(source=...) takes that of any model",
    "the picture at twice the model's own side (448 of 224 px) instead of a shorter side of 336: "
    "--set resolution.size=336",
    "no second look through crops of 336 px with a spliced attention",
    "labels as they are; the paper puts them into 14 or 80 templates: --set text.templates=imagenet-80",
    "the model's own scale on the cosines, which is 100 for OpenAI's CLIP as in the paper for ViT-B; for ViT-L the "
    "paper takes 50, the last but one row and thresholds 0.4 and 0.5: --set fusion.layer=-2",
)
DEPARTURES: dict[str, tuple[str, ...]] = dict.fromkeys(PRESETS, _DIFFERENT)
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "cliper": "every pixel is some label: early attention, every layer's answer, finer edges (p132)",
    "cliper-background": "things on a ground: the same, labels without evidence are dropped (p132)",
}
"""Preset -> what it is for, in a line."""

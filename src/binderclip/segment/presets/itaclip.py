"""ITACLIP (arXiv 2411.12044): attention of middle blocks, views, definitions beside names, and PAMR.

Definitions are given as `TextSide(auxiliary=...)` or `binderclip segment --descriptions`; without them alpha does
nothing. The paper's were written by LLaMa 3 and put into 80 templates (`templates="imagenet-80"`). Each window is seen
five times, and windows lie an eighth of their side apart: `--set resolution.stride=0.5` or `--set views=none` are
quicker.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import Windows
from binderclip.segment.parts.rewire import AttentionMean, Blend, SelfSelf
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.parts.text import TextSide
from binderclip.segment.parts.views import ViewEnsemble
from binderclip.segment.refine.pamr import PAMR
from binderclip.segment.refine.tidy import Closing, DropSmall

DEPARTURES: dict[str, tuple[str, ...]] = dict.fromkeys(
    ("itaclip", "itaclip-background"),
    (
        "definitions only where they are given (--descriptions); the paper's are by LLaMa 3",
        "labels as they are; the paper puts them into 80 templates: --set text.templates=imagenet-80",
    ),
)
"""Preset -> how it differs from the method as published."""

BLOCK = LastBlock(Blend(SelfSelf("q+k"), AttentionMean(SelfSelf("q+k"))), residual=True, mlp=False)

PRESETS: dict[str, dict[str, Any]] = {
    # The setting for pictures whose every pixel is some label (COCO-Stuff).
    "itaclip": {
        "last_block": BLOCK,
        "views": ViewEnsemble(),
        "resolution": Windows(stride=1 / 8),
        "text": TextSide(alpha=0.2),
        "rule": ClassRule(scale=40.0, over="words"),
        "refine": PAMR(),
        "relabel": Closing(),
    },
    # The one for pictures with a background (VOC21): unsure pixels are background, and classes of small areas go.
    "itaclip-background": {
        "last_block": BLOCK,
        "views": ViewEnsemble(share=0.7),
        "resolution": Windows(stride=1 / 8, size=1.5),
        "text": TextSide(alpha=0.05),
        "rule": ClassRule(scale=60.0, over="words", threshold=0.1, below="background"),
        "refine": (PAMR(), DropSmall()),
        "relabel": Closing(),
    },
}

SUMMARIES: dict[str, str] = {
    "itaclip": "every pixel is some label, with --descriptions: five views, tidied by colours; slow (p170)",
    "itaclip-background": "things on a ground: the same, unsure pixels are background; slow (p170)",
}
"""Preset -> what it is for, in a line."""

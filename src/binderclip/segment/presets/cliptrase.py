"""CLIPtrase (arXiv 2407.08268): queries, keys and values attend to their like, and regions of patches vote.

The picture is seen whole at one and a half times the model's own size, as the paper's 336 px are to 224. It takes 80
templates (`templates="imagenet-80"`), and the class token's logits where every pixel is a label (`fusion=class-token`).
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import Whole
from binderclip.segment.parts.rewire import SelfSelf
from binderclip.segment.refine.cluster_vote import ClusterVote

PRESETS: dict[str, dict[str, Any]] = {
    "cliptrase": {
        "last_block": LastBlock(SelfSelf("q+k+v"), residual=True, mlp=True),
        "resolution": Whole(1.5),
        "relabel": ClusterVote(),
    }
}

DEPARTURES: dict[str, tuple[str, ...]] = {
    "cliptrase": (
        "rows of the correlation are near each other by the spread of each picture's own, half of the patches being "
        "cores of clusters; the paper's distance, for CLIP ViT-B/16, is 0.7 at 224 px and 1.1 at 336 px: "
        "--set relabel.0.eps=1.1",
        "labels as they are; the paper puts them into 80 templates: --set text.templates=imagenet-80",
    ),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "cliptrase": "large regions of one label each: clustered patches vote (p029)",
}
"""Preset -> what it is for, in a line."""

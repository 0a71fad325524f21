"""ProxyCLIP (arXiv 2408.04883): the last block attends by what another vision model holds to be alike.

The other model is the bundled `small-dino`; any tower of `models.load_vision` takes its place:
`--set last_block.map.features.source=timm:vit_base_patch8_224.dino`.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.affinity import CentredSoftmax, External
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import Windows
from binderclip.segment.parts.rule import ClassRule

PRESETS: dict[str, dict[str, Any]] = {
    "proxyclip": {
        "last_block": LastBlock(CentredSoftmax(External("small-dino"))),
        "resolution": Windows(),
        "rule": ClassRule(scale=40.0, over="words"),
    }
}

DEPARTURES: dict[str, tuple[str, ...]] = {
    "proxyclip": (
        "`small-dino` instead of DINO ViT-B/8: --set last_block.map.features.source=timm:vit_base_patch8_224.dino",
        "labels as they are; the paper puts them into 80 templates: --set text.templates=imagenet-80",
    ),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "proxyclip": "every pixel is some label: attention by a self-supervised model (ProxyCLIP)",
}
"""Preset -> what it is for, in a line."""

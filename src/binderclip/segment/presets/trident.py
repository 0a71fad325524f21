"""Trident (arXiv 2411.09219): tokens spliced over windows, mixed over the picture, and only then compared with words.

Inside a window patches attend as `small-dino` says (ProxyCLIP's rule). Across windows the paper takes the attention of
SAM; three quarters of that of `small-sam` lie on other things, which harms, so the bundled preset takes that of
`small-dino`, masked more strictly. `trident-prompted` asks `small-sam` for the masks of the regions found as well.
`DEPARTURES` names what differs from the paper, and the setting that takes it back where there is one.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.affinity import CentredSoftmax, External
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.resolution import Windows
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.parts.splicing import ValueMaskedAttention
from binderclip.segment.refine.prompted_masks import PromptedMasks

_SHARED: dict[str, Any] = {
    "last_block": LastBlock(CentredSoftmax(External("small-dino"), mean="batch")),
    "resolution": Windows(merge="tokens"),
    # At a side of its own: the attention of a large picture at full size would not fit into any memory.
    "mix": ValueMaskedAttention("small-dino", factor=10.0, size=256),
    "rule": ClassRule(scale=40.0, over="words"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "trident": _SHARED,
    "trident-prompted": {**_SHARED, "relabel": PromptedMasks()},
}

_DIFFERENT = (
    "across windows the attention of `small-dino` at 256 px, factor 10, instead of SAM's at 1,024 px, factor 1.2: "
    "--set mix.source=hf:facebook/sam-vit-base --set mix.factor=1.2",
    "inside windows `small-dino` instead of DINO ViT-B/16: "
    "--set last_block.map.features.source=timm:vit_base_patch16_224.dino",
    "windows as wide as the model's own side, half of it apart, over the picture at twice that side; the paper's are "
    "224 or 336 px wide, 112 apart, at a shorter side of 336 px and more",
    "labels as they are; the paper puts them into 80 templates: --set text.templates=imagenet-80",
    "no threshold for pictures with a background: --set rule.threshold=0.2 --set rule.below=background",
)
DEPARTURES: dict[str, tuple[str, ...]] = {
    "trident": (*_DIFFERENT, "without the masks of SAM: `trident-prompted`"),
    "trident-prompted": (
        *_DIFFERENT,
        "`small-sam` instead of SAM for the masks: --set relabel.0.segmenter=hf:facebook/sam-vit-base",
        "regions whose mask is dropped compete with the probability they had, which the released code forgets: "
        "--set relabel.0.released=true",
    ),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "trident": "large pictures: windows spliced, attention of two other models; slow (p148)",
    "trident-prompted": "the same, masks refined by a promptable segmenter; slowest (p148)",
}
"""Preset -> what it is for, in a line."""

"""CorrCLIP (arXiv 2411.10086): attention within regions by outside features, two branches beside, votes in regions.

In `corrclip` regions are Felzenszwalb's and features the tower's own, so that it runs without another model.
`corrclip-sam` takes regions and features as the paper does, of a promptable segmenter and of DINO's last queries and
keys; the bundled towers stand in for SAM 2 and DINO ViT-B/8, which `PromptedRegions` and `External` take by name.
`DEPARTURES` names what differs from the paper, and the setting that takes it back where there is one.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.affinity import External
from binderclip.segment.parts.last_block import LastBlock
from binderclip.segment.parts.region_scope import MaskMajority, PromptedRegions, RegionSource, Scope
from binderclip.segment.parts.resolution import Windows
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.parts.scoped import BranchSum, MaskScoped


def _parts(scope: Scope, regions: RegionSource) -> dict[str, Any]:
    return {
        "last_block": LastBlock(MaskScoped(scope)),
        "fusion": BranchSum(),
        "resolution": Windows(),
        "rule": ClassRule(scale=40.0, over="words"),
        "relabel": MaskMajority(regions),
    }


_PROMPTED = PromptedRegions()

PRESETS: dict[str, dict[str, Any]] = {
    "corrclip": _parts(Scope(), Scope().regions),
    "corrclip-sam": _parts(Scope(_PROMPTED, External("small-dino", of="q+k")), _PROMPTED),
}

_DIFFERENT = (
    "windows as wide as the model's own side, half of it apart (112 of 224 px); the paper's are 336 px, 112 apart, "
    "padded to multiples of 56",
    "a patch belongs to the region at its centre; the released code looks at its first pixel",
    "pixels without a region are those that no mask covers; the released code takes the smallest number for them",
    "of towers other than 12, 24 or 32 blocks the spatial branch averages 5/12; the paper all but four",
    "labels as they are; the paper puts them into 80 templates: --set text.templates=imagenet-80",
    "no threshold for pictures with a background: --set rule.threshold=... --set rule.below=background",
)
DEPARTURES: dict[str, tuple[str, ...]] = {
    "corrclip": (
        "regions by Felzenszwalb's graph cuts instead of SAM 2 (`corrclip-sam` asks a promptable segmenter)",
        "cosines of the tower's own tokens instead of queries and keys of DINO ViT-B/8",
        *_DIFFERENT,
    ),
    "corrclip-sam": (
        "regions by `small-sam` instead of SAM 2",
        "queries and keys of `small-dino` instead of DINO ViT-B/8: "
        "--set last_block.map.scope.features.source=timm:vit_base_patch8_224.dino",
        *_DIFFERENT,
    ),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "corrclip": "every pixel is some label: attention and votes within regions of like colour (p164)",
    "corrclip-sam": "the same with regions of a promptable segmenter; slow (p164)",
}
"""Preset -> what it is for, in a line."""

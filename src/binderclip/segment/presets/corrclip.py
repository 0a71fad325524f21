"""CorrCLIP (arXiv 2411.10086): attention within regions by outside features, two branches beside, votes in regions.

In `corrclip` regions are Felzenszwalb's and features the tower's own, so that it runs without another model.
`corrclip-sam` takes regions and features as the paper does, of a promptable segmenter and of DINO's last queries and
keys; the bundled towers stand in for SAM 2 and DINO ViT-B/8, which `PromptedRegions` and `External` take by name.
Windows are as wide as the model's own side (224 of a CLIP, the paper's are 336 with the same stride), and there is no
threshold of probability for a background: `--set rule.threshold=...`.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.affinity import External
from binderclip.segment.last_block import LastBlock
from binderclip.segment.region_scope import MaskMajority, PromptedRegions, RegionSource, Scope
from binderclip.segment.resolution import Windows
from binderclip.segment.rule import ClassRule
from binderclip.segment.scoped import BranchSum, MaskScoped


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

"""CorrCLIP (arXiv 2411.10086): attention within regions by outside features, two branches beside, votes in regions.

Regions are Felzenszwalb's, features the tower's own, so that it runs without another model. The paper's are those of
SAM 2 and DINO: give `Scope` the masks of a promptable segmenter, and `External` the name of a vision tower.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.last_block import LastBlock
from binderclip.segment.region_scope import MaskMajority
from binderclip.segment.resolution import Windows
from binderclip.segment.rule import ClassRule
from binderclip.segment.scoped import BranchSum, MaskScoped

PRESETS: dict[str, dict[str, Any]] = {
    "corrclip": {
        "last_block": LastBlock(MaskScoped()),
        "fusion": BranchSum(),
        "resolution": Windows(),
        "rule": ClassRule(scale=40.0, over="words"),
        "relabel": MaskMajority(),
    }
}

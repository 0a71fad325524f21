"""Trident (arXiv 2411.09219): tokens spliced over windows, mixed over the picture, and only then compared with words.

Inside a window patches attend as `small-dino` says (ProxyCLIP's rule). Across windows the paper takes the attention of
SAM; that of `small-sam` is nearly uniform and harms, so the bundled preset takes that of `small-dino`, masked more
strictly. With a real SAM: `--set mix.source=hf:facebook/sam-vit-base --set mix.factor=1.2`. `trident-prompted` asks
`small-sam` for the masks of the regions found as well (`--set relabel.0.segmenter=hf:...`). Windows are as wide as the
model's own side, over the picture at twice that; the paper's are 224 and 336 wide at a shorter side of 336 and more.
Its threshold for pictures with a background is `--set rule.threshold=0.2`.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.affinity import CentredSoftmax, External
from binderclip.segment.last_block import LastBlock
from binderclip.segment.prompted_masks import PromptedMasks
from binderclip.segment.resolution import Windows
from binderclip.segment.rule import ClassRule
from binderclip.segment.splicing import ValueMaskedAttention

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

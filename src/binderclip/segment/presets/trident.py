"""Trident (arXiv 2411.09219): tokens spliced over windows, mixed over the picture, and only then compared with words.

Inside a window patches attend as `small-dino` says (ProxyCLIP's rule), across windows as the promptable segmenter
`small-sam` does; `trident-prompted` asks that segmenter for the masks of the regions found as well. Real ones take
their places by `--set mix.source=hf:facebook/sam-vit-base --set mix.size=none` and so on.
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
    "mix": ValueMaskedAttention(size=256),
    "rule": ClassRule(scale=40.0, over="words"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "trident": _SHARED,
    "trident-prompted": {**_SHARED, "relabel": PromptedMasks()},
}

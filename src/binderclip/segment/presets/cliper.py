"""CLIPer (arXiv 2411.13836): early attention in the last block, every layer's segmentation, attention to sharpen.

The self-attention of a diffusion model is not bundled: cosines of the segmenter's own tokens stand in for it, put to
use as the released code puts those of DINO, and any other source takes their place in `DiffusionAttention`. The
method lives on early heads that look at their own object; those of the bundled `small` do not, so it is for CLIP's
ViT models (see the study of p132). The picture is seen at twice the model's side (448 of 224 pixels), the paper's at
336; its crops of 336 with a spliced attention are not built, and for ViT-L its settings differ
(`LayerEnsemble(layer=-2)`, scale 50, thresholds 0.4 and 0.5).
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.attention_refine import ClassScore, DiffusionAttention
from binderclip.segment.fused import FusedAttention, LayerEnsemble
from binderclip.segment.last_block import LastBlock
from binderclip.segment.rule import ClassRule

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

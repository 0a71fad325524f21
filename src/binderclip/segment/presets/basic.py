"""The free points of the family: what the papers' methods are measured against."""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.last_block import LastBlock, OwnTokens, identity, vanilla
from binderclip.segment.parts.resolution import Windows
from binderclip.segment.parts.rewire import DualPath, SelfSelf
from binderclip.segment.parts.text import TextSide

PRESETS: dict[str, dict[str, Any]] = {
    # The tower's ordinary patch tokens.
    "plain": {"last_block": LastBlock(vanilla, residual=True, mlp=True)},
    # The same where there is no attention to rewire: on convolutional towers their last feature map.
    "dense": {"last_block": OwnTokens()},
    # Zhou et al., Extract Free Dense Labels from CLIP (ECCV 2022): the value path alone.
    "value": {"last_block": LastBlock(identity)},
    # The same as its authors run it, residual sum and MLP kept.
    "maskclip": {"last_block": LastBlock(identity, residual=True, mlp=True)},
    # Keys, or values, attend to their like.
    "kk": {"last_block": LastBlock(SelfSelf("k"))},
    "vv": {"last_block": LastBlock(SelfSelf("v"))},
    # Wang, Mei, Yuille, SCLIP (ECCV 2024, arXiv 2312.01597).
    "sclip": {"last_block": LastBlock(SelfSelf("q+k"), residual=True, mlp=True), "resolution": Windows()},
    # Lan et al., ClearCLIP (ECCV 2024, arXiv 2407.12442).
    "clearclip": {"last_block": LastBlock(SelfSelf("q")), "resolution": Windows()},
    # Li et al., CLIP Surgery (arXiv 2304.05653); the direction of the empty text is taken off.
    "clip_surgery": {"last_block": DualPath(SelfSelf("v")), "text": TextSide(redundant="")},
}

DEPARTURES: dict[str, tuple[str, ...]] = {
    "clip_surgery": (
        "labels as they are; the release puts them, and the empty text, into 85 templates: "
        "--set text.templates=clip-surgery-85",
        "the empty text is taken off for any number of labels; of several the release takes their weighted mean off",
        "the picture at twice the model's own side; the release shows 224 and 512 pixels",
        "patches of unit length, as the release has had them since it was mended; before that, and in the releases of "
        "GenSAM and Zip, every channel was divided by its length over all tokens: --set text.normalise=tokens",
    ),
}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "plain": "the lower bound: the tower's ordinary patch tokens",
    "dense": "towers without attention, such as ResNet, ConvNeXt, small-b: their last feature map",
    "value": "every pixel is some label: each patch by its own value; quick, the baseline (MaskCLIP)",
    "maskclip": "the same as its authors run it, with residual and MLP (MaskCLIP)",
    "kk": "every pixel is some label: patches attend to their like by keys",
    "vv": "every pixel is some label: patches attend to their like by values; quick and calm",
    "sclip": "every pixel is some label, real CLIPs: queries and keys attend to their like (SCLIP)",
    "clearclip": "the same by queries alone: less noise on large ViTs (ClearCLIP)",
    "clip_surgery": "one map a label, to look at rather than to cut out (CLIP Surgery)",
}
"""Preset -> what it is for, in a line."""

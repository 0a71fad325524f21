"""The free points of the family: what the papers' methods are measured against."""

from __future__ import annotations

from typing import Any

from binderclip.segment.last_block import LastBlock, identity, vanilla

PRESETS: dict[str, dict[str, Any]] = {
    # The tower's ordinary patch tokens.
    "plain": {"last_block": LastBlock(vanilla, residual=True, mlp=True)},
    # Zhou et al., Extract Free Dense Labels from CLIP (ECCV 2022): the value path alone.
    "value": {"last_block": LastBlock(identity)},
}

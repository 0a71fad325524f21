"""Everyday photographs: where a classifier sees what a word means, cut out along the edges of the picture.

For models with `concepts`, such as `everyday`. A word is found through the classes near it, so that it need not be one;
what no label takes is none of them, whether or not there are words for the background.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.concept_maps import ConceptMaps
from binderclip.segment.parts.last_block import OwnTokens
from binderclip.segment.parts.rule import ClassRule
from binderclip.segment.refine.grab_cut import GrabCut

PRESETS: dict[str, dict[str, Any]] = {
    "photograph": {
        "last_block": OwnTokens(),
        "fusion": ConceptMaps(),
        "rule": ClassRule(scale=1.0),
        "relabel": GrabCut(margin=False, prior=1.0),
    },
}

DEPARTURES: dict[str, tuple[str, ...]] = {}
"""Preset -> how it differs from the method as published."""

SUMMARIES: dict[str, str] = {
    "photograph": "photographs with everyday: objects cut out along their edges, the rest is none",
}
"""Preset -> what it is for, in a line."""

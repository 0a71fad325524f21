"""The decomposition preset: nothing is rewired, the embedding's own terms are the map."""

from __future__ import annotations

from typing import Any

from binderclip.segment.parts.contributed import TokenContributions

PRESETS: dict[str, dict[str, Any]] = {
    # Gandelsman et al., Interpreting CLIP's Image Representation via Text-Based Decomposition (ICLR 2024).
    "decomposition": {"fusion": TokenContributions()},
}

SUMMARIES: dict[str, str] = {
    "decomposition": "research: the embedding's own terms, head by head (p085)",
}
"""Preset -> what it is for, in a line."""

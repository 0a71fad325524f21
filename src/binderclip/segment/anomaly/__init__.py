"""Anomaly detection by image-text models: what is damaged, where, and how few normal pictures it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.segment.anomaly.memory import NormalMemory
from binderclip.segment.anomaly.prompts import (
    ANOMALOUS_STATES,
    NORMAL_STATES,
    TEMPLATES,
    state_prompts,
    state_vectors,
)
from binderclip.segment.anomaly.result import Anomalies
from binderclip.segment.anomaly.winclip import WinCLIP
from binderclip.segment.anomaly.windows import (
    Levels,
    encode_levels,
    harmonic_mean,
    join_levels,
    spread_harmonic,
    token_windows,
    window_patches,
)

METHODS: dict[str, Callable[..., Any]] = {"winclip": WinCLIP}

__all__ = [
    "ANOMALOUS_STATES",
    "METHODS",
    "NORMAL_STATES",
    "TEMPLATES",
    "Anomalies",
    "Levels",
    "NormalMemory",
    "WinCLIP",
    "encode_levels",
    "harmonic_mean",
    "join_levels",
    "spread_harmonic",
    "state_prompts",
    "state_vectors",
    "token_windows",
    "window_patches",
]

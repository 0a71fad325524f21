"""Anomaly detection by image-text models: what is damaged, where, and how few normal pictures it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.segment.anomaly.bottleneck import InformationBottleneckMap
from binderclip.segment.anomaly.clap import ContrastiveLanguagePrompting, mosaic, random_regions, suspected
from binderclip.segment.anomaly.memory import NormalMemory
from binderclip.segment.anomaly.prompts import (
    ANOMALOUS_STATES,
    NORMAL_STATES,
    TEMPLATES,
    state_prompts,
    state_vectors,
)
from binderclip.segment.anomaly.restoring import (
    InpaintingAnomalyDetector,
    RestorationNet,
    clap_detector,
    gradient_error,
)
from binderclip.segment.anomaly.result import Anomalies
from binderclip.segment.anomaly.winclip import WinCLIP
from binderclip.segment.anomaly.windows import (
    WindowLevels,
    encode_levels,
    harmonic_mean,
    join_levels,
    spread_harmonic,
    token_windows,
    window_patches,
)

METHODS: dict[str, Callable[..., Any]] = {"winclip": WinCLIP, "clap": clap_detector}

__all__ = [
    "ANOMALOUS_STATES",
    "METHODS",
    "NORMAL_STATES",
    "TEMPLATES",
    "Anomalies",
    "ContrastiveLanguagePrompting",
    "InformationBottleneckMap",
    "InpaintingAnomalyDetector",
    "NormalMemory",
    "RestorationNet",
    "WinCLIP",
    "WindowLevels",
    "clap_detector",
    "encode_levels",
    "gradient_error",
    "harmonic_mean",
    "join_levels",
    "mosaic",
    "random_regions",
    "spread_harmonic",
    "state_prompts",
    "state_vectors",
    "suspected",
    "token_windows",
    "window_patches",
]

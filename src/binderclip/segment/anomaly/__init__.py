"""Anomaly detection by image-text models: what is damaged, where, and how few normal pictures it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.segment.anomaly.bottleneck import InformationBottleneckMap
from binderclip.segment.anomaly.clap import ContrastiveLanguagePrompting, mosaic, random_regions, suspected
from binderclip.segment.anomaly.memory import NormalMemory
from binderclip.segment.anomaly.mid_level import MidLevelFeatures, mid_level_features
from binderclip.segment.anomaly.padim import PaDiM
from binderclip.segment.anomaly.patchcore import PatchCore, core_set
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
"""Methods that stand on an image-text model: called with it, and with the name of the object."""

BASELINES: dict[str, Callable[..., Any]] = {"patchcore": PatchCore, "padim": PaDiM}
"""Methods without words, by normal pictures alone: called with an `ImageClassifier`."""

__all__ = [
    "ANOMALOUS_STATES",
    "BASELINES",
    "METHODS",
    "NORMAL_STATES",
    "TEMPLATES",
    "Anomalies",
    "ContrastiveLanguagePrompting",
    "InformationBottleneckMap",
    "InpaintingAnomalyDetector",
    "MidLevelFeatures",
    "NormalMemory",
    "PaDiM",
    "PatchCore",
    "RestorationNet",
    "WinCLIP",
    "WindowLevels",
    "clap_detector",
    "core_set",
    "encode_levels",
    "gradient_error",
    "harmonic_mean",
    "join_levels",
    "mid_level_features",
    "mosaic",
    "random_regions",
    "spread_harmonic",
    "state_prompts",
    "state_vectors",
    "suspected",
    "token_windows",
    "window_patches",
]

"""Segmentation by text, masks from saliency, and segmentation metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment import metrics
from binderclip.segment.detector import Detector, text_detector
from binderclip.segment.graph_cut import GraphCut, minimum_cut, saliency_graph_cut
from binderclip.segment.last_block import Context, LastBlock, identity, vanilla
from binderclip.segment.metrics import IoU, IoUScore, mask_iou
from binderclip.segment.resolution import Whole, Windows
from binderclip.segment.result import Segmentation
from binderclip.segment.segmenter import PRESETS, ClassRule, Segmenter

METHODS: dict[str, Callable[..., Any]] = {name: partial(Segmenter, preset=name) for name in PRESETS}

__all__ = [
    "METHODS",
    "PRESETS",
    "ClassRule",
    "Context",
    "Detector",
    "GraphCut",
    "IoU",
    "IoUScore",
    "LastBlock",
    "Segmentation",
    "Segmenter",
    "Whole",
    "Windows",
    "identity",
    "mask_iou",
    "metrics",
    "minimum_cut",
    "saliency_graph_cut",
    "text_detector",
    "vanilla",
]

"""Segmentation metrics as accumulators (update, compute, merge, reset), each with a function for one call.

Label maps are judged by one confusion matrix (`IoU`), which a mask can restrict to the pixels near boundaries;
anomaly maps by counts at every threshold (`ScoreStore`).
"""

from __future__ import annotations

from binderclip.segment.metrics.anomaly import (
    AnomalyScore,
    BestF1,
    ScoreStore,
    anomaly_scores,
    binary_auroc,
    binary_average_precision,
    binary_f1_max,
    per_region_overlap,
)
from binderclip.segment.metrics.boundary import (
    BoundaryErrors,
    BoundaryErrorScore,
    BoundaryF,
    BoundaryFScore,
    boundary_band,
    boundary_errors,
    boundary_f,
    boundary_tolerance,
    label_edges,
)
from binderclip.segment.metrics.confusion import IoU, IoUScore, mask_iou

__all__ = [
    "AnomalyScore",
    "BestF1",
    "BoundaryErrorScore",
    "BoundaryErrors",
    "BoundaryF",
    "BoundaryFScore",
    "IoU",
    "IoUScore",
    "ScoreStore",
    "anomaly_scores",
    "binary_auroc",
    "binary_average_precision",
    "binary_f1_max",
    "boundary_band",
    "boundary_errors",
    "boundary_f",
    "boundary_tolerance",
    "label_edges",
    "mask_iou",
    "per_region_overlap",
]

"""Segmentation metrics as accumulators (update, compute, merge, reset), each with a function for one call.

Label maps are judged by one confusion matrix (`IoU`), which a mask can restrict to the pixels near boundaries.
"""

from __future__ import annotations

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
    "BoundaryErrorScore",
    "BoundaryErrors",
    "BoundaryF",
    "BoundaryFScore",
    "IoU",
    "IoUScore",
    "boundary_band",
    "boundary_errors",
    "boundary_f",
    "boundary_tolerance",
    "label_edges",
    "mask_iou",
]

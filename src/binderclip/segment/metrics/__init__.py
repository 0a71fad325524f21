"""Segmentation metrics as accumulators (update, compute, merge, reset), each with a function for one call.

Label maps are judged by one confusion matrix (`IoU`), which a mask can restrict to the pixels near boundaries;
instances by one count of intersections (`InstanceMatcher`, boxes by `BoxMatcher`); confidence by sums in bins
(`CalibrationBins`); anomalies by counts at every threshold (`ScoreStore`). All of them add up (`+`), save and load
tensors, collect over processes (`gathered`) and go into torchmetrics' collections (`as_torchmetric`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.metrics.accumulator import Accumulator
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
    from binderclip.segment.metrics.boundary_bands import boundary_iou
    from binderclip.segment.metrics.boxes import BoxMatcher, box_overlaps
    from binderclip.segment.metrics.calibration import (
        CalibrationBins,
        CalibrationScore,
        Reliability,
        pixel_calibration_error,
    )
    from binderclip.segment.metrics.coco_ap import CocoAP, coco_average_precision
    from binderclip.segment.metrics.confusion import IoU, IoUScore, mask_iou
    from binderclip.segment.metrics.foreground import (
        e_measure,
        foreground_scores,
        mean_absolute_error,
        s_measure,
        weighted_f,
    )
    from binderclip.segment.metrics.instance_overlaps import Matches, Overlaps, match, overlaps
    from binderclip.segment.metrics.instances import (
        InstanceMatcher,
        InstanceScore,
        PanopticScore,
        aggregated_jaccard,
        instance_average_precision,
        instance_scores,
        mean_instance_average_precision,
        panoptic_quality,
        symmetric_best_dice,
    )
    from binderclip.segment.metrics.sorted_precision import SortedAP, sorted_ap
    from binderclip.segment.metrics.torchmetric import as_torchmetric

__all__ = [
    "Accumulator",
    "AnomalyScore",
    "BestF1",
    "BoundaryErrorScore",
    "BoundaryErrors",
    "BoundaryF",
    "BoundaryFScore",
    "BoxMatcher",
    "CalibrationBins",
    "CalibrationScore",
    "CocoAP",
    "InstanceMatcher",
    "InstanceScore",
    "IoU",
    "IoUScore",
    "Matches",
    "Overlaps",
    "PanopticScore",
    "Reliability",
    "ScoreStore",
    "SortedAP",
    "aggregated_jaccard",
    "anomaly_scores",
    "as_torchmetric",
    "binary_auroc",
    "binary_average_precision",
    "binary_f1_max",
    "boundary_band",
    "boundary_errors",
    "boundary_f",
    "boundary_iou",
    "boundary_tolerance",
    "box_overlaps",
    "coco_average_precision",
    "e_measure",
    "foreground_scores",
    "instance_average_precision",
    "instance_scores",
    "label_edges",
    "mask_iou",
    "match",
    "mean_absolute_error",
    "mean_instance_average_precision",
    "overlaps",
    "panoptic_quality",
    "per_region_overlap",
    "pixel_calibration_error",
    "s_measure",
    "sorted_ap",
    "symmetric_best_dice",
    "weighted_f",
]

lazy_exports(__name__)

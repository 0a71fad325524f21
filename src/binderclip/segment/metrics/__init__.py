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
    from binderclip.segment.metrics.accumulator import Accumulator as Accumulator
    from binderclip.segment.metrics.anomaly import AnomalyScore as AnomalyScore
    from binderclip.segment.metrics.anomaly import BestF1 as BestF1
    from binderclip.segment.metrics.anomaly import ScoreStore as ScoreStore
    from binderclip.segment.metrics.anomaly import anomaly_scores as anomaly_scores
    from binderclip.segment.metrics.anomaly import binary_auroc as binary_auroc
    from binderclip.segment.metrics.anomaly import binary_average_precision as binary_average_precision
    from binderclip.segment.metrics.anomaly import binary_f1_max as binary_f1_max
    from binderclip.segment.metrics.anomaly import per_region_overlap as per_region_overlap
    from binderclip.segment.metrics.boundary import BoundaryErrors as BoundaryErrors
    from binderclip.segment.metrics.boundary import BoundaryErrorScore as BoundaryErrorScore
    from binderclip.segment.metrics.boundary import BoundaryF as BoundaryF
    from binderclip.segment.metrics.boundary import BoundaryFScore as BoundaryFScore
    from binderclip.segment.metrics.boundary import boundary_band as boundary_band
    from binderclip.segment.metrics.boundary import boundary_errors as boundary_errors
    from binderclip.segment.metrics.boundary import boundary_f as boundary_f
    from binderclip.segment.metrics.boundary import boundary_tolerance as boundary_tolerance
    from binderclip.segment.metrics.boundary import label_edges as label_edges
    from binderclip.segment.metrics.boundary_bands import boundary_iou as boundary_iou
    from binderclip.segment.metrics.boxes import BoxMatcher as BoxMatcher
    from binderclip.segment.metrics.boxes import box_overlaps as box_overlaps
    from binderclip.segment.metrics.calibration import CalibrationBins as CalibrationBins
    from binderclip.segment.metrics.calibration import CalibrationScore as CalibrationScore
    from binderclip.segment.metrics.calibration import Reliability as Reliability
    from binderclip.segment.metrics.calibration import pixel_calibration_error as pixel_calibration_error
    from binderclip.segment.metrics.coco_ap import CocoAP as CocoAP
    from binderclip.segment.metrics.coco_ap import coco_average_precision as coco_average_precision
    from binderclip.segment.metrics.confusion import IoU as IoU
    from binderclip.segment.metrics.confusion import IoUScore as IoUScore
    from binderclip.segment.metrics.confusion import mask_iou as mask_iou
    from binderclip.segment.metrics.foreground import e_measure as e_measure
    from binderclip.segment.metrics.foreground import foreground_scores as foreground_scores
    from binderclip.segment.metrics.foreground import mean_absolute_error as mean_absolute_error
    from binderclip.segment.metrics.foreground import s_measure as s_measure
    from binderclip.segment.metrics.foreground import weighted_f as weighted_f
    from binderclip.segment.metrics.instance_overlaps import Matches as Matches
    from binderclip.segment.metrics.instance_overlaps import Overlaps as Overlaps
    from binderclip.segment.metrics.instance_overlaps import match as match
    from binderclip.segment.metrics.instance_overlaps import overlaps as overlaps
    from binderclip.segment.metrics.instances import InstanceMatcher as InstanceMatcher
    from binderclip.segment.metrics.instances import InstanceScore as InstanceScore
    from binderclip.segment.metrics.instances import PanopticScore as PanopticScore
    from binderclip.segment.metrics.instances import aggregated_jaccard as aggregated_jaccard
    from binderclip.segment.metrics.instances import instance_average_precision as instance_average_precision
    from binderclip.segment.metrics.instances import instance_scores as instance_scores
    from binderclip.segment.metrics.instances import mean_instance_average_precision as mean_instance_average_precision
    from binderclip.segment.metrics.instances import panoptic_quality as panoptic_quality
    from binderclip.segment.metrics.instances import symmetric_best_dice as symmetric_best_dice
    from binderclip.segment.metrics.sorted_precision import SortedAP as SortedAP
    from binderclip.segment.metrics.sorted_precision import sorted_ap as sorted_ap
    from binderclip.segment.metrics.torchmetric import as_torchmetric as as_torchmetric

lazy_exports(__name__)

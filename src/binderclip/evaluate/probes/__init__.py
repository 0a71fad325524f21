"""Predict once, keep a table, and compute every measure, gap and interval from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.probes.class_design import ClassDesignProbe as ClassDesignProbe
    from binderclip.evaluate.probes.class_design import IdentityProbe as IdentityProbe
    from binderclip.evaluate.probes.class_design import LabelAssociationProbe as LabelAssociationProbe
    from binderclip.evaluate.probes.class_design import NearMissStressTest as NearMissStressTest
    from binderclip.evaluate.probes.correspondence import PatchCorrespondence as PatchCorrespondence
    from binderclip.evaluate.probes.correspondence import patch_correspondence as patch_correspondence
    from binderclip.evaluate.probes.cues import WCSTML as WCSTML
    from binderclip.evaluate.probes.cues import CueAccuracies as CueAccuracies
    from binderclip.evaluate.probes.cues import cue_complexity as cue_complexity
    from binderclip.evaluate.probes.cues import cue_preferences as cue_preferences
    from binderclip.evaluate.probes.gaps import difference as difference
    from binderclip.evaluate.probes.gaps import ratio as ratio
    from binderclip.evaluate.probes.group_figures import GroupFigure as GroupFigure
    from binderclip.evaluate.probes.group_figures import GroupGap as GroupGap
    from binderclip.evaluate.probes.group_figures import GroupReport as GroupReport
    from binderclip.evaluate.probes.group_reports import group_report as group_report
    from binderclip.evaluate.probes.group_reports import holm as holm
    from binderclip.evaluate.probes.group_reports import wilson as wilson
    from binderclip.evaluate.probes.measures import Measure as Measure
    from binderclip.evaluate.probes.measures import accuracy as accuracy
    from binderclip.evaluate.probes.measures import calibration_error_measure as calibration_error_measure
    from binderclip.evaluate.probes.measures import false_positive_rate_measure as false_positive_rate_measure
    from binderclip.evaluate.probes.measures import mapped_accuracy as mapped_accuracy
    from binderclip.evaluate.probes.measures import mean_class_accuracy as mean_class_accuracy
    from binderclip.evaluate.probes.measures import mean_confidence as mean_confidence
    from binderclip.evaluate.probes.measures import (
        positive_predictive_value_measure as positive_predictive_value_measure,
    )
    from binderclip.evaluate.probes.measures import selection_rate_measure as selection_rate_measure
    from binderclip.evaluate.probes.measures import top_k_accuracy as top_k_accuracy
    from binderclip.evaluate.probes.measures import true_positive_rate_measure as true_positive_rate_measure
    from binderclip.evaluate.probes.objects import ObjectClassificationProbe as ObjectClassificationProbe
    from binderclip.evaluate.probes.objects import ObjectRetrieval as ObjectRetrieval
    from binderclip.evaluate.probes.objects import ObjectRetrievalProbe as ObjectRetrievalProbe
    from binderclip.evaluate.probes.objects import OrderSensitivity as OrderSensitivity
    from binderclip.evaluate.probes.objects import OrderSensitivityProbe as OrderSensitivityProbe
    from binderclip.evaluate.probes.predictions import Predictions as Predictions
    from binderclip.evaluate.probes.predictions import predict as predict
    from binderclip.evaluate.probes.predictions import tabulate as tabulate
    from binderclip.evaluate.probes.progress import GroupDrop as GroupDrop
    from binderclip.evaluate.probes.progress import effective_robustness as effective_robustness
    from binderclip.evaluate.probes.progress import group_disparity as group_disparity
    from binderclip.evaluate.probes.progress import group_drop as group_drop
    from binderclip.evaluate.probes.progress import limited_options as limited_options
    from binderclip.evaluate.probes.progress import progress_gap as progress_gap
    from binderclip.evaluate.probes.progress import progress_rate as progress_rate
    from binderclip.evaluate.probes.robustness import FactorRatio as FactorRatio
    from binderclip.evaluate.probes.robustness import OODDetection as OODDetection
    from binderclip.evaluate.probes.robustness import RobustnessReport as RobustnessReport
    from binderclip.evaluate.probes.robustness import RobustnessSuite as RobustnessSuite
    from binderclip.evaluate.probes.robustness import ShapeBias as ShapeBias
    from binderclip.evaluate.probes.robustness import expected_calibration_error as expected_calibration_error
    from binderclip.evaluate.probes.robustness import factor_error_ratio as factor_error_ratio
    from binderclip.evaluate.probes.robustness import negative_log_likelihood as negative_log_likelihood
    from binderclip.evaluate.probes.robustness import ood_detection as ood_detection
    from binderclip.evaluate.probes.robustness import ood_scores as ood_scores
    from binderclip.evaluate.probes.robustness import shape_bias as shape_bias
    from binderclip.evaluate.probes.robustness import table_temperature as table_temperature
    from binderclip.evaluate.probes.spurious import SpuriousPairs as SpuriousPairs
    from binderclip.evaluate.probes.spurious import class_weight as class_weight
    from binderclip.evaluate.probes.spurious import linear_contrastive as linear_contrastive
    from binderclip.evaluate.probes.spurious import spurious_pairs as spurious_pairs
    from binderclip.evaluate.probes.table import Grouping as Grouping
    from binderclip.evaluate.probes.table import PredictionTable as PredictionTable
    from binderclip.evaluate.probes.table import group_rows as group_rows

lazy_exports(__name__)

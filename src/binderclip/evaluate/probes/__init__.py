"""Predict once, keep a table, and compute every measure, gap and interval from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.probes.class_design import (
        ClassDesignProbe,
        IdentityProbe,
        LabelAssociationProbe,
        NearMissStressTest,
    )
    from binderclip.evaluate.probes.correspondence import PatchCorrespondence, patch_correspondence
    from binderclip.evaluate.probes.cues import WCSTML, CueAccuracies, cue_complexity, cue_preferences
    from binderclip.evaluate.probes.gaps import difference, ratio
    from binderclip.evaluate.probes.group_figures import GroupFigure, GroupGap, GroupReport
    from binderclip.evaluate.probes.group_reports import group_report, holm, wilson
    from binderclip.evaluate.probes.measures import (
        Measure,
        accuracy,
        calibration_error_measure,
        false_positive_rate_measure,
        mapped_accuracy,
        mean_class_accuracy,
        mean_confidence,
        positive_predictive_value_measure,
        selection_rate_measure,
        top_k_accuracy,
        true_positive_rate_measure,
    )
    from binderclip.evaluate.probes.objects import (
        ObjectClassificationProbe,
        ObjectRetrieval,
        ObjectRetrievalProbe,
        OrderSensitivity,
        OrderSensitivityProbe,
    )
    from binderclip.evaluate.probes.predictions import Predictions, predict, tabulate
    from binderclip.evaluate.probes.progress import (
        GroupDrop,
        effective_robustness,
        group_disparity,
        group_drop,
        limited_options,
        progress_gap,
        progress_rate,
    )
    from binderclip.evaluate.probes.robustness import (
        FactorRatio,
        OODDetection,
        RobustnessReport,
        RobustnessSuite,
        ShapeBias,
        expected_calibration_error,
        factor_error_ratio,
        negative_log_likelihood,
        ood_detection,
        ood_scores,
        shape_bias,
        table_temperature,
    )
    from binderclip.evaluate.probes.spurious import SpuriousPairs, class_weight, linear_contrastive, spurious_pairs
    from binderclip.evaluate.probes.table import Grouping, PredictionTable, group_rows

__all__ = [
    "WCSTML",
    "ClassDesignProbe",
    "CueAccuracies",
    "FactorRatio",
    "GroupDrop",
    "GroupFigure",
    "GroupGap",
    "GroupReport",
    "Grouping",
    "IdentityProbe",
    "LabelAssociationProbe",
    "Measure",
    "NearMissStressTest",
    "OODDetection",
    "ObjectClassificationProbe",
    "ObjectRetrieval",
    "ObjectRetrievalProbe",
    "OrderSensitivity",
    "OrderSensitivityProbe",
    "PatchCorrespondence",
    "PredictionTable",
    "Predictions",
    "RobustnessReport",
    "RobustnessSuite",
    "ShapeBias",
    "SpuriousPairs",
    "accuracy",
    "calibration_error_measure",
    "class_weight",
    "cue_complexity",
    "cue_preferences",
    "difference",
    "effective_robustness",
    "expected_calibration_error",
    "factor_error_ratio",
    "false_positive_rate_measure",
    "group_disparity",
    "group_drop",
    "group_report",
    "group_rows",
    "holm",
    "limited_options",
    "linear_contrastive",
    "mapped_accuracy",
    "mean_class_accuracy",
    "mean_confidence",
    "negative_log_likelihood",
    "ood_detection",
    "ood_scores",
    "patch_correspondence",
    "positive_predictive_value_measure",
    "predict",
    "progress_gap",
    "progress_rate",
    "ratio",
    "selection_rate_measure",
    "shape_bias",
    "spurious_pairs",
    "table_temperature",
    "tabulate",
    "top_k_accuracy",
    "true_positive_rate_measure",
    "wilson",
]

lazy_exports(__name__)

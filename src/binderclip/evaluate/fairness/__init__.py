"""Fairness of groups with the names and signs of fairlearn: rates, gaps, rankings, individuals, embeddings (p127)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.fairness.frame import MetricFrame
    from binderclip.evaluate.fairness.individual import bias_amplification, consistency, counterfactual_flip_rate
    from binderclip.evaluate.fairness.ranking import max_skew, ndkl, skew
    from binderclip.evaluate.fairness.rates import (
        accuracy_equality_difference,
        binary_calibration_error,
        calibration_difference,
        demographic_parity_difference,
        demographic_parity_ratio,
        equal_opportunity_difference,
        equal_opportunity_ratio,
        equalized_odds_difference,
        equalized_odds_ratio,
        false_negative_rate,
        false_positive_rate,
        positive_predictive_value,
        predictive_equality_difference,
        predictive_parity_difference,
        selection_rate,
        true_negative_rate,
        true_positive_rate,
    )
    from binderclip.evaluate.fairness.representation import AssociationTest, association_test, attribute_leakage
    from binderclip.evaluate.probes.gaps import difference, ratio

__all__ = [
    "AssociationTest",
    "MetricFrame",
    "accuracy_equality_difference",
    "association_test",
    "attribute_leakage",
    "bias_amplification",
    "binary_calibration_error",
    "calibration_difference",
    "consistency",
    "counterfactual_flip_rate",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "difference",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "false_negative_rate",
    "false_positive_rate",
    "max_skew",
    "ndkl",
    "positive_predictive_value",
    "predictive_equality_difference",
    "predictive_parity_difference",
    "ratio",
    "selection_rate",
    "skew",
    "true_negative_rate",
    "true_positive_rate",
]

lazy_exports(__name__)

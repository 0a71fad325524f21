"""Fairness of groups with the names and signs of fairlearn: rates, gaps, rankings, individuals, embeddings (p127)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.fairness.frame import MetricFrame as MetricFrame
    from binderclip.evaluate.fairness.individual import bias_amplification as bias_amplification
    from binderclip.evaluate.fairness.individual import consistency as consistency
    from binderclip.evaluate.fairness.individual import counterfactual_flip_rate as counterfactual_flip_rate
    from binderclip.evaluate.fairness.ranking import max_skew as max_skew
    from binderclip.evaluate.fairness.ranking import ndkl as ndkl
    from binderclip.evaluate.fairness.ranking import skew as skew
    from binderclip.evaluate.fairness.rates import accuracy_equality_difference as accuracy_equality_difference
    from binderclip.evaluate.fairness.rates import binary_calibration_error as binary_calibration_error
    from binderclip.evaluate.fairness.rates import calibration_difference as calibration_difference
    from binderclip.evaluate.fairness.rates import demographic_parity_difference as demographic_parity_difference
    from binderclip.evaluate.fairness.rates import demographic_parity_ratio as demographic_parity_ratio
    from binderclip.evaluate.fairness.rates import equal_opportunity_difference as equal_opportunity_difference
    from binderclip.evaluate.fairness.rates import equal_opportunity_ratio as equal_opportunity_ratio
    from binderclip.evaluate.fairness.rates import equalized_odds_difference as equalized_odds_difference
    from binderclip.evaluate.fairness.rates import equalized_odds_ratio as equalized_odds_ratio
    from binderclip.evaluate.fairness.rates import false_negative_rate as false_negative_rate
    from binderclip.evaluate.fairness.rates import false_positive_rate as false_positive_rate
    from binderclip.evaluate.fairness.rates import positive_predictive_value as positive_predictive_value
    from binderclip.evaluate.fairness.rates import predictive_equality_difference as predictive_equality_difference
    from binderclip.evaluate.fairness.rates import predictive_parity_difference as predictive_parity_difference
    from binderclip.evaluate.fairness.rates import selection_rate as selection_rate
    from binderclip.evaluate.fairness.rates import true_negative_rate as true_negative_rate
    from binderclip.evaluate.fairness.rates import true_positive_rate as true_positive_rate
    from binderclip.evaluate.fairness.representation import AssociationTest as AssociationTest
    from binderclip.evaluate.fairness.representation import association_test as association_test
    from binderclip.evaluate.fairness.representation import attribute_leakage as attribute_leakage
    from binderclip.evaluate.probes.gaps import difference as difference
    from binderclip.evaluate.probes.gaps import ratio as ratio

lazy_exports(__name__)

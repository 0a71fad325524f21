"""Differentially private training: clipping and its relatives, accounting, and honest reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.privacy.accounting.ledger import (
        ACCOUNTANTS,
        ORDERS,
        BudgetSpent,
        Ledger,
        LedgerEntry,
        gdp_epsilon,
        joint_multiplier,
        noise_multiplier_for,
    )
    from binderclip.privacy.accounting.report import PrivacyReport, privacy_report
    from binderclip.privacy.accounting.sampling import PoissonSampler, collate_with_empty
    from binderclip.privacy.accounting.statistic import PrivateBatch, Statistic
    from binderclip.privacy.clipping.feedback import DiceFeedback, Feedback
    from binderclip.privacy.clipping.norm_range import (
        ClipRange,
        clip_norm_range,
        per_sample_lipschitz,
        private_clip_range,
        suggest_clip,
    )
    from binderclip.privacy.clipping.rules import AdaptiveClip, FlatClip, GroupClip, SensitivityRule, as_rule
    from binderclip.privacy.controllers import (
        Decision,
        MultiObjectiveClip,
        Policy,
        RLDPController,
        clip_loss,
        clip_loss_slope,
        model_loss_slope,
    )
    from binderclip.privacy.controllers.controller import Controller, Fixed, PublicStats, Setting
    from binderclip.privacy.controllers.sac import SACLosses, SACPolicy
    from binderclip.privacy.federated import FederatedAverage, Round
    from binderclip.privacy.lipschitz.losses import (
        LIPSCHITZ_LOSSES,
        cosine_loss,
        hinge_loss,
        hkr_loss,
        kr_loss,
        loss_constant,
        mae_loss,
        tau_cross_entropy,
    )
    from binderclip.privacy.lipschitz.training import (
        GradientBounds,
        LipschitzBound,
        LipschitzOptimizer,
        LipschitzSequential,
        gradient_bounds,
        largest_ratios,
    )
    from binderclip.privacy.optimizer import PrivateOptimizer
    from binderclip.privacy.per_sample.ghost import ClippedSum, clipped_sum
    from binderclip.privacy.per_sample.gradients import per_sample_grads, per_sample_norms
    from binderclip.privacy.per_sample.recorder import PerSampleRecorder
    from binderclip.privacy.private import DiceSGD, PrivateParts, make_private
    from binderclip.privacy.probe import HeadRun, PrivateLinearProbe, private_linear_probe, train_softmax_head

__all__ = [
    "ACCOUNTANTS",
    "LIPSCHITZ_LOSSES",
    "ORDERS",
    "AdaptiveClip",
    "BudgetSpent",
    "ClipRange",
    "ClippedSum",
    "Controller",
    "Decision",
    "DiceFeedback",
    "DiceSGD",
    "FederatedAverage",
    "Feedback",
    "Fixed",
    "FlatClip",
    "GradientBounds",
    "GroupClip",
    "HeadRun",
    "Ledger",
    "LedgerEntry",
    "LipschitzBound",
    "LipschitzOptimizer",
    "LipschitzSequential",
    "MultiObjectiveClip",
    "PerSampleRecorder",
    "PoissonSampler",
    "Policy",
    "PrivacyReport",
    "PrivateBatch",
    "PrivateLinearProbe",
    "PrivateOptimizer",
    "PrivateParts",
    "PublicStats",
    "RLDPController",
    "Round",
    "SACLosses",
    "SACPolicy",
    "SensitivityRule",
    "Setting",
    "Statistic",
    "as_rule",
    "clip_loss",
    "clip_loss_slope",
    "clip_norm_range",
    "clipped_sum",
    "collate_with_empty",
    "cosine_loss",
    "gdp_epsilon",
    "gradient_bounds",
    "hinge_loss",
    "hkr_loss",
    "joint_multiplier",
    "kr_loss",
    "largest_ratios",
    "loss_constant",
    "mae_loss",
    "make_private",
    "model_loss_slope",
    "noise_multiplier_for",
    "per_sample_grads",
    "per_sample_lipschitz",
    "per_sample_norms",
    "privacy_report",
    "private_clip_range",
    "private_linear_probe",
    "suggest_clip",
    "tau_cross_entropy",
    "train_softmax_head",
]

lazy_exports(__name__)

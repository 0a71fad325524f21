"""Differentially private training: clipping and its relatives, accounting, and honest reports."""

from __future__ import annotations

from binderclip.privacy.accounting import (
    ACCOUNTANTS,
    ORDERS,
    BudgetSpent,
    Entry,
    Ledger,
    gdp_epsilon,
    joint_multiplier,
    noise_multiplier_for,
)
from binderclip.privacy.controller import Controller, Fixed, PublicStats, Setting
from binderclip.privacy.controllers import (
    Decision,
    MultiObjectiveClip,
    Policy,
    RLDPController,
    clip_loss,
    clip_loss_slope,
    model_loss_slope,
)
from binderclip.privacy.federated import FederatedAverage, Round
from binderclip.privacy.feedback import DiceFeedback, Feedback
from binderclip.privacy.ghost import ClippedSum, clipped_sum
from binderclip.privacy.lipschitz import (
    GradientBounds,
    LipschitzBound,
    LipschitzOptimizer,
    LipschitzSequential,
    gradient_bounds,
    largest_ratios,
)
from binderclip.privacy.lipschitz_losses import (
    LIPSCHITZ_LOSSES,
    cosine_loss,
    hinge_loss,
    hkr_loss,
    kr_loss,
    loss_constant,
    mae_loss,
    tau_cross_entropy,
)
from binderclip.privacy.optimizer import PrivateOptimizer
from binderclip.privacy.per_sample import per_sample_grads, per_sample_norms
from binderclip.privacy.private import DiceSGD, PrivateParts, make_private
from binderclip.privacy.probe import (
    ClipRange,
    HeadRun,
    PrivateLinearProbe,
    clip_norm_range,
    per_sample_lipschitz,
    private_clip_range,
    private_linear_probe,
    suggest_clip,
    train_softmax_head,
)
from binderclip.privacy.recorder import Recorder
from binderclip.privacy.report import PrivacyReport, privacy_report
from binderclip.privacy.rules import AdaptiveClip, FlatClip, GroupClip, SensitivityRule, as_rule
from binderclip.privacy.sac import SACLosses, SACPolicy
from binderclip.privacy.sampling import PoissonSampler, collate_with_empty
from binderclip.privacy.statistic import PrivateBatch, Statistic

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
    "Entry",
    "FederatedAverage",
    "Feedback",
    "Fixed",
    "FlatClip",
    "GradientBounds",
    "GroupClip",
    "HeadRun",
    "Ledger",
    "LipschitzBound",
    "LipschitzOptimizer",
    "LipschitzSequential",
    "MultiObjectiveClip",
    "PoissonSampler",
    "Policy",
    "PrivacyReport",
    "PrivateBatch",
    "PrivateLinearProbe",
    "PrivateOptimizer",
    "PrivateParts",
    "PublicStats",
    "RLDPController",
    "Recorder",
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

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
from binderclip.privacy.rules import AdaptiveClip, FlatClip, GroupClip, SensitivityRule, as_rule
from binderclip.privacy.sac import SACLosses, SACPolicy
from binderclip.privacy.statistic import PrivateBatch, Statistic

__all__ = [
    "ACCOUNTANTS",
    "LIPSCHITZ_LOSSES",
    "ORDERS",
    "AdaptiveClip",
    "BudgetSpent",
    "Controller",
    "Entry",
    "Fixed",
    "FlatClip",
    "GradientBounds",
    "GroupClip",
    "Ledger",
    "LipschitzBound",
    "LipschitzOptimizer",
    "LipschitzSequential",
    "PrivateBatch",
    "PublicStats",
    "SACLosses",
    "SACPolicy",
    "SensitivityRule",
    "Setting",
    "Statistic",
    "as_rule",
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
    "noise_multiplier_for",
    "tau_cross_entropy",
]

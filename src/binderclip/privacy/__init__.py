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
from binderclip.privacy.rules import AdaptiveClip, FlatClip, GroupClip, SensitivityRule, as_rule
from binderclip.privacy.statistic import PrivateBatch, Statistic

__all__ = [
    "ACCOUNTANTS",
    "ORDERS",
    "AdaptiveClip",
    "BudgetSpent",
    "Controller",
    "Entry",
    "Fixed",
    "FlatClip",
    "GroupClip",
    "Ledger",
    "PrivateBatch",
    "PublicStats",
    "SensitivityRule",
    "Setting",
    "Statistic",
    "as_rule",
    "gdp_epsilon",
    "joint_multiplier",
    "noise_multiplier_for",
]

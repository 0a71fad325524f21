"""Differentially private training: clipping and its relatives, accounting, and honest reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.privacy.accounting.ledger import ACCOUNTANTS as ACCOUNTANTS
    from binderclip.privacy.accounting.ledger import ORDERS as ORDERS
    from binderclip.privacy.accounting.ledger import BudgetSpent as BudgetSpent
    from binderclip.privacy.accounting.ledger import Ledger as Ledger
    from binderclip.privacy.accounting.ledger import LedgerEntry as LedgerEntry
    from binderclip.privacy.accounting.ledger import gdp_epsilon as gdp_epsilon
    from binderclip.privacy.accounting.ledger import joint_multiplier as joint_multiplier
    from binderclip.privacy.accounting.ledger import noise_multiplier_for as noise_multiplier_for
    from binderclip.privacy.accounting.report import PrivacyReport as PrivacyReport
    from binderclip.privacy.accounting.report import privacy_report as privacy_report
    from binderclip.privacy.accounting.sampling import PoissonSampler as PoissonSampler
    from binderclip.privacy.accounting.sampling import collate_with_empty as collate_with_empty
    from binderclip.privacy.accounting.statistic import PrivateBatch as PrivateBatch
    from binderclip.privacy.accounting.statistic import Statistic as Statistic
    from binderclip.privacy.clipping.feedback import DiceFeedback as DiceFeedback
    from binderclip.privacy.clipping.feedback import Feedback as Feedback
    from binderclip.privacy.clipping.norm_range import ClipRange as ClipRange
    from binderclip.privacy.clipping.norm_range import clip_norm_range as clip_norm_range
    from binderclip.privacy.clipping.norm_range import per_sample_lipschitz as per_sample_lipschitz
    from binderclip.privacy.clipping.norm_range import private_clip_range as private_clip_range
    from binderclip.privacy.clipping.norm_range import suggest_clip as suggest_clip
    from binderclip.privacy.clipping.rules import AdaptiveClip as AdaptiveClip
    from binderclip.privacy.clipping.rules import FlatClip as FlatClip
    from binderclip.privacy.clipping.rules import GroupClip as GroupClip
    from binderclip.privacy.clipping.rules import SensitivityRule as SensitivityRule
    from binderclip.privacy.clipping.rules import as_rule as as_rule
    from binderclip.privacy.controllers import Decision as Decision
    from binderclip.privacy.controllers import MultiObjectiveClip as MultiObjectiveClip
    from binderclip.privacy.controllers import Policy as Policy
    from binderclip.privacy.controllers import RLDPController as RLDPController
    from binderclip.privacy.controllers import clip_loss as clip_loss
    from binderclip.privacy.controllers import clip_loss_slope as clip_loss_slope
    from binderclip.privacy.controllers import model_loss_slope as model_loss_slope
    from binderclip.privacy.controllers.controller import Controller as Controller
    from binderclip.privacy.controllers.controller import Fixed as Fixed
    from binderclip.privacy.controllers.controller import PublicStats as PublicStats
    from binderclip.privacy.controllers.controller import Setting as Setting
    from binderclip.privacy.controllers.sac import SACLosses as SACLosses
    from binderclip.privacy.controllers.sac import SACPolicy as SACPolicy
    from binderclip.privacy.federated import FederatedAverage as FederatedAverage
    from binderclip.privacy.federated import Round as Round
    from binderclip.privacy.lipschitz.losses import LIPSCHITZ_LOSSES as LIPSCHITZ_LOSSES
    from binderclip.privacy.lipschitz.losses import cosine_loss as cosine_loss
    from binderclip.privacy.lipschitz.losses import hinge_loss as hinge_loss
    from binderclip.privacy.lipschitz.losses import hkr_loss as hkr_loss
    from binderclip.privacy.lipschitz.losses import kr_loss as kr_loss
    from binderclip.privacy.lipschitz.losses import loss_constant as loss_constant
    from binderclip.privacy.lipschitz.losses import mae_loss as mae_loss
    from binderclip.privacy.lipschitz.losses import tau_cross_entropy as tau_cross_entropy
    from binderclip.privacy.lipschitz.training import GradientBounds as GradientBounds
    from binderclip.privacy.lipschitz.training import LipschitzBound as LipschitzBound
    from binderclip.privacy.lipschitz.training import LipschitzOptimizer as LipschitzOptimizer
    from binderclip.privacy.lipschitz.training import LipschitzSequential as LipschitzSequential
    from binderclip.privacy.lipschitz.training import gradient_bounds as gradient_bounds
    from binderclip.privacy.lipschitz.training import largest_ratios as largest_ratios
    from binderclip.privacy.optimizer import PrivateOptimizer as PrivateOptimizer
    from binderclip.privacy.per_sample.ghost import ClippedSum as ClippedSum
    from binderclip.privacy.per_sample.ghost import clipped_sum as clipped_sum
    from binderclip.privacy.per_sample.gradients import per_sample_grads as per_sample_grads
    from binderclip.privacy.per_sample.gradients import per_sample_norms as per_sample_norms
    from binderclip.privacy.per_sample.recorder import PerSampleRecorder as PerSampleRecorder
    from binderclip.privacy.private import DiceSGD as DiceSGD
    from binderclip.privacy.private import PrivateParts as PrivateParts
    from binderclip.privacy.private import make_private as make_private
    from binderclip.privacy.probe import HeadRun as HeadRun
    from binderclip.privacy.probe import PrivateLinearProbe as PrivateLinearProbe
    from binderclip.privacy.probe import private_linear_probe as private_linear_probe
    from binderclip.privacy.probe import train_softmax_head as train_softmax_head

lazy_exports(__name__)

"""The loss around a point: its rise in a neighbourhood, curvature, the loss along lines and planes, and its room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.landscape.abundance import SolutionAbundance as SolutionAbundance
    from binderclip.landscape.abundance import solution_abundance as solution_abundance
    from binderclip.landscape.class_entropy import PSPEntropy as PSPEntropy
    from binderclip.landscape.class_entropy import psp_entropy as psp_entropy
    from binderclip.landscape.directional import DirectionalSharpness as DirectionalSharpness
    from binderclip.landscape.directional import LossAlong as LossAlong
    from binderclip.landscape.directional import Shadow as Shadow
    from binderclip.landscape.directional import compare_directions as compare_directions
    from binderclip.landscape.directional import directional_sharpness as directional_sharpness
    from binderclip.landscape.directional import loss_along as loss_along
    from binderclip.landscape.hessian import HessianEstimate as HessianEstimate
    from binderclip.landscape.hessian import hessian_diagonal as hessian_diagonal
    from binderclip.landscape.hessian import hessian_trace as hessian_trace
    from binderclip.landscape.hessian import top_eigenvalue as top_eigenvalue
    from binderclip.landscape.paths import bezier_middle as bezier_middle
    from binderclip.landscape.paths import figure_between as figure_between
    from binderclip.landscape.sharpness.measures import SharpnessResult as SharpnessResult
    from binderclip.landscape.sharpness.measures import average_sharpness as average_sharpness
    from binderclip.landscape.sharpness.measures import classification_loss as classification_loss
    from binderclip.landscape.sharpness.measures import worst_case_sharpness as worst_case_sharpness
    from binderclip.landscape.sharpness.neighbourhood import Neighbourhood as Neighbourhood
    from binderclip.landscape.sharpness.report import SharpnessReport as SharpnessReport
    from binderclip.landscape.sharpness.report import sharpness_report as sharpness_report
    from binderclip.landscape.surface.curvature import CurvatureRatioMap as CurvatureRatioMap
    from binderclip.landscape.surface.curvature import curvature_ratio_map as curvature_ratio_map
    from binderclip.landscape.surface.curvature import extreme_eigenvalues as extreme_eigenvalues
    from binderclip.landscape.surface.directions import direction_between as direction_between
    from binderclip.landscape.surface.directions import direction_cosine as direction_cosine
    from binderclip.landscape.surface.directions import random_direction as random_direction
    from binderclip.landscape.surface.interpolation import InterpolationCurve as InterpolationCurve
    from binderclip.landscape.surface.interpolation import interpolate_weights as interpolate_weights
    from binderclip.landscape.surface.interpolation import interpolation_curve as interpolation_curve
    from binderclip.landscape.surface.interpolation import keep_largest_updates as keep_largest_updates
    from binderclip.landscape.surface.layer_sharpness import LayerSharpness as LayerSharpness
    from binderclip.landscape.surface.layer_sharpness import layerwise_sharpness as layerwise_sharpness
    from binderclip.landscape.surface.layers import weight_layers as weight_layers
    from binderclip.landscape.surface.moving import classification_figures as classification_figures
    from binderclip.landscape.surface.stragglers import StragglerReport as StragglerReport
    from binderclip.landscape.surface.stragglers import straggler_layers as straggler_layers
    from binderclip.landscape.surface.surfaces import LossCurve as LossCurve
    from binderclip.landscape.surface.surfaces import LossSurface as LossSurface
    from binderclip.landscape.surface.surfaces import loss_line as loss_line
    from binderclip.landscape.surface.surfaces import loss_surface as loss_surface
    from binderclip.landscape.surface.trajectory import TrajectoryPlane as TrajectoryPlane
    from binderclip.landscape.surface.trajectory import trajectory_pca as trajectory_pca
    from binderclip.landscape.theory.deep_linear import BenignOverfittingReport as BenignOverfittingReport
    from binderclip.landscape.theory.deep_linear import DeepLinearNet as DeepLinearNet
    from binderclip.landscape.theory.deep_linear import EffectiveRanks as EffectiveRanks
    from binderclip.landscape.theory.deep_linear import benign_overfitting_report as benign_overfitting_report
    from binderclip.landscape.theory.deep_linear import effective_ranks as effective_ranks
    from binderclip.landscape.theory.deep_linear import min_norm_interpolant as min_norm_interpolant
    from binderclip.landscape.theory.nonsmooth import KinkTrajectory as KinkTrajectory
    from binderclip.landscape.theory.nonsmooth import L1Curve as L1Curve
    from binderclip.landscape.theory.nonsmooth import NonsmoothReport as NonsmoothReport
    from binderclip.landscape.theory.nonsmooth import SharpnessTrace as SharpnessTrace
    from binderclip.landscape.theory.nonsmooth import descent_sharpness as descent_sharpness
    from binderclip.landscape.theory.nonsmooth import kink_descent as kink_descent
    from binderclip.landscape.theory.nonsmooth import l1_curve as l1_curve
    from binderclip.landscape.theory.nonsmooth import nonsmooth_study as nonsmooth_study
    from binderclip.landscape.theory.opposing import OpposingSignals as OpposingSignals
    from binderclip.landscape.theory.opposing import ToyTrajectory as ToyTrajectory
    from binderclip.landscape.theory.opposing import TwoFeatureToy as TwoFeatureToy
    from binderclip.landscape.theory.opposing import opposing_signals as opposing_signals

lazy_exports(__name__)

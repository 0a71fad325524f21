"""Smaller models: pruning of weights and of tokens, and computation in few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.compress.quantise.binary import BinaryConv2d as BinaryConv2d
    from binderclip.compress.quantise.binary import BinaryLinear as BinaryLinear
    from binderclip.compress.quantise.fine_tuning import fine_tune_rounded as fine_tune_rounded
    from binderclip.compress.quantise.gradients import AGP as AGP
    from binderclip.compress.quantise.gradients import gradient_variance as gradient_variance
    from binderclip.compress.quantise.gradients import quantize_groups as quantize_groups
    from binderclip.compress.quantise.int8 import quantize_calibrated as quantize_calibrated
    from binderclip.compress.quantise.int8 import quantize_dynamic as quantize_dynamic
    from binderclip.compress.quantise.octav import FakeQuant as FakeQuant
    from binderclip.compress.quantise.octav import Octav as Octav
    from binderclip.compress.quantise.octav import octav_clip as octav_clip
    from binderclip.compress.quantise.sparsifying import ClippedReLU as ClippedReLU
    from binderclip.compress.quantise.sparsifying import ClippedSoftThreshold as ClippedSoftThreshold
    from binderclip.compress.quantise.sparsifying import CriticalInit as CriticalInit
    from binderclip.compress.quantise.sparsifying import critical_init as critical_init
    from binderclip.compress.quantise.spikes import HoyerSpike as HoyerSpike
    from binderclip.compress.quantise.weights import PackedWeights as PackedWeights
    from binderclip.compress.quantise.weights import pack_weight as pack_weight
    from binderclip.compress.quantise.weights import quantize_weights as quantize_weights
    from binderclip.compress.tokens.balanced import BalancedStage as BalancedStage
    from binderclip.compress.tokens.balanced import BalancedTokenPruning as BalancedTokenPruning
    from binderclip.compress.tokens.balanced import calibrate_stages as calibrate_stages
    from binderclip.compress.tokens.context import TokenContext as TokenContext
    from binderclip.compress.tokens.context import attention_criterion as attention_criterion
    from binderclip.compress.tokens.feather import FastVTokenPruning as FastVTokenPruning
    from binderclip.compress.tokens.feather import FeatherTokenPruning as FeatherTokenPruning
    from binderclip.compress.tokens.feather import UniformTokenPruning as UniformTokenPruning
    from binderclip.compress.tokens.heatmap import TokenHeatmap as TokenHeatmap
    from binderclip.compress.tokens.heatmap import kept_inside_boxes as kept_inside_boxes
    from binderclip.compress.tokens.heatmap import kept_token_heatmap as kept_token_heatmap
    from binderclip.compress.tokens.image_towers import ClassAttentionPruning as ClassAttentionPruning
    from binderclip.compress.tokens.image_towers import TokenMerging as TokenMerging
    from binderclip.compress.tokens.pruner import PrunedRun as PrunedRun
    from binderclip.compress.tokens.pruner import PruningStage as PruningStage
    from binderclip.compress.tokens.pruner import TokenPruner as TokenPruner
    from binderclip.compress.tokens.selection import select_attended_tokens as select_attended_tokens
    from binderclip.compress.tokens.selection import select_diverse_tokens as select_diverse_tokens
    from binderclip.compress.tokens.selection import select_top_tokens as select_top_tokens
    from binderclip.compress.tokens.selection import spatial_seed_tokens as spatial_seed_tokens
    from binderclip.compress.tokens.selection import strided_tokens as strided_tokens
    from binderclip.compress.weights.autosparse import AutoSparse as AutoSparse
    from binderclip.compress.weights.autosparse import MaskedGradient as MaskedGradient
    from binderclip.compress.weights.budgets import PruneBudget as PruneBudget
    from binderclip.compress.weights.channels import channel_groups as channel_groups
    from binderclip.compress.weights.gradual import GradualPruner as GradualPruner
    from binderclip.compress.weights.gradual import OneShotPruner as OneShotPruner
    from binderclip.compress.weights.gradual import SensitivityRegularizer as SensitivityRegularizer
    from binderclip.compress.weights.gradual import smallest_pruned as smallest_pruned
    from binderclip.compress.weights.groups import GroupMember as GroupMember
    from binderclip.compress.weights.groups import PruneGroups as PruneGroups
    from binderclip.compress.weights.groups import masked as masked
    from binderclip.compress.weights.groups import merged_groups as merged_groups
    from binderclip.compress.weights.groups import tower_groups as tower_groups
    from binderclip.compress.weights.hap import HessianTraceScore as HessianTraceScore
    from binderclip.compress.weights.hap import NeuralImplant as NeuralImplant
    from binderclip.compress.weights.hap import implant_channels as implant_channels
    from binderclip.compress.weights.module_error import ModulePruningError as ModulePruningError
    from binderclip.compress.weights.module_error import PairedSample as PairedSample
    from binderclip.compress.weights.mope import MoPEPruner as MoPEPruner
    from binderclip.compress.weights.net_trim import NetTrim as NetTrim
    from binderclip.compress.weights.net_trim import TrimmedLayer as TrimmedLayer
    from binderclip.compress.weights.net_trim import net_trim_layer as net_trim_layer
    from binderclip.compress.weights.nm import NMMask as NMMask
    from binderclip.compress.weights.nm import StructureDecay as StructureDecay
    from binderclip.compress.weights.nm import is_nm as is_nm
    from binderclip.compress.weights.nm import nm_mask as nm_mask
    from binderclip.compress.weights.nm import to_semi_structured as to_semi_structured
    from binderclip.compress.weights.removal import remove as remove
    from binderclip.compress.weights.rules import SRSTE as SRSTE
    from binderclip.compress.weights.rules import HardMask as HardMask
    from binderclip.compress.weights.rules import MaskDecay as MaskDecay
    from binderclip.compress.weights.rules import StraightThrough as StraightThrough
    from binderclip.compress.weights.rules import pruned_weight as pruned_weight
    from binderclip.compress.weights.scores import GradientScore as GradientScore
    from binderclip.compress.weights.scores import MagnitudeScore as MagnitudeScore
    from binderclip.compress.weights.scores import RandomScore as RandomScore
    from binderclip.compress.weights.sparse_training import SparseTraining as SparseTraining
    from binderclip.compress.weights.sparse_training import SparsityReport as SparsityReport
    from binderclip.compress.weights.sparse_weight import SparseWeight as SparseWeight
    from binderclip.compress.weights.sparse_weight import finalize_sparse as finalize_sparse
    from binderclip.models.layers.int8.attention import Int8Attention as Int8Attention
    from binderclip.models.layers.int8.layers import Int8Conv2d as Int8Conv2d
    from binderclip.models.layers.int8.layers import Int8Embedding as Int8Embedding
    from binderclip.models.layers.int8.layers import Int8Linear as Int8Linear
    from binderclip.optim.fake_quantization import AffineGrid as AffineGrid
    from binderclip.optim.fake_quantization import Blocks as Blocks
    from binderclip.optim.fake_quantization import FixedRange as FixedRange
    from binderclip.optim.fake_quantization import MaxAbs as MaxAbs
    from binderclip.optim.fake_quantization import MinMax as MinMax
    from binderclip.optim.fake_quantization import SignGrid as SignGrid
    from binderclip.optim.fake_quantization import SpikeGrid as SpikeGrid
    from binderclip.optim.fake_quantization import SymmetricGrid as SymmetricGrid
    from binderclip.optim.fake_quantization import fake_quant as fake_quant
    from binderclip.optim.surrogates import ClippedStraightThrough as ClippedStraightThrough
    from binderclip.optim.surrogates import MagnitudeAware as MagnitudeAware
    from binderclip.optim.surrogates import StraightThroughSurrogate as StraightThroughSurrogate
    from binderclip.optim.surrogates import WindowSurrogate as WindowSurrogate

lazy_exports(__name__)

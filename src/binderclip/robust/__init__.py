"""Attacks on classifiers and defences against them.

An attack is an objective, a feasible set, a step rule and a budget (`attack`); named attacks are points in these. All
see pixels: any `Predictor` from images in [0, 1] to logits can be attacked, or a plain module in its own input space
with `box=`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.robust.attack_loop import AttackResult, attack
from binderclip.robust.attacks.black_box import Evolution
from binderclip.robust.attacks.level_sets import (
    LevelSetPath,
    LevelSetTraversal,
    TriangleConfidence,
    confidence_along,
    level_set_width,
    triangle_confidence_map,
)
from binderclip.robust.attacks.master_print import MasterPrint, MasterPrintAttack, master_print_win_rate
from binderclip.robust.attacks.one_pixel import OnePixel
from binderclip.robust.attacks.pgd import CW, DIFGSM, FGSM, MIFGSM, PGD
from binderclip.robust.attacks.spatial import SpatialAttack, flow_roughness, warp
from binderclip.robust.attacks.unsegment import (
    UAD,
    EncoderMaps,
    FeatureAttack,
    FeatureTarget,
    MaskRemoval,
    polyharmonic_flow,
)
from binderclip.robust.defences.master_prints import (
    shift_modality_gap,
    train_fooling_detector,
    tune_off_manifold,
)
from binderclip.robust.defences.pag_targets import PAGTargets
from binderclip.robust.defences.smoothing import ABSTAIN, Certificate, RandomizedSmoothing
from binderclip.robust.defences.tecoa import TeCoA
from binderclip.robust.defences.training import adversarial_step
from binderclip.robust.diversity import InputDiversity
from binderclip.robust.feasible import L2, Feasible, Free, Latent, Linf
from binderclip.robust.objectives import CrossEntropy, Margin, MinSimilarity, Objective
from binderclip.robust.similarity import RankFlip, SimilarityAttack, attack_similarity, rank_flip_rate
from binderclip.robust.steps import Adam, Momentum, Normalized, Sign, Step
from binderclip.robust.transfer import TransferRates, TransferStudy, transfer_success_rate

METHODS: dict[str, Callable[..., Any]] = {"cw": CW, "di-fgsm": DIFGSM, "fgsm": FGSM, "mi-fgsm": MIFGSM, "pgd": PGD}

__all__ = [
    "ABSTAIN",
    "CW",
    "DIFGSM",
    "FGSM",
    "L2",
    "METHODS",
    "MIFGSM",
    "PGD",
    "UAD",
    "Adam",
    "AttackResult",
    "Certificate",
    "CrossEntropy",
    "EncoderMaps",
    "Evolution",
    "Feasible",
    "FeatureAttack",
    "FeatureTarget",
    "Free",
    "InputDiversity",
    "Latent",
    "LevelSetPath",
    "LevelSetTraversal",
    "Linf",
    "Margin",
    "MaskRemoval",
    "MasterPrint",
    "MasterPrintAttack",
    "MinSimilarity",
    "Momentum",
    "Normalized",
    "Objective",
    "OnePixel",
    "PAGTargets",
    "RandomizedSmoothing",
    "RankFlip",
    "Sign",
    "SimilarityAttack",
    "SpatialAttack",
    "Step",
    "TeCoA",
    "TransferRates",
    "TransferStudy",
    "TriangleConfidence",
    "adversarial_step",
    "attack",
    "attack_similarity",
    "confidence_along",
    "flow_roughness",
    "level_set_width",
    "master_print_win_rate",
    "polyharmonic_flow",
    "rank_flip_rate",
    "shift_modality_gap",
    "train_fooling_detector",
    "transfer_success_rate",
    "triangle_confidence_map",
    "tune_off_manifold",
    "warp",
]

"""Image quality: scores of pictures (CLIP-IQA, QualiCLIP), distances from a reference (LPIPS) and of sets (CMMD),
detectors of generated pictures, and enhancers of backlit ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.quality.distance.lpips import LPIPS
    from binderclip.quality.distance.two_afc import shift_flip_rate, two_afc_score
    from binderclip.quality.enhance.backlit import BacklitEnhancer, EnhancerFit
    from binderclip.quality.enhance.clip_lit import CLIPLIT
    from binderclip.quality.enhance.discriminators import FeatureDiscriminator, PromptPairDiscriminator
    from binderclip.quality.enhance.files import ENHANCERS, create_enhancer, load_enhancer, save_enhancer
    from binderclip.quality.enhance.illumination import IlluminationNet
    from binderclip.quality.enhance.light_prompts import LatentPromptGuidance, LearnedLightPrompts, LightWords
    from binderclip.quality.enhance.middle_maps import MiddleMaps
    from binderclip.quality.enhance.rave import RAVE
    from binderclip.quality.enhance.residual import ResidualVector
    from binderclip.quality.enhance.rrdb import RRDBNet
    from binderclip.quality.enhance.sfd import SFD, SFDIQA
    from binderclip.quality.forensics.aide import AIDE, NoiseExpert
    from binderclip.quality.forensics.calibration import false_alarm_threshold
    from binderclip.quality.forensics.deeclip import DeeCLIP
    from binderclip.quality.forensics.detector import Detector, DetectorOutput
    from binderclip.quality.forensics.files import DETECTORS, create_detector, load_detector, save_detector
    from binderclip.quality.forensics.generators import CopyingAutoencoder, train_autoencoder
    from binderclip.quality.forensics.linear import LinearDetector
    from binderclip.quality.forensics.noise import NoiseDetector
    from binderclip.quality.forensics.panoptic import PanopticPatchDetector
    from binderclip.quality.forensics.training import DetectorBatch, fit_detector, train_detector
    from binderclip.quality.frechet import frechet_distance
    from binderclip.quality.methods import METHODS, create_metric
    from binderclip.quality.mmd import PermutationTest, mmd_bootstrap, mmd_permutation_test, mmd_rbf
    from binderclip.quality.score.agreement import Agreement, agreement
    from binderclip.quality.score.blind import BlindQuality
    from binderclip.quality.score.clipiqa import CLIPIQA, ENSEMBLE, CLIPIQAPlus
    from binderclip.quality.score.embedding import NativeEmbedding
    from binderclip.quality.score.picture_score import QualityScores
    from binderclip.quality.score.prompt_quality import PAIRS, PromptQuality
    from binderclip.quality.score.qboost import PromptEnsemble, PromptWords, TriadicScore, WordLogitScorer
    from binderclip.quality.score.qualiclip import ANTONYMS, QualiCLIP
    from binderclip.quality.set_distance import CMMD, FrechetDistance, SetDistance, SetScore

__all__ = [
    "AIDE",
    "ANTONYMS",
    "CLIPIQA",
    "CLIPLIT",
    "CMMD",
    "DETECTORS",
    "ENHANCERS",
    "ENSEMBLE",
    "LPIPS",
    "METHODS",
    "PAIRS",
    "RAVE",
    "SFD",
    "SFDIQA",
    "Agreement",
    "BacklitEnhancer",
    "BlindQuality",
    "CLIPIQAPlus",
    "CopyingAutoencoder",
    "DeeCLIP",
    "Detector",
    "DetectorBatch",
    "DetectorOutput",
    "EnhancerFit",
    "FeatureDiscriminator",
    "FrechetDistance",
    "IlluminationNet",
    "LatentPromptGuidance",
    "LearnedLightPrompts",
    "LightWords",
    "LinearDetector",
    "MiddleMaps",
    "NativeEmbedding",
    "NoiseDetector",
    "NoiseExpert",
    "PanopticPatchDetector",
    "PermutationTest",
    "PromptEnsemble",
    "PromptPairDiscriminator",
    "PromptQuality",
    "PromptWords",
    "QualiCLIP",
    "QualityScores",
    "RRDBNet",
    "ResidualVector",
    "SetDistance",
    "SetScore",
    "TriadicScore",
    "WordLogitScorer",
    "agreement",
    "create_detector",
    "create_enhancer",
    "create_metric",
    "false_alarm_threshold",
    "fit_detector",
    "frechet_distance",
    "load_detector",
    "load_enhancer",
    "mmd_bootstrap",
    "mmd_permutation_test",
    "mmd_rbf",
    "save_detector",
    "save_enhancer",
    "shift_flip_rate",
    "train_autoencoder",
    "train_detector",
    "two_afc_score",
]

lazy_exports(__name__)

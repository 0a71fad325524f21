"""Image quality: scores of pictures (CLIP-IQA, QualiCLIP), distances from a reference (LPIPS) and of sets (CMMD),
detectors of generated pictures, and enhancers of backlit ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.quality.distance.lpips import LPIPS as LPIPS
    from binderclip.quality.distance.two_afc import shift_flip_rate as shift_flip_rate
    from binderclip.quality.distance.two_afc import two_afc_score as two_afc_score
    from binderclip.quality.enhance.backlit import BacklitEnhancer as BacklitEnhancer
    from binderclip.quality.enhance.backlit import EnhancerFit as EnhancerFit
    from binderclip.quality.enhance.clip_lit import CLIPLIT as CLIPLIT
    from binderclip.quality.enhance.discriminators import FeatureDiscriminator as FeatureDiscriminator
    from binderclip.quality.enhance.discriminators import PromptPairDiscriminator as PromptPairDiscriminator
    from binderclip.quality.enhance.files import ENHANCERS as ENHANCERS
    from binderclip.quality.enhance.files import create_enhancer as create_enhancer
    from binderclip.quality.enhance.files import load_enhancer as load_enhancer
    from binderclip.quality.enhance.files import save_enhancer as save_enhancer
    from binderclip.quality.enhance.illumination import IlluminationNet as IlluminationNet
    from binderclip.quality.enhance.light_prompts import LatentPromptGuidance as LatentPromptGuidance
    from binderclip.quality.enhance.light_prompts import LearnedLightPrompts as LearnedLightPrompts
    from binderclip.quality.enhance.light_prompts import LightWords as LightWords
    from binderclip.quality.enhance.middle_maps import MiddleMaps as MiddleMaps
    from binderclip.quality.enhance.rave import RAVE as RAVE
    from binderclip.quality.enhance.residual import ResidualVector as ResidualVector
    from binderclip.quality.enhance.rrdb import RRDBNet as RRDBNet
    from binderclip.quality.enhance.sfd import SFD as SFD
    from binderclip.quality.enhance.sfd import SFDIQA as SFDIQA
    from binderclip.quality.forensics.aide import AIDE as AIDE
    from binderclip.quality.forensics.aide import NoiseExpert as NoiseExpert
    from binderclip.quality.forensics.calibration import false_alarm_threshold as false_alarm_threshold
    from binderclip.quality.forensics.deeclip import DeeCLIP as DeeCLIP
    from binderclip.quality.forensics.detector import Detector as Detector
    from binderclip.quality.forensics.detector import DetectorOutput as DetectorOutput
    from binderclip.quality.forensics.files import DETECTORS as DETECTORS
    from binderclip.quality.forensics.files import create_detector as create_detector
    from binderclip.quality.forensics.files import load_detector as load_detector
    from binderclip.quality.forensics.files import save_detector as save_detector
    from binderclip.quality.forensics.generators import CopyingAutoencoder as CopyingAutoencoder
    from binderclip.quality.forensics.generators import train_autoencoder as train_autoencoder
    from binderclip.quality.forensics.linear import LinearDetector as LinearDetector
    from binderclip.quality.forensics.noise import NoiseDetector as NoiseDetector
    from binderclip.quality.forensics.panoptic import PanopticPatchDetector as PanopticPatchDetector
    from binderclip.quality.forensics.training import DetectorBatch as DetectorBatch
    from binderclip.quality.forensics.training import fit_detector as fit_detector
    from binderclip.quality.forensics.training import train_detector as train_detector
    from binderclip.quality.frechet import frechet_distance as frechet_distance
    from binderclip.quality.methods import METHODS as METHODS
    from binderclip.quality.methods import create_metric as create_metric
    from binderclip.quality.mmd import PermutationTest as PermutationTest
    from binderclip.quality.mmd import mmd_bootstrap as mmd_bootstrap
    from binderclip.quality.mmd import mmd_permutation_test as mmd_permutation_test
    from binderclip.quality.mmd import mmd_rbf as mmd_rbf
    from binderclip.quality.score.agreement import Agreement as Agreement
    from binderclip.quality.score.agreement import agreement as agreement
    from binderclip.quality.score.blind import BlindQuality as BlindQuality
    from binderclip.quality.score.clipiqa import CLIPIQA as CLIPIQA
    from binderclip.quality.score.clipiqa import ENSEMBLE as ENSEMBLE
    from binderclip.quality.score.clipiqa import CLIPIQAPlus as CLIPIQAPlus
    from binderclip.quality.score.embedding import NativeEmbedding as NativeEmbedding
    from binderclip.quality.score.picture_score import QualityScores as QualityScores
    from binderclip.quality.score.prompt_quality import PAIRS as PAIRS
    from binderclip.quality.score.prompt_quality import PromptQuality as PromptQuality
    from binderclip.quality.score.qboost import PromptEnsemble as PromptEnsemble
    from binderclip.quality.score.qboost import PromptWords as PromptWords
    from binderclip.quality.score.qboost import TriadicScore as TriadicScore
    from binderclip.quality.score.qboost import WordLogitScorer as WordLogitScorer
    from binderclip.quality.score.qualiclip import ANTONYMS as ANTONYMS
    from binderclip.quality.score.qualiclip import QualiCLIP as QualiCLIP
    from binderclip.quality.set_distance import CMMD as CMMD
    from binderclip.quality.set_distance import FrechetDistance as FrechetDistance
    from binderclip.quality.set_distance import SetDistance as SetDistance
    from binderclip.quality.set_distance import SetScore as SetScore

lazy_exports(__name__)

"""Image quality: scores of pictures (CLIP-IQA, QualiCLIP), distances from a reference (LPIPS), and of sets (CMMD)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.quality.distance.lpips import LPIPS
    from binderclip.quality.distance.two_afc import shift_flip_rate, two_afc_score
    from binderclip.quality.enhance.discriminators import FeatureDiscriminator, PromptPairDiscriminator
    from binderclip.quality.enhance.middle_maps import MiddleMaps
    from binderclip.quality.enhance.rrdb import RRDBNet
    from binderclip.quality.enhance.sfd import SFD, SFDIQA
    from binderclip.quality.frechet import frechet_distance
    from binderclip.quality.methods import METHODS, create_metric
    from binderclip.quality.mmd import PermutationTest, mmd_bootstrap, mmd_permutation_test, mmd_rbf
    from binderclip.quality.score.agreement import Agreement, agreement
    from binderclip.quality.score.clipiqa import CLIPIQA, ENSEMBLE, CLIPIQAPlus
    from binderclip.quality.score.embedding import NativeEmbedding
    from binderclip.quality.score.prompt_quality import PAIRS, PromptQuality, QualityScores
    from binderclip.quality.score.qboost import PromptEnsemble, PromptWords, TriadicScore, WordLogitScorer
    from binderclip.quality.score.qualiclip import ANTONYMS, QualiCLIP
    from binderclip.quality.set_distance import CMMD, FrechetDistance, SetDistance, SetScore

__all__ = [
    "ANTONYMS",
    "CLIPIQA",
    "CMMD",
    "ENSEMBLE",
    "LPIPS",
    "METHODS",
    "PAIRS",
    "SFD",
    "SFDIQA",
    "Agreement",
    "CLIPIQAPlus",
    "FeatureDiscriminator",
    "FrechetDistance",
    "MiddleMaps",
    "NativeEmbedding",
    "PermutationTest",
    "PromptEnsemble",
    "PromptPairDiscriminator",
    "PromptQuality",
    "PromptWords",
    "QualiCLIP",
    "QualityScores",
    "RRDBNet",
    "SetDistance",
    "SetScore",
    "TriadicScore",
    "WordLogitScorer",
    "agreement",
    "create_metric",
    "frechet_distance",
    "mmd_bootstrap",
    "mmd_permutation_test",
    "mmd_rbf",
    "shift_flip_rate",
    "two_afc_score",
]

lazy_exports(__name__)

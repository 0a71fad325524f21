"""One sentence for a whole folder: what a task means in each picture, and its mask (GenSAM, INT, SLIP, Zip)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.maps import unit_range
    from binderclip.segment.task.candidates import (
        CandidateMasks,
        Candidates,
        EveryMask,
        FromPoints,
        FromWordBoxes,
        Look,
        contained_dropped,
        grown_box,
        heatmap_points,
    )
    from binderclip.segment.task.choosing import (
        BestScore,
        Chooser,
        ClosestToMean,
        LastRound,
        MostSimilar,
        SimilarityWeighted,
        cutouts,
    )
    from binderclip.segment.task.erasing import filled_from_border
    from binderclip.segment.task.fragments import (
        FragmentBoxes,
        UnionOfMasks,
        best_first,
        fragment_boxes,
        lloyd,
        middle_features,
    )
    from binderclip.segment.task.language import ChatEndpoint, QuestionChain, questions
    from binderclip.segment.task.localise import Localiser, WordBoxes, WordMaps, consensus_heatmap
    from binderclip.segment.task.methods import (
        TASK_METHODS,
        gensam,
        instance_mining,
        region_retrieval,
        zip_instances,
    )
    from binderclip.segment.task.phrase import NounPhrase, noun_phrases
    from binderclip.segment.task.projected import ProjectedModel, ResidualHead
    from binderclip.segment.task.task_segmenter import Loop, TaskGenericSegmenter, TaskMask, TaskRound
    from binderclip.segment.task.vocabulary import bundled_words, meant_words
    from binderclip.segment.task.words import (
        Chains,
        FixedWords,
        Hypothesis,
        PatchHypotheses,
        VocabularyGate,
        VocabularyScorer,
        WordProposer,
        vocabulary_chain,
    )

__all__ = [
    "TASK_METHODS",
    "BestScore",
    "CandidateMasks",
    "Candidates",
    "Chains",
    "ChatEndpoint",
    "Chooser",
    "ClosestToMean",
    "EveryMask",
    "FixedWords",
    "FragmentBoxes",
    "FromPoints",
    "FromWordBoxes",
    "Hypothesis",
    "LastRound",
    "Localiser",
    "Look",
    "Loop",
    "MostSimilar",
    "NounPhrase",
    "PatchHypotheses",
    "ProjectedModel",
    "QuestionChain",
    "ResidualHead",
    "SimilarityWeighted",
    "TaskGenericSegmenter",
    "TaskMask",
    "TaskRound",
    "UnionOfMasks",
    "VocabularyGate",
    "VocabularyScorer",
    "WordBoxes",
    "WordMaps",
    "WordProposer",
    "best_first",
    "bundled_words",
    "consensus_heatmap",
    "contained_dropped",
    "cutouts",
    "filled_from_border",
    "fragment_boxes",
    "gensam",
    "grown_box",
    "heatmap_points",
    "instance_mining",
    "lloyd",
    "meant_words",
    "middle_features",
    "noun_phrases",
    "questions",
    "region_retrieval",
    "unit_range",
    "vocabulary_chain",
    "zip_instances",
]

lazy_exports(__name__)

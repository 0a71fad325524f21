"""One sentence for a whole folder: what a task means in each picture, and its mask (GenSAM, INT, SLIP, Zip)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.maps import unit_range as unit_range
    from binderclip.segment.task.candidates import CandidateMasks as CandidateMasks
    from binderclip.segment.task.candidates import Candidates as Candidates
    from binderclip.segment.task.candidates import EveryMask as EveryMask
    from binderclip.segment.task.candidates import FromPoints as FromPoints
    from binderclip.segment.task.candidates import FromWordBoxes as FromWordBoxes
    from binderclip.segment.task.candidates import Look as Look
    from binderclip.segment.task.candidates import contained_dropped as contained_dropped
    from binderclip.segment.task.candidates import grown_box as grown_box
    from binderclip.segment.task.candidates import heatmap_points as heatmap_points
    from binderclip.segment.task.choosing import BestScore as BestScore
    from binderclip.segment.task.choosing import Chooser as Chooser
    from binderclip.segment.task.choosing import ClosestToMean as ClosestToMean
    from binderclip.segment.task.choosing import LastRound as LastRound
    from binderclip.segment.task.choosing import MostSimilar as MostSimilar
    from binderclip.segment.task.choosing import SimilarityWeighted as SimilarityWeighted
    from binderclip.segment.task.choosing import cutouts as cutouts
    from binderclip.segment.task.erasing import filled_from_border as filled_from_border
    from binderclip.segment.task.fragments import FragmentBoxes as FragmentBoxes
    from binderclip.segment.task.fragments import UnionOfMasks as UnionOfMasks
    from binderclip.segment.task.fragments import best_first as best_first
    from binderclip.segment.task.fragments import fragment_boxes as fragment_boxes
    from binderclip.segment.task.fragments import lloyd as lloyd
    from binderclip.segment.task.fragments import middle_features as middle_features
    from binderclip.segment.task.language import ChatEndpoint as ChatEndpoint
    from binderclip.segment.task.language import QuestionChain as QuestionChain
    from binderclip.segment.task.language import questions as questions
    from binderclip.segment.task.localise import Localiser as Localiser
    from binderclip.segment.task.localise import WordBoxes as WordBoxes
    from binderclip.segment.task.localise import WordMaps as WordMaps
    from binderclip.segment.task.localise import consensus_heatmap as consensus_heatmap
    from binderclip.segment.task.methods import TASK_METHODS as TASK_METHODS
    from binderclip.segment.task.methods import gensam as gensam
    from binderclip.segment.task.methods import instance_mining as instance_mining
    from binderclip.segment.task.methods import region_retrieval as region_retrieval
    from binderclip.segment.task.methods import zip_instances as zip_instances
    from binderclip.segment.task.phrase import NounPhrase as NounPhrase
    from binderclip.segment.task.phrase import noun_phrases as noun_phrases
    from binderclip.segment.task.projected import ProjectedModel as ProjectedModel
    from binderclip.segment.task.projected import ResidualHead as ResidualHead
    from binderclip.segment.task.task_segmenter import Loop as Loop
    from binderclip.segment.task.task_segmenter import TaskGenericSegmenter as TaskGenericSegmenter
    from binderclip.segment.task.task_segmenter import TaskMask as TaskMask
    from binderclip.segment.task.task_segmenter import TaskRound as TaskRound
    from binderclip.segment.task.vocabulary import bundled_words as bundled_words
    from binderclip.segment.task.vocabulary import meant_words as meant_words
    from binderclip.segment.task.words import Chains as Chains
    from binderclip.segment.task.words import FixedWords as FixedWords
    from binderclip.segment.task.words import Hypothesis as Hypothesis
    from binderclip.segment.task.words import PatchHypotheses as PatchHypotheses
    from binderclip.segment.task.words import VocabularyGate as VocabularyGate
    from binderclip.segment.task.words import VocabularyScorer as VocabularyScorer
    from binderclip.segment.task.words import WordProposer as WordProposer
    from binderclip.segment.task.words import vocabulary_chain as vocabulary_chain

lazy_exports(__name__)

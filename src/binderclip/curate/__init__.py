"""Data curation: signals, statistics and rules over pools of image-text pairs, composed into a selection of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.curate.compare import FilterComparison as FilterComparison
    from binderclip.curate.compare import SwappedSample as SwappedSample
    from binderclip.curate.compare import compare_filters as compare_filters
    from binderclip.curate.embed import EmbedReport as EmbedReport
    from binderclip.curate.embed import embed_shards as embed_shards
    from binderclip.curate.engine.columns import RaggedColumn as RaggedColumn
    from binderclip.curate.engine.keys import hash_uniform as hash_uniform
    from binderclip.curate.engine.keys import keys_of as keys_of
    from binderclip.curate.engine.keys import uids_of as uids_of
    from binderclip.curate.engine.kmeans import spherical_kmeans as spherical_kmeans
    from binderclip.curate.engine.report import BoundarySample as BoundarySample
    from binderclip.curate.engine.report import CurationReport as CurationReport
    from binderclip.curate.engine.report import StageReport as StageReport
    from binderclip.curate.engine.rule import HashDraws as HashDraws
    from binderclip.curate.engine.rule import KeepRule as KeepRule
    from binderclip.curate.engine.rule import PoolStatistic as PoolStatistic
    from binderclip.curate.engine.rule import SampleSignal as SampleSignal
    from binderclip.curate.engine.rule import computed_columns as computed_columns
    from binderclip.curate.engine.selection import KeySelection as KeySelection
    from binderclip.curate.engine.shard import SampleTable as SampleTable
    from binderclip.curate.engine.shard import Shard as Shard
    from binderclip.curate.engine.store import ColumnStore as ColumnStore
    from binderclip.curate.engine.tables import DatasetTable as DatasetTable
    from binderclip.curate.engine.tables import MetadataTable as MetadataTable
    from binderclip.curate.engine.tables import TarTable as TarTable
    from binderclip.curate.engine.tables import filtered as filtered
    from binderclip.curate.engine.tables import open_table as open_table
    from binderclip.curate.export import check_kept_folder as check_kept_folder
    from binderclip.curate.export import write_decisions as write_decisions
    from binderclip.curate.export import write_kept_shards as write_kept_shards
    from binderclip.curate.methods import METHODS as METHODS
    from binderclip.curate.methods import SUMMARIES as SUMMARIES
    from binderclip.curate.methods import read_concepts as read_concepts
    from binderclip.curate.pipeline import Curated as Curated
    from binderclip.curate.pipeline import CurationPipeline as CurationPipeline
    from binderclip.curate.plan import AssumedPool as AssumedPool
    from binderclip.curate.plan import plan_curation as plan_curation
    from binderclip.curate.presets import PRESETS as PRESETS
    from binderclip.curate.presets import drop_embedded_text as drop_embedded_text
    from binderclip.curate.recipe import CurationRecipe as CurationRecipe
    from binderclip.curate.recipe import parse_recipe as parse_recipe
    from binderclip.curate.recipe import read_recipe as read_recipe
    from binderclip.curate.rules.balance import BernoulliAny as BernoulliAny
    from binderclip.curate.rules.balance import MetadataBalancer as MetadataBalancer
    from binderclip.curate.rules.balance import entry_probabilities as entry_probabilities
    from binderclip.curate.rules.balance import keep_probabilities as keep_probabilities
    from binderclip.curate.rules.balance import tail_threshold as tail_threshold
    from binderclip.curate.rules.combine import AnyOf as AnyOf
    from binderclip.curate.rules.combine import NoneOf as NoneOf
    from binderclip.curate.rules.density import ClusterPruner as ClusterPruner
    from binderclip.curate.rules.density import cluster_complexity as cluster_complexity
    from binderclip.curate.rules.density import quota_qp as quota_qp
    from binderclip.curate.rules.duplicates import SemanticDuplicates as SemanticDuplicates
    from binderclip.curate.rules.duplicates import TargetClusters as TargetClusters
    from binderclip.curate.rules.groups import CapPerGroup as CapPerGroup
    from binderclip.curate.rules.groups import Membership as Membership
    from binderclip.curate.rules.groups import OnePerGroup as OnePerGroup
    from binderclip.curate.rules.groups import TailTrimming as TailTrimming
    from binderclip.curate.rules.ranks import MeanRankTopFraction as MeanRankTopFraction
    from binderclip.curate.rules.scores import ScoreThreshold as ScoreThreshold
    from binderclip.curate.rules.scores import ScoreTopFraction as ScoreTopFraction
    from binderclip.curate.signals.cleaning import CLEANERS as CLEANERS
    from binderclip.curate.signals.cleaning import strip_numbers as strip_numbers
    from binderclip.curate.signals.concepts import concept_frequency as concept_frequency
    from binderclip.curate.signals.concepts import word_forms as word_forms
    from binderclip.curate.signals.embedded_text import EmbeddedTextSignal as EmbeddedTextSignal
    from binderclip.curate.signals.embedded_text import ReadText as ReadText
    from binderclip.curate.signals.embedded_text import cooccurring_text_rate as cooccurring_text_rate
    from binderclip.curate.signals.scores import CaptionEmbedding as CaptionEmbedding
    from binderclip.curate.signals.scores import ClipScore as ClipScore
    from binderclip.curate.signals.scores import ImageEmbedding as ImageEmbedding
    from binderclip.curate.signals.scores import LateModel as LateModel
    from binderclip.curate.signals.scores import MaskedTextScore as MaskedTextScore
    from binderclip.curate.signals.scores import model_signals as model_signals
    from binderclip.curate.signals.substrings import SubstringMatcher as SubstringMatcher
    from binderclip.curate.signals.substrings import build_metadata as build_metadata
    from binderclip.curate.signals.table import SIGNALS as SIGNALS
    from binderclip.curate.signals.text_reader import TextReader as TextReader
    from binderclip.curate.signals.text_removal import TextRemoval as TextRemoval
    from binderclip.curate.signals.text_removal import TextRemovalScore as TextRemovalScore

lazy_exports(__name__)

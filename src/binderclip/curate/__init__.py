"""Data curation: signals, statistics and rules over pools of image-text pairs, composed into a selection of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.curate.compare import FilterComparison, SwappedSample, compare_filters
    from binderclip.curate.embed import EmbedReport, embed_shards
    from binderclip.curate.engine.columns import RaggedColumn
    from binderclip.curate.engine.keys import hash_uniform, keys_of, uids_of
    from binderclip.curate.engine.kmeans import spherical_kmeans
    from binderclip.curate.engine.report import BoundarySample, CurationReport, StageReport
    from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, SampleSignal, computed_columns
    from binderclip.curate.engine.selection import KeySelection
    from binderclip.curate.engine.shard import SampleTable, Shard
    from binderclip.curate.engine.store import ColumnStore
    from binderclip.curate.engine.tables import DatasetTable, MetadataTable, TarTable, filtered, open_table
    from binderclip.curate.export import check_kept_folder, write_decisions, write_kept_shards
    from binderclip.curate.methods import METHODS, SUMMARIES, read_concepts
    from binderclip.curate.pipeline import Curated, CurationPipeline
    from binderclip.curate.plan import AssumedPool, plan_curation
    from binderclip.curate.presets import PRESETS, drop_embedded_text
    from binderclip.curate.recipe import CurationRecipe, parse_recipe, read_recipe
    from binderclip.curate.rules.balance import (
        BernoulliAny,
        MetadataBalancer,
        entry_probabilities,
        keep_probabilities,
        tail_threshold,
    )
    from binderclip.curate.rules.combine import AnyOf, NoneOf
    from binderclip.curate.rules.density import ClusterPruner, cluster_complexity, quota_qp
    from binderclip.curate.rules.duplicates import SemanticDuplicates, TargetClusters
    from binderclip.curate.rules.groups import CapPerGroup, Membership, OnePerGroup, TailTrimming
    from binderclip.curate.rules.ranks import MeanRankTopFraction
    from binderclip.curate.rules.scores import ScoreThreshold, ScoreTopFraction
    from binderclip.curate.signals.cleaning import CLEANERS, strip_numbers
    from binderclip.curate.signals.concepts import concept_frequency, word_forms
    from binderclip.curate.signals.embedded_text import EmbeddedTextSignal, ReadText, cooccurring_text_rate
    from binderclip.curate.signals.scores import (
        CaptionEmbedding,
        ClipScore,
        ImageEmbedding,
        LateModel,
        MaskedTextScore,
        model_signals,
    )
    from binderclip.curate.signals.substrings import SubstringMatcher, build_metadata
    from binderclip.curate.signals.table import SIGNALS
    from binderclip.curate.signals.text_reader import TextReader
    from binderclip.curate.signals.text_removal import TextRemoval, TextRemovalScore

__all__ = [
    "CLEANERS",
    "METHODS",
    "PRESETS",
    "SIGNALS",
    "SUMMARIES",
    "AnyOf",
    "AssumedPool",
    "BernoulliAny",
    "BoundarySample",
    "CapPerGroup",
    "CaptionEmbedding",
    "ClipScore",
    "ClusterPruner",
    "ColumnStore",
    "Curated",
    "CurationPipeline",
    "CurationRecipe",
    "CurationReport",
    "DatasetTable",
    "EmbedReport",
    "EmbeddedTextSignal",
    "FilterComparison",
    "HashDraws",
    "ImageEmbedding",
    "KeepRule",
    "KeySelection",
    "LateModel",
    "MaskedTextScore",
    "MeanRankTopFraction",
    "Membership",
    "MetadataBalancer",
    "MetadataTable",
    "NoneOf",
    "OnePerGroup",
    "PoolStatistic",
    "RaggedColumn",
    "ReadText",
    "SampleSignal",
    "SampleTable",
    "ScoreThreshold",
    "ScoreTopFraction",
    "SemanticDuplicates",
    "Shard",
    "StageReport",
    "SubstringMatcher",
    "SwappedSample",
    "TailTrimming",
    "TarTable",
    "TargetClusters",
    "TextReader",
    "TextRemoval",
    "TextRemovalScore",
    "build_metadata",
    "check_kept_folder",
    "cluster_complexity",
    "compare_filters",
    "computed_columns",
    "concept_frequency",
    "cooccurring_text_rate",
    "drop_embedded_text",
    "embed_shards",
    "entry_probabilities",
    "filtered",
    "hash_uniform",
    "keep_probabilities",
    "keys_of",
    "model_signals",
    "open_table",
    "parse_recipe",
    "plan_curation",
    "quota_qp",
    "read_concepts",
    "read_recipe",
    "spherical_kmeans",
    "strip_numbers",
    "tail_threshold",
    "uids_of",
    "word_forms",
    "write_decisions",
    "write_kept_shards",
]
lazy_exports(__name__)

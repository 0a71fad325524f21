"""Data curation: signals, statistics and rules over pools of image-text pairs, composed into a selection of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.curate.engine.columns import RaggedColumn
    from binderclip.curate.engine.keys import hash_uniform, keys_of, uids_of
    from binderclip.curate.engine.report import BoundarySample, CurationReport, StageReport
    from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, SampleSignal
    from binderclip.curate.engine.selection import KeySelection
    from binderclip.curate.engine.shard import SampleTable, Shard
    from binderclip.curate.engine.store import ColumnStore
    from binderclip.curate.engine.tables import DatasetTable, MetadataTable, TarTable, open_table
    from binderclip.curate.pipeline import Curated, CurationPipeline
    from binderclip.curate.rules.combine import AnyOf, NoneOf
    from binderclip.curate.rules.groups import CapPerGroup, Membership, OnePerGroup
    from binderclip.curate.rules.scores import ScoreThreshold, ScoreTopFraction
    from binderclip.curate.signals.table import SIGNALS

__all__ = [
    "SIGNALS",
    "AnyOf",
    "BoundarySample",
    "CapPerGroup",
    "ColumnStore",
    "Curated",
    "CurationPipeline",
    "CurationReport",
    "DatasetTable",
    "HashDraws",
    "KeepRule",
    "KeySelection",
    "Membership",
    "MetadataTable",
    "NoneOf",
    "OnePerGroup",
    "PoolStatistic",
    "RaggedColumn",
    "SampleSignal",
    "SampleTable",
    "ScoreThreshold",
    "ScoreTopFraction",
    "Shard",
    "StageReport",
    "TarTable",
    "hash_uniform",
    "keys_of",
    "open_table",
    "uids_of",
]
lazy_exports(__name__)

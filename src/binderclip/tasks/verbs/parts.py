"""What the tasks are made of, imported when it is first used: the class of every request, and what carries it out."""

# ruff: noqa: F401 (what carries a task out is exported by the name of the task)
from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.tasks.verbs.adapt.request import AdaptRequest as AdaptRequest
    from binderclip.tasks.verbs.adapt.run import run as adapt
    from binderclip.tasks.verbs.anomaly.request import AnomalyRequest as AnomalyRequest
    from binderclip.tasks.verbs.anomaly.run import run as anomaly
    from binderclip.tasks.verbs.atlas.request import AtlasRequest as AtlasRequest
    from binderclip.tasks.verbs.atlas.run import run as atlas
    from binderclip.tasks.verbs.attack.request import AttackRequest as AttackRequest
    from binderclip.tasks.verbs.attack.run import run as attack
    from binderclip.tasks.verbs.classify.request import ClassifyRequest as ClassifyRequest
    from binderclip.tasks.verbs.classify.run import run as classify
    from binderclip.tasks.verbs.clean.request import CleanRequest as CleanRequest
    from binderclip.tasks.verbs.clean.run import run as clean
    from binderclip.tasks.verbs.click.request import ClickRequest as ClickRequest
    from binderclip.tasks.verbs.click.run import run as click
    from binderclip.tasks.verbs.compress.request import CompressRequest as CompressRequest
    from binderclip.tasks.verbs.compress.run import run as compress
    from binderclip.tasks.verbs.curate.request import CurateRequest as CurateRequest
    from binderclip.tasks.verbs.curate.task import run as curate
    from binderclip.tasks.verbs.descriptions.request import DescriptionsRequest as DescriptionsRequest
    from binderclip.tasks.verbs.descriptions.run import run as descriptions
    from binderclip.tasks.verbs.detect.request import DetectRequest as DetectRequest
    from binderclip.tasks.verbs.detect.task import run as detect
    from binderclip.tasks.verbs.draw.request import DrawRequest as DrawRequest
    from binderclip.tasks.verbs.draw.run import run as draw
    from binderclip.tasks.verbs.duplicates.request import DuplicatesRequest as DuplicatesRequest
    from binderclip.tasks.verbs.duplicates.run import run as duplicates
    from binderclip.tasks.verbs.edges.request import EdgesRequest as EdgesRequest
    from binderclip.tasks.verbs.edges.run import run as edges
    from binderclip.tasks.verbs.edit.request import EditRequest as EditRequest
    from binderclip.tasks.verbs.edit.run import run as edit
    from binderclip.tasks.verbs.embed.request import EmbedRequest as EmbedRequest
    from binderclip.tasks.verbs.embed.run import run as embed
    from binderclip.tasks.verbs.enhance.request import EnhanceRequest as EnhanceRequest
    from binderclip.tasks.verbs.enhance.run import run as enhance
    from binderclip.tasks.verbs.erase.request import EraseRequest as EraseRequest
    from binderclip.tasks.verbs.erase.run import run as erase
    from binderclip.tasks.verbs.evaluate.request import EvaluateRequest as EvaluateRequest
    from binderclip.tasks.verbs.evaluate.run import run as evaluate
    from binderclip.tasks.verbs.explain.request import ExplainRequest as ExplainRequest
    from binderclip.tasks.verbs.explain.task import run as explain
    from binderclip.tasks.verbs.foveate.request import FoveateRequest as FoveateRequest
    from binderclip.tasks.verbs.foveate.run import run as foveate
    from binderclip.tasks.verbs.generate.request import GenerateRequest as GenerateRequest
    from binderclip.tasks.verbs.generate.run import run as generate
    from binderclip.tasks.verbs.geometry.request import GeometryRequest as GeometryRequest
    from binderclip.tasks.verbs.geometry.run import run as geometry
    from binderclip.tasks.verbs.heads.request import HeadsRequest as HeadsRequest
    from binderclip.tasks.verbs.heads.run import run as heads
    from binderclip.tasks.verbs.inpaint.request import InpaintRequest as InpaintRequest
    from binderclip.tasks.verbs.inpaint.run import run as inpaint
    from binderclip.tasks.verbs.interpolate.request import InterpolateRequest as InterpolateRequest
    from binderclip.tasks.verbs.interpolate.run import run as interpolate
    from binderclip.tasks.verbs.landscape.request import LandscapeRequest as LandscapeRequest
    from binderclip.tasks.verbs.landscape.run import run as landscape
    from binderclip.tasks.verbs.locate.request import LocateRequest as LocateRequest
    from binderclip.tasks.verbs.locate.run import run as locate
    from binderclip.tasks.verbs.masks.request import MasksRequest as MasksRequest
    from binderclip.tasks.verbs.masks.run import run as masks
    from binderclip.tasks.verbs.personalize.request import PersonalizeRequest as PersonalizeRequest
    from binderclip.tasks.verbs.personalize.run import run as personalize
    from binderclip.tasks.verbs.probe.request import ProbeRequest as ProbeRequest
    from binderclip.tasks.verbs.probe.run import run as probe
    from binderclip.tasks.verbs.quality.request import QualityRequest as QualityRequest
    from binderclip.tasks.verbs.quality.run import run as quality
    from binderclip.tasks.verbs.reconstruct.request import ReconstructRequest as ReconstructRequest
    from binderclip.tasks.verbs.reconstruct.run import run as reconstruct
    from binderclip.tasks.verbs.search.index import run as search_index
    from binderclip.tasks.verbs.search.query import run as search_query
    from binderclip.tasks.verbs.search.request import SearchIndexRequest as SearchIndexRequest
    from binderclip.tasks.verbs.search.request import SearchQueryRequest as SearchQueryRequest
    from binderclip.tasks.verbs.segment.request import SegmentRequest as SegmentRequest
    from binderclip.tasks.verbs.segment.task import run as segment
    from binderclip.tasks.verbs.segment_evaluate.request import SegmentEvaluateRequest as SegmentEvaluateRequest
    from binderclip.tasks.verbs.segment_evaluate.run import run as segment_evaluate
    from binderclip.tasks.verbs.segment_example.request import SegmentExampleRequest as SegmentExampleRequest
    from binderclip.tasks.verbs.segment_example.run import run as segment_example
    from binderclip.tasks.verbs.segment_head.request import SegmentHeadRequest as SegmentHeadRequest
    from binderclip.tasks.verbs.segment_head.run import run as segment_head
    from binderclip.tasks.verbs.segment_presets.request import SegmentPresetsRequest as SegmentPresetsRequest
    from binderclip.tasks.verbs.segment_presets.run import run as segment_presets
    from binderclip.tasks.verbs.segment_task.request import SegmentTaskRequest as SegmentTaskRequest
    from binderclip.tasks.verbs.segment_task.run import run as segment_task
    from binderclip.tasks.verbs.spikes.request import SpikesRequest as SpikesRequest
    from binderclip.tasks.verbs.spikes.run import run as spikes
    from binderclip.tasks.verbs.trace.request import TraceRequest as TraceRequest
    from binderclip.tasks.verbs.trace.run import run as trace
    from binderclip.tasks.verbs.train.request import TrainRequest as TrainRequest
    from binderclip.tasks.verbs.train.task import run as train
    from binderclip.tasks.verbs.translate.request import TranslateRequest as TranslateRequest
    from binderclip.tasks.verbs.translate.run import run as translate
    from binderclip.tasks.verbs.vectorize.request import VectorizeRequest as VectorizeRequest
    from binderclip.tasks.verbs.vectorize.run import run as vectorize

lazy_exports(__name__)

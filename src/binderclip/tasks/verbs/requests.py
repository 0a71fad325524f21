"""What the tasks are asked: the class of every request, imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.tasks.verbs.adapt.request import AdaptRequest as AdaptRequest
    from binderclip.tasks.verbs.anomaly.request import AnomalyRequest as AnomalyRequest
    from binderclip.tasks.verbs.attack.request import AttackRequest as AttackRequest
    from binderclip.tasks.verbs.classify.request import ClassifyRequest as ClassifyRequest
    from binderclip.tasks.verbs.click.request import ClickRequest as ClickRequest
    from binderclip.tasks.verbs.curate.request import CurateRequest as CurateRequest
    from binderclip.tasks.verbs.descriptions.request import DescriptionsRequest as DescriptionsRequest
    from binderclip.tasks.verbs.detect.request import DetectRequest as DetectRequest
    from binderclip.tasks.verbs.embed.request import EmbedRequest as EmbedRequest
    from binderclip.tasks.verbs.enhance.request import EnhanceRequest as EnhanceRequest
    from binderclip.tasks.verbs.evaluate.request import EvaluateRequest as EvaluateRequest
    from binderclip.tasks.verbs.explain.request import ExplainRequest as ExplainRequest
    from binderclip.tasks.verbs.geometry.request import GeometryRequest as GeometryRequest
    from binderclip.tasks.verbs.heads.request import HeadsRequest as HeadsRequest
    from binderclip.tasks.verbs.locate.request import LocateRequest as LocateRequest
    from binderclip.tasks.verbs.masks.request import MasksRequest as MasksRequest
    from binderclip.tasks.verbs.probe.request import ProbeRequest as ProbeRequest
    from binderclip.tasks.verbs.quality.request import QualityRequest as QualityRequest
    from binderclip.tasks.verbs.search.request import SearchIndexRequest as SearchIndexRequest
    from binderclip.tasks.verbs.search.request import SearchQueryRequest as SearchQueryRequest
    from binderclip.tasks.verbs.segment.request import SegmentRequest as SegmentRequest
    from binderclip.tasks.verbs.segment_evaluate.request import SegmentEvaluateRequest as SegmentEvaluateRequest
    from binderclip.tasks.verbs.segment_example.request import SegmentExampleRequest as SegmentExampleRequest
    from binderclip.tasks.verbs.segment_head.request import SegmentHeadRequest as SegmentHeadRequest
    from binderclip.tasks.verbs.segment_presets.request import SegmentPresetsRequest as SegmentPresetsRequest
    from binderclip.tasks.verbs.segment_task.request import SegmentTaskRequest as SegmentTaskRequest
    from binderclip.tasks.verbs.spikes.request import SpikesRequest as SpikesRequest
    from binderclip.tasks.verbs.trace.request import TraceRequest as TraceRequest
    from binderclip.tasks.verbs.train.request import TrainRequest as TrainRequest

lazy_exports(__name__)

"""Every task as a function: a line each, of what it is asked and what carries it out."""

from __future__ import annotations

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs import parts

adapt = VerbTask.later(lambda: parts.AdaptRequest, lambda: parts.adapt)
anomaly = VerbTask.later(lambda: parts.AnomalyRequest, lambda: parts.anomaly)
attack = VerbTask.later(lambda: parts.AttackRequest, lambda: parts.attack)
classify = VerbTask.later(lambda: parts.ClassifyRequest, lambda: parts.classify)
click = VerbTask.later(lambda: parts.ClickRequest, lambda: parts.click)
compress = VerbTask.later(lambda: parts.CompressRequest, lambda: parts.compress)
curate = VerbTask.later(lambda: parts.CurateRequest, lambda: parts.curate)
descriptions = VerbTask.later(lambda: parts.DescriptionsRequest, lambda: parts.descriptions)
detect = VerbTask.later(lambda: parts.DetectRequest, lambda: parts.detect)
embed = VerbTask.later(lambda: parts.EmbedRequest, lambda: parts.embed)
enhance = VerbTask.later(lambda: parts.EnhanceRequest, lambda: parts.enhance)
evaluate = VerbTask.later(lambda: parts.EvaluateRequest, lambda: parts.evaluate)
explain = VerbTask.later(lambda: parts.ExplainRequest, lambda: parts.explain)
geometry = VerbTask.later(lambda: parts.GeometryRequest, lambda: parts.geometry)
heads = VerbTask.later(lambda: parts.HeadsRequest, lambda: parts.heads)
interpolate = VerbTask.later(lambda: parts.InterpolateRequest, lambda: parts.interpolate)
landscape = VerbTask.later(lambda: parts.LandscapeRequest, lambda: parts.landscape)
locate = VerbTask.later(lambda: parts.LocateRequest, lambda: parts.locate)
masks = VerbTask.later(lambda: parts.MasksRequest, lambda: parts.masks)
probe = VerbTask.later(lambda: parts.ProbeRequest, lambda: parts.probe)
quality = VerbTask.later(lambda: parts.QualityRequest, lambda: parts.quality)
search_index = VerbTask.later(lambda: parts.SearchIndexRequest, lambda: parts.search_index)
search_query = VerbTask.later(lambda: parts.SearchQueryRequest, lambda: parts.search_query)
segment = VerbTask.later(lambda: parts.SegmentRequest, lambda: parts.segment)
segment_evaluate = VerbTask.later(lambda: parts.SegmentEvaluateRequest, lambda: parts.segment_evaluate)
segment_example = VerbTask.later(lambda: parts.SegmentExampleRequest, lambda: parts.segment_example)
segment_head = VerbTask.later(lambda: parts.SegmentHeadRequest, lambda: parts.segment_head)
segment_presets = VerbTask.later(lambda: parts.SegmentPresetsRequest, lambda: parts.segment_presets)
segment_task = VerbTask.later(lambda: parts.SegmentTaskRequest, lambda: parts.segment_task)
spikes = VerbTask.later(lambda: parts.SpikesRequest, lambda: parts.spikes)
trace = VerbTask.later(lambda: parts.TraceRequest, lambda: parts.trace)
train = VerbTask.later(lambda: parts.TrainRequest, lambda: parts.train)

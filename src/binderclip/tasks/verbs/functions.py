"""Every task as a function: a line each, of what it is asked and what carries it out."""

from __future__ import annotations

from binderclip.tasks.request import VerbTask
from binderclip.tasks.verbs import requests, runs

adapt = VerbTask.later(lambda: requests.AdaptRequest, lambda: runs.adapt)
anomaly = VerbTask.later(lambda: requests.AnomalyRequest, lambda: runs.anomaly)
attack = VerbTask.later(lambda: requests.AttackRequest, lambda: runs.attack)
classify = VerbTask.later(lambda: requests.ClassifyRequest, lambda: runs.classify)
click = VerbTask.later(lambda: requests.ClickRequest, lambda: runs.click)
curate = VerbTask.later(lambda: requests.CurateRequest, lambda: runs.curate)
descriptions = VerbTask.later(lambda: requests.DescriptionsRequest, lambda: runs.descriptions)
detect = VerbTask.later(lambda: requests.DetectRequest, lambda: runs.detect)
embed = VerbTask.later(lambda: requests.EmbedRequest, lambda: runs.embed)
enhance = VerbTask.later(lambda: requests.EnhanceRequest, lambda: runs.enhance)
evaluate = VerbTask.later(lambda: requests.EvaluateRequest, lambda: runs.evaluate)
explain = VerbTask.later(lambda: requests.ExplainRequest, lambda: runs.explain)
geometry = VerbTask.later(lambda: requests.GeometryRequest, lambda: runs.geometry)
heads = VerbTask.later(lambda: requests.HeadsRequest, lambda: runs.heads)
locate = VerbTask.later(lambda: requests.LocateRequest, lambda: runs.locate)
masks = VerbTask.later(lambda: requests.MasksRequest, lambda: runs.masks)
probe = VerbTask.later(lambda: requests.ProbeRequest, lambda: runs.probe)
quality = VerbTask.later(lambda: requests.QualityRequest, lambda: runs.quality)
search_index = VerbTask.later(lambda: requests.SearchIndexRequest, lambda: runs.search_index)
search_query = VerbTask.later(lambda: requests.SearchQueryRequest, lambda: runs.search_query)
segment = VerbTask.later(lambda: requests.SegmentRequest, lambda: runs.segment)
segment_evaluate = VerbTask.later(lambda: requests.SegmentEvaluateRequest, lambda: runs.segment_evaluate)
segment_example = VerbTask.later(lambda: requests.SegmentExampleRequest, lambda: runs.segment_example)
segment_head = VerbTask.later(lambda: requests.SegmentHeadRequest, lambda: runs.segment_head)
segment_presets = VerbTask.later(lambda: requests.SegmentPresetsRequest, lambda: runs.segment_presets)
segment_task = VerbTask.later(lambda: requests.SegmentTaskRequest, lambda: runs.segment_task)
spikes = VerbTask.later(lambda: requests.SpikesRequest, lambda: runs.spikes)
trace = VerbTask.later(lambda: requests.TraceRequest, lambda: runs.trace)
train = VerbTask.later(lambda: requests.TrainRequest, lambda: runs.train)

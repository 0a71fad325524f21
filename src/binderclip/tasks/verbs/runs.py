"""What carries the tasks out: from a request to its result, imported when it is first used."""

# ruff: noqa: F401 (they are exported, by the names of their tasks)
from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.tasks.verbs.adapt.run import run as adapt
    from binderclip.tasks.verbs.anomaly.run import run as anomaly
    from binderclip.tasks.verbs.attack.run import run as attack
    from binderclip.tasks.verbs.classify.run import run as classify
    from binderclip.tasks.verbs.click.run import run as click
    from binderclip.tasks.verbs.curate.task import run as curate
    from binderclip.tasks.verbs.descriptions.run import run as descriptions
    from binderclip.tasks.verbs.detect.task import run as detect
    from binderclip.tasks.verbs.embed.run import run as embed
    from binderclip.tasks.verbs.enhance.run import run as enhance
    from binderclip.tasks.verbs.evaluate.run import run as evaluate
    from binderclip.tasks.verbs.explain.task import run as explain
    from binderclip.tasks.verbs.geometry.run import run as geometry
    from binderclip.tasks.verbs.heads.run import run as heads
    from binderclip.tasks.verbs.locate.run import run as locate
    from binderclip.tasks.verbs.masks.run import run as masks
    from binderclip.tasks.verbs.probe.run import run as probe
    from binderclip.tasks.verbs.quality.run import run as quality
    from binderclip.tasks.verbs.search.index import run as search_index
    from binderclip.tasks.verbs.search.query import run as search_query
    from binderclip.tasks.verbs.segment.task import run as segment
    from binderclip.tasks.verbs.segment_evaluate.run import run as segment_evaluate
    from binderclip.tasks.verbs.segment_example.run import run as segment_example
    from binderclip.tasks.verbs.segment_head.run import run as segment_head
    from binderclip.tasks.verbs.segment_presets.run import run as segment_presets
    from binderclip.tasks.verbs.segment_task.run import run as segment_task
    from binderclip.tasks.verbs.spikes.run import run as spikes
    from binderclip.tasks.verbs.trace.run import run as trace
    from binderclip.tasks.verbs.train.task import run as train

lazy_exports(__name__)

"""What the verbs do, behind the command line and the workbench alike.

`from binderclip.tasks import attack` is a function whose arguments are the options of `binderclip attack`:

    result = attack(model="small", images=["cat.jpg"], labels=["a cat", "a dog"])
    print(result.table())

`attack.request` is the class of its requests, `attack.run(request, progress=..., stop=...)` carries one out and says
what it does as events (`binderclip.tasks.events`). What a verb writes it writes here, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.tasks.request import Option as Option
    from binderclip.tasks.request import Request as Request
    from binderclip.tasks.request import VerbResult as VerbResult
    from binderclip.tasks.request import VerbTask as VerbTask
    from binderclip.tasks.verbs.adapt.task import adapt as adapt
    from binderclip.tasks.verbs.anomaly.task import anomaly as anomaly
    from binderclip.tasks.verbs.attack.task import attack as attack
    from binderclip.tasks.verbs.classify.task import classify as classify
    from binderclip.tasks.verbs.click.task import click as click
    from binderclip.tasks.verbs.curate.task import curate as curate
    from binderclip.tasks.verbs.descriptions.task import descriptions as descriptions
    from binderclip.tasks.verbs.detect.task import detect as detect
    from binderclip.tasks.verbs.embed.task import embed as embed
    from binderclip.tasks.verbs.enhance.task import enhance as enhance
    from binderclip.tasks.verbs.evaluate.task import evaluate as evaluate
    from binderclip.tasks.verbs.explain.task import explain as explain
    from binderclip.tasks.verbs.geometry.task import geometry as geometry
    from binderclip.tasks.verbs.heads.task import heads as heads
    from binderclip.tasks.verbs.locate.task import locate as locate
    from binderclip.tasks.verbs.masks.task import masks as masks
    from binderclip.tasks.verbs.probe.task import probe as probe
    from binderclip.tasks.verbs.quality.task import quality as quality
    from binderclip.tasks.verbs.search.task import search_index as search_index
    from binderclip.tasks.verbs.search.task import search_query as search_query
    from binderclip.tasks.verbs.segment.task import segment as segment
    from binderclip.tasks.verbs.segment_evaluate.task import segment_evaluate as segment_evaluate
    from binderclip.tasks.verbs.segment_example.task import segment_example as segment_example
    from binderclip.tasks.verbs.segment_head.task import segment_head as segment_head
    from binderclip.tasks.verbs.segment_presets.task import segment_presets as segment_presets
    from binderclip.tasks.verbs.segment_task.task import segment_task as segment_task
    from binderclip.tasks.verbs.spikes.task import spikes as spikes
    from binderclip.tasks.verbs.trace.task import trace as trace
    from binderclip.tasks.verbs.train.task import train as train

lazy_exports(__name__)

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
    from binderclip.tasks.verbs.functions import adapt as adapt
    from binderclip.tasks.verbs.functions import anomaly as anomaly
    from binderclip.tasks.verbs.functions import atlas as atlas
    from binderclip.tasks.verbs.functions import attack as attack
    from binderclip.tasks.verbs.functions import classify as classify
    from binderclip.tasks.verbs.functions import clean as clean
    from binderclip.tasks.verbs.functions import click as click
    from binderclip.tasks.verbs.functions import compress as compress
    from binderclip.tasks.verbs.functions import curate as curate
    from binderclip.tasks.verbs.functions import descriptions as descriptions
    from binderclip.tasks.verbs.functions import detect as detect
    from binderclip.tasks.verbs.functions import draw as draw
    from binderclip.tasks.verbs.functions import duplicates as duplicates
    from binderclip.tasks.verbs.functions import edges as edges
    from binderclip.tasks.verbs.functions import edit as edit
    from binderclip.tasks.verbs.functions import embed as embed
    from binderclip.tasks.verbs.functions import enhance as enhance
    from binderclip.tasks.verbs.functions import erase as erase
    from binderclip.tasks.verbs.functions import evaluate as evaluate
    from binderclip.tasks.verbs.functions import explain as explain
    from binderclip.tasks.verbs.functions import foveate as foveate
    from binderclip.tasks.verbs.functions import generate as generate
    from binderclip.tasks.verbs.functions import geometry as geometry
    from binderclip.tasks.verbs.functions import heads as heads
    from binderclip.tasks.verbs.functions import inpaint as inpaint
    from binderclip.tasks.verbs.functions import interpolate as interpolate
    from binderclip.tasks.verbs.functions import landscape as landscape
    from binderclip.tasks.verbs.functions import locate as locate
    from binderclip.tasks.verbs.functions import masks as masks
    from binderclip.tasks.verbs.functions import personalize as personalize
    from binderclip.tasks.verbs.functions import probe as probe
    from binderclip.tasks.verbs.functions import quality as quality
    from binderclip.tasks.verbs.functions import reconstruct as reconstruct
    from binderclip.tasks.verbs.functions import search_index as search_index
    from binderclip.tasks.verbs.functions import search_query as search_query
    from binderclip.tasks.verbs.functions import segment as segment
    from binderclip.tasks.verbs.functions import segment_evaluate as segment_evaluate
    from binderclip.tasks.verbs.functions import segment_example as segment_example
    from binderclip.tasks.verbs.functions import segment_head as segment_head
    from binderclip.tasks.verbs.functions import segment_presets as segment_presets
    from binderclip.tasks.verbs.functions import segment_task as segment_task
    from binderclip.tasks.verbs.functions import spikes as spikes
    from binderclip.tasks.verbs.functions import trace as trace
    from binderclip.tasks.verbs.functions import train as train
    from binderclip.tasks.verbs.functions import translate as translate
    from binderclip.tasks.verbs.functions import vectorize as vectorize

lazy_exports(__name__)

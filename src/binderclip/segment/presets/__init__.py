"""Presets of the `Segmenter`: one short file a paper, each a dictionary of parts named `PRESETS`.

Parts left out are the plain ones. `CHOICES` names whole parts, for `--set refine=pamr`. A preset that stands on an
external vision model says so in its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment.affinity import CentredSoftmax
from binderclip.segment.attention_refine import ClassScore, DiffusionAttention
from binderclip.segment.cluster_vote import ClusterVote
from binderclip.segment.fused import FusedAttention
from binderclip.segment.fusion import ClassTokenProduct, LastOnly
from binderclip.segment.last_block import identity, vanilla
from binderclip.segment.presets import (
    basic,
    cliper,
    cliptrase,
    corrclip,
    decomposition,
    proxyclip,
)
from binderclip.segment.region_scope import Felzenszwalb, MaskMajority, PromptedRegions
from binderclip.segment.rewire import SelfSelf
from binderclip.segment.scoped import MaskScoped

PRESETS: dict[str, dict[str, Any]] = {
    **basic.PRESETS,
    **cliper.PRESETS,
    **cliptrase.PRESETS,
    **corrclip.PRESETS,
    **decomposition.PRESETS,
    **proxyclip.PRESETS,
}
"""name -> parts (keyword arguments of `Segmenter`)."""

CHOICES: dict[str, dict[str, Callable[[], Any]]] = {
    "map": {
        "identity": lambda: identity,
        "vanilla": lambda: vanilla,
        **{name: partial(SelfSelf, name) for name in ("q", "k", "v", "q+k", "q+k+v")},
        "fused": FusedAttention,
        "mask-scoped": MaskScoped,
        "centred-softmax": CentredSoftmax,
    },
    "fusion": {"last": LastOnly, "class-token": ClassTokenProduct},
    "regions": {"felzenszwalb": Felzenszwalb, "prompted": PromptedRegions},
    "refine": {"class-score": ClassScore, "self-attention": DiffusionAttention},
    "relabel": {"region-majority": MaskMajority, "cluster-vote": ClusterVote},
    "views": {},
    "mix": {},
}
"""Setting -> name -> constructor of a whole part."""

"""Presets of the `Segmenter`: one short file a paper, each a dictionary of parts named `PRESETS`.

Parts left out are the plain ones. `CHOICES` names whole parts, for `--set refine=pamr`. A preset that stands on an
external vision model says so in its parts, and where it differs from its paper in `DEPARTURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment.parts.affinity import CentredSoftmax
from binderclip.segment.parts.fused import FusedAttention
from binderclip.segment.parts.fusion import ClassTokenProduct, LastOnly
from binderclip.segment.parts.last_block import identity, vanilla
from binderclip.segment.parts.region_scope import Felzenszwalb, MaskMajority, PromptedRegions
from binderclip.segment.parts.rewire import SelfSelf
from binderclip.segment.parts.scoped import MaskScoped
from binderclip.segment.parts.splicing import ValueMaskedAttention
from binderclip.segment.parts.views import ViewEnsemble
from binderclip.segment.presets import (
    basic,
    clip_dinoiser,
    cliper,
    cliptrase,
    corrclip,
    decomposition,
    itaclip,
    photograph,
    proxyclip,
    trident,
)
from binderclip.segment.refine.attention_refine import ClassScore, DiffusionAttention
from binderclip.segment.refine.cluster_vote import ClusterVote
from binderclip.segment.refine.grab_cut import GrabCut
from binderclip.segment.refine.pamr import PAMR
from binderclip.segment.refine.prompted_masks import PromptedMasks
from binderclip.segment.refine.tidy import Closing, DropSmall

PRESETS: dict[str, dict[str, Any]] = {
    **basic.PRESETS,
    **cliper.PRESETS,
    **cliptrase.PRESETS,
    **clip_dinoiser.PRESETS,
    **corrclip.PRESETS,
    **decomposition.PRESETS,
    **proxyclip.PRESETS,
    **itaclip.PRESETS,
    **trident.PRESETS,
    **photograph.PRESETS,
}
"""name -> parts (keyword arguments of `Segmenter`)."""

DEPARTURES: dict[str, tuple[str, ...]] = {
    **basic.DEPARTURES,
    **cliper.DEPARTURES,
    **cliptrase.DEPARTURES,
    **clip_dinoiser.DEPARTURES,
    **corrclip.DEPARTURES,
    **proxyclip.DEPARTURES,
    **itaclip.DEPARTURES,
    **trident.DEPARTURES,
    **photograph.DEPARTURES,
}
"""name -> how the preset differs from the method as published; nothing is known of those left out."""

SUMMARIES: dict[str, str] = {
    **basic.SUMMARIES,
    **cliper.SUMMARIES,
    **cliptrase.SUMMARIES,
    **clip_dinoiser.SUMMARIES,
    **corrclip.SUMMARIES,
    **decomposition.SUMMARIES,
    **proxyclip.SUMMARIES,
    **itaclip.SUMMARIES,
    **trident.SUMMARIES,
    **photograph.SUMMARIES,
}
"""name -> what the preset is for, in a line."""

CHOICES: dict[str, dict[str, Callable[[], Any]]] = {
    "map": {
        "identity": lambda: identity,
        "vanilla": lambda: vanilla,
        **{name: partial(SelfSelf, name) for name in ("q", "k", "v", "q+k", "q+k+v")},
        "mid-blend": lambda: itaclip.BLOCK.map,
        "fused": FusedAttention,
        "mask-scoped": MaskScoped,
        "centred-softmax": CentredSoftmax,
    },
    "fusion": {"last": LastOnly, "class-token": ClassTokenProduct},
    "regions": {"felzenszwalb": Felzenszwalb, "prompted": PromptedRegions},
    "refine": {
        "class-score": ClassScore,
        "self-attention": DiffusionAttention,
        "pamr": PAMR,
        "drop-small": DropSmall,
    },
    "relabel": {
        "region-majority": MaskMajority,
        "cluster-vote": ClusterVote,
        "closing": Closing,
        "grab-cut": GrabCut,
        "prompted-masks": PromptedMasks,
    },
    "views": {
        "itaclip": ViewEnsemble,
        "colours": partial(ViewEnsemble, second=(), share=1.0),
        "flips": partial(ViewEnsemble, first=(), share=1 / 3),
    },
    "mix": {"value-masked": ValueMaskedAttention},
}
"""Setting -> name -> constructor of a whole part."""

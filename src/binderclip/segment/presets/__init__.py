"""Presets of the `Segmenter`: one short file a paper, each a dictionary of parts named `PRESETS`.

Parts left out are the plain ones. `CHOICES` names whole parts, for `--set refine=pamr`. A preset that stands on an
external vision model says so in its parts, and where it differs from its paper in `DEPARTURES`. A file is loaded when
one of its presets is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, TypeVar

__all__ = ["CHOICES", "DEPARTURES", "PRESETS", "SUMMARIES"]

V = TypeVar("V")
FILES: dict[str, tuple[str, ...]] = {
    "basic": ("plain", "dense", "value", "maskclip", "kk", "vv", "sclip", "clearclip", "clip_surgery"),
    "cliper": ("cliper", "cliper-background"),
    "cliptrase": ("cliptrase",),
    "clip_dinoiser": ("clip_dinoiser", "clip_dinoiser-teacher"),
    "corrclip": ("corrclip", "corrclip-sam"),
    "decomposition": ("decomposition",),
    "proxyclip": ("proxyclip",),
    "itaclip": ("itaclip", "itaclip-background"),
    "trident": ("trident", "trident-prompted"),
    "photograph": ("photograph",),
}
"""File of this folder -> its presets, in the order in which they are listed."""
_FILE_OF = {name: file for file, names in FILES.items() for name in names}


def __getattr__(name: str) -> Any:
    """The file of presets of this name, loaded when it is asked for."""
    if name in FILES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _PresetTable(Mapping[str, V]):
    """What the files of the presets say under one name, each loaded when it is asked."""

    def __init__(self, attribute: str) -> None:
        self.attribute = attribute

    def __getitem__(self, name: str) -> V:
        return self._of(_FILE_OF[name])[name]

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, file in _FILE_OF.items() if name in self._of(file)])

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _of(self, file: str) -> dict[str, V]:
        names: dict[str, V] = getattr(import_module(f"{__name__}.{file}"), self.attribute, {})
        return names


class _NamedTable(_PresetTable[V]):
    """A table that has every preset: its names are known without the files."""

    def __contains__(self, name: object) -> bool:
        return name in _FILE_OF

    def __iter__(self) -> Iterator[str]:
        return iter(_FILE_OF)


PRESETS: Mapping[str, dict[str, Any]] = _NamedTable("PRESETS")
"""name -> parts (keyword arguments of `Segmenter`)."""
SUMMARIES: Mapping[str, str] = _NamedTable("SUMMARIES")
"""name -> what the preset is for, in a line."""
DEPARTURES: Mapping[str, tuple[str, ...]] = _PresetTable("DEPARTURES")
"""name -> how the preset differs from the method as published; nothing is known of those left out."""


def _part(module: str, name: str, *given: Any, **settings: Any) -> Callable[[], Any]:
    """Makes a part; its file is loaded then."""
    return lambda: getattr(import_module(f"binderclip.segment.{module}"), name)(*given, **settings)


def _function(module: str, name: str) -> Callable[[], Any]:
    """Gives a part that is a function."""
    return lambda: getattr(import_module(f"binderclip.segment.{module}"), name)


CHOICES: dict[str, dict[str, Callable[[], Any]]] = {
    "map": {
        "identity": _function("parts.last_block", "identity"),
        "vanilla": _function("parts.last_block", "vanilla"),
        **{name: _part("parts.rewire", "SelfSelf", name) for name in ("q", "k", "v", "q+k", "q+k+v")},
        "mid-blend": lambda: _function("presets.itaclip", "BLOCK")().map,
        "fused": _part("parts.fused", "FusedAttention"),
        "mask-scoped": _part("parts.scoped", "MaskScoped"),
        "centred-softmax": _part("parts.affinity", "CentredSoftmax"),
    },
    "fusion": {"last": _part("parts.fusion", "LastOnly"), "class-token": _part("parts.fusion", "ClassTokenProduct")},
    "regions": {
        "felzenszwalb": _part("parts.region_scope", "Felzenszwalb"),
        "prompted": _part("parts.region_scope", "PromptedRegions"),
    },
    "refine": {
        "class-score": _part("refine.attention_refine", "ClassScore"),
        "self-attention": _part("refine.attention_refine", "DiffusionAttention"),
        "pamr": _part("refine.pamr", "PAMR"),
        "drop-small": _part("refine.tidy", "DropSmall"),
    },
    "relabel": {
        "region-majority": _part("parts.region_scope", "MaskMajority"),
        "cluster-vote": _part("refine.cluster_vote", "ClusterVote"),
        "closing": _part("refine.tidy", "Closing"),
        "grab-cut": _part("refine.grab_cut", "GrabCut"),
        "prompted-masks": _part("refine.prompted_masks", "PromptedMasks"),
    },
    "views": {
        "itaclip": _part("parts.views", "ViewEnsemble"),
        "colours": _part("parts.views", "ViewEnsemble", second=(), share=1.0),
        "flips": _part("parts.views", "ViewEnsemble", first=(), share=1 / 3),
    },
    "mix": {"value-masked": _part("parts.splicing", "ValueMaskedAttention")},
}
"""Setting -> name -> constructor of a whole part."""

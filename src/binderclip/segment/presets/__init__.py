"""Presets of the `Segmenter`: one short file a paper, each a dictionary of parts named `PRESETS`.

Parts left out are the plain ones. `CHOICES` names whole parts, for `--set refine=pamr`. A preset that stands on an
external vision model says so in its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment.last_block import identity, vanilla
from binderclip.segment.presets import basic, decomposition
from binderclip.segment.rewire import SelfSelf

PRESETS: dict[str, dict[str, Any]] = {**basic.PRESETS, **decomposition.PRESETS}
"""name -> parts (keyword arguments of `Segmenter`)."""

CHOICES: dict[str, dict[str, Callable[[], Any]]] = {
    "map": {
        "identity": lambda: identity,
        "vanilla": lambda: vanilla,
        **{name: partial(SelfSelf, name) for name in ("q", "k", "v", "q+k", "q+k+v")},
    },
    "refine": {},
    "relabel": {},
    "views": {},
    "mix": {},
}
"""Setting -> name -> constructor of a whole part."""

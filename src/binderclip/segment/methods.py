"""The methods of this room by name: every preset of the `Segmenter`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment.presets import PRESETS
from binderclip.segment.segmenter import Segmenter

METHODS: dict[str, Callable[..., Any]] = {name: partial(Segmenter, preset=name) for name in PRESETS}

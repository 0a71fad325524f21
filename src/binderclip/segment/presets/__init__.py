"""Presets of the `Segmenter`: one short file a paper, each a dictionary of parts named `PRESETS`.

Parts left out are the plain ones. A preset that stands on an external vision model says so in its parts.
"""

from __future__ import annotations

from typing import Any

from binderclip.segment.presets import basic

PRESETS: dict[str, dict[str, Any]] = {**basic.PRESETS}
"""name -> parts (keyword arguments of `Segmenter`)."""

"""What `segment-presets` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from binderclip.tasks.request import Option, Request


class SegmentPresetsRequest(Request):
    """Show what the presets of `segment` are for; of those that are named also their parts, and how they differ from
    their papers.

    Examples:

        binderclip segment-presets

        binderclip segment-presets clip_dinoiser trident
    """

    task: ClassVar[str] = "segment-presets"

    names: Annotated[list[str], Option("Presets, or `all`.", positional=True)] = []

"""Generative models: flows, and what they are trained by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.generate.coupling_flow import CouplingFlow as CouplingFlow
    from binderclip.generate.coupling_flow import effective_sample_size as effective_sample_size

lazy_exports(__name__)

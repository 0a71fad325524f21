"""Promptable segmentation: clicks, boxes and rough masks to masks, behind one SAM-like protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.promptable.attention import EncoderAttention, encoder_attention
    from binderclip.segment.promptable.automatic import AutomaticMasks
    from binderclip.segment.promptable.cut import CutSegmenter, cut_mask, cut_regions
    from binderclip.segment.promptable.hf import HfSegmenter
    from binderclip.segment.promptable.interactive import (
        Action,
        Click,
        InteractiveSession,
        click_curve,
        next_click,
        sampled_line,
    )
    from binderclip.segment.promptable.load import load_promptable
    from binderclip.segment.promptable.network import PromptNetwork
    from binderclip.segment.promptable.oracle import OracleSegmenter
    from binderclip.segment.promptable.prompts import (
        ImageState,
        LowResSegmenter,
        Masks,
        PromptableSegmenter,
        Prompts,
        predict_masks,
    )
    from binderclip.segment.promptable.regions import RegionMasks, stability_score
    from binderclip.segment.promptable.session_file import load_session, save_session
    from binderclip.segment.promptable.small import PromptModel

__all__ = [
    "Action",
    "AutomaticMasks",
    "Click",
    "CutSegmenter",
    "EncoderAttention",
    "HfSegmenter",
    "ImageState",
    "InteractiveSession",
    "LowResSegmenter",
    "Masks",
    "OracleSegmenter",
    "PromptModel",
    "PromptNetwork",
    "PromptableSegmenter",
    "Prompts",
    "RegionMasks",
    "click_curve",
    "cut_mask",
    "cut_regions",
    "encoder_attention",
    "load_promptable",
    "load_session",
    "next_click",
    "predict_masks",
    "sampled_line",
    "save_session",
    "stability_score",
]

lazy_exports(__name__)

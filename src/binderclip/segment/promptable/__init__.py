"""Promptable segmentation: clicks, boxes and rough masks to masks, behind one SAM-like protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.promptable.attention import EncoderAttention as EncoderAttention
    from binderclip.segment.promptable.attention import encoder_attention as encoder_attention
    from binderclip.segment.promptable.automatic import AutomaticMasks as AutomaticMasks
    from binderclip.segment.promptable.cut import CutSegmenter as CutSegmenter
    from binderclip.segment.promptable.cut import cut_mask as cut_mask
    from binderclip.segment.promptable.cut import cut_regions as cut_regions
    from binderclip.segment.promptable.hf import HfSegmenter as HfSegmenter
    from binderclip.segment.promptable.interactive import Action as Action
    from binderclip.segment.promptable.interactive import Click as Click
    from binderclip.segment.promptable.interactive import InteractiveSession as InteractiveSession
    from binderclip.segment.promptable.interactive import click_curve as click_curve
    from binderclip.segment.promptable.interactive import next_click as next_click
    from binderclip.segment.promptable.interactive import sampled_line as sampled_line
    from binderclip.segment.promptable.load import load_promptable as load_promptable
    from binderclip.segment.promptable.network import PromptNetwork as PromptNetwork
    from binderclip.segment.promptable.oracle import OracleSegmenter as OracleSegmenter
    from binderclip.segment.promptable.prompts import ImageState as ImageState
    from binderclip.segment.promptable.prompts import LowResSegmenter as LowResSegmenter
    from binderclip.segment.promptable.prompts import Masks as Masks
    from binderclip.segment.promptable.prompts import PromptableSegmenter as PromptableSegmenter
    from binderclip.segment.promptable.prompts import Prompts as Prompts
    from binderclip.segment.promptable.prompts import predict_masks as predict_masks
    from binderclip.segment.promptable.regions import RegionMasks as RegionMasks
    from binderclip.segment.promptable.regions import stability_score as stability_score
    from binderclip.segment.promptable.session_file import load_session as load_session
    from binderclip.segment.promptable.session_file import save_session as save_session
    from binderclip.segment.promptable.small import PromptModel as PromptModel

lazy_exports(__name__)

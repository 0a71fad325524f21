"""Models: one face for every contrastive image-text backbone, and the parts that look inside it.

`import binderclip.models.bundled.architectures` registers binderclip's own architectures with timm, and so with
open_clip, for code that opens our folders without `load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.models.files.registry import bundled_cards, list_models
    from binderclip.models.fine_tuned import load_alpha_clip, load_image_tower, load_prompt_context
    from binderclip.models.image_text.alpha import AlphaCLIP, add_alpha_channel, box_alpha, point_alpha
    from binderclip.models.image_text.classification import Classification
    from binderclip.models.image_text.encode import EncodedImages
    from binderclip.models.image_text.image_classifier import ImageClassifier
    from binderclip.models.image_text.model import ImageTextModel, ImageTextOutput
    from binderclip.models.image_text.multitask import MultiTaskCLIP
    from binderclip.models.image_text.open_clip import build
    from binderclip.models.image_text.predictor import ModuleClassifier, Predictor, ZeroShotPredictor, classifier
    from binderclip.models.image_text.preprocess import Preprocess
    from binderclip.models.image_text.vision import VisionModel, load_vision
    from binderclip.models.layers.deefuser import DeeFuser
    from binderclip.models.layers.experts import MoEMLP, active_parameters, upcycle
    from binderclip.models.layers.fast_gradients import fast_gradients
    from binderclip.models.layers.lipschitz import (
        AddBias,
        BoundedInput,
        Centring,
        ClipLogitGradient,
        GroupSort2,
        L2NormPool2d,
        LipschitzLayer,
        LipschitzResidual,
        lipschitz_rule,
    )
    from binderclip.models.layers.lora import LoRA, lora_
    from binderclip.models.layers.nfnet import (
        ACTIVATION_GAINS,
        NFBlock,
        NFResNet,
        ScaledActivation,
        ScaledStdConv2d,
        expected_stds,
    )
    from binderclip.models.layers.relational import RelationalAttention
    from binderclip.models.layers.semantic_grouping import SemanticGrouping
    from binderclip.models.layers.spectral import SpectralConv2d, SpectralLinear
    from binderclip.models.loading import load, load_encoder
    from binderclip.models.text.prompts import PromptContext
    from binderclip.models.text.templates import TEMPLATES, resolve_templates
    from binderclip.models.text.textbank import TextBank
    from binderclip.models.text.tokenize import TokenIds
    from binderclip.models.towers import (
        Block,
        Record,
        Recorder,
        Site,
        TextTower,
        Tower,
        open_image_tower,
        open_text_tower,
    )
    from binderclip.models.towers.contributions import Contributions
    from binderclip.models.towers.correlation import correlation
    from binderclip.models.towers.tokens import Tokens, append_tokens, cls_bias, gather, gather_patches
    from binderclip.models.towers.trace import Capture, Trace, capture, trace

__all__ = [
    "ACTIVATION_GAINS",
    "TEMPLATES",
    "AddBias",
    "AlphaCLIP",
    "Block",
    "BoundedInput",
    "Capture",
    "Centring",
    "Classification",
    "ClipLogitGradient",
    "Contributions",
    "DeeFuser",
    "EncodedImages",
    "GroupSort2",
    "ImageClassifier",
    "ImageTextModel",
    "ImageTextOutput",
    "L2NormPool2d",
    "LipschitzLayer",
    "LipschitzResidual",
    "LoRA",
    "MoEMLP",
    "ModuleClassifier",
    "MultiTaskCLIP",
    "NFBlock",
    "NFResNet",
    "Predictor",
    "Preprocess",
    "PromptContext",
    "Record",
    "Recorder",
    "RelationalAttention",
    "ScaledActivation",
    "ScaledStdConv2d",
    "SemanticGrouping",
    "Site",
    "SpectralConv2d",
    "SpectralLinear",
    "TextBank",
    "TextTower",
    "TokenIds",
    "Tokens",
    "Tower",
    "Trace",
    "VisionModel",
    "ZeroShotPredictor",
    "active_parameters",
    "add_alpha_channel",
    "append_tokens",
    "box_alpha",
    "build",
    "bundled_cards",
    "capture",
    "classifier",
    "cls_bias",
    "correlation",
    "expected_stds",
    "fast_gradients",
    "gather",
    "gather_patches",
    "lipschitz_rule",
    "list_models",
    "load",
    "load_alpha_clip",
    "load_encoder",
    "load_image_tower",
    "load_prompt_context",
    "load_vision",
    "lora_",
    "open_image_tower",
    "open_text_tower",
    "point_alpha",
    "resolve_templates",
    "trace",
    "upcycle",
]

lazy_exports(__name__)

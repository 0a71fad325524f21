"""Models: one face for every contrastive image-text backbone, and the parts that look inside it.

Importing this room registers binderclip's own architectures with timm and open_clip.
"""

from __future__ import annotations

from binderclip.models import architectures as architectures
from binderclip.models.classification import Classification
from binderclip.models.contributions import Contributions
from binderclip.models.correlation import correlation
from binderclip.models.encode import EncodedImages
from binderclip.models.image_classifier import ImageClassifier
from binderclip.models.image_text import ImageTextModel, ImageTextOutput
from binderclip.models.lipschitz import (
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
from binderclip.models.load import load
from binderclip.models.lora import LoRA, lora_
from binderclip.models.nfnet import (
    ACTIVATION_GAINS,
    NFBlock,
    NFResNet,
    ScaledActivation,
    ScaledStdConv2d,
    expected_stds,
)
from binderclip.models.open_clip_models import build
from binderclip.models.predictor import ModuleClassifier, Predictor, ZeroShotPredictor, classifier
from binderclip.models.preprocess import Preprocess
from binderclip.models.prompts import PromptContext
from binderclip.models.registry import bundled_cards, list_models
from binderclip.models.relational import RelationalAttention
from binderclip.models.spectral import SpectralConv2d, SpectralLinear
from binderclip.models.templates import TEMPLATES, resolve_templates
from binderclip.models.textbank import TextBank
from binderclip.models.tokenize import TokenIds
from binderclip.models.tokens import Tokens, append_tokens, cls_bias, gather, gather_patches
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
from binderclip.models.trace import Capture, Trace, capture, trace
from binderclip.models.vision import VisionModel, load_vision

__all__ = [
    "ACTIVATION_GAINS",
    "TEMPLATES",
    "AddBias",
    "Block",
    "BoundedInput",
    "Capture",
    "Centring",
    "Classification",
    "ClipLogitGradient",
    "Contributions",
    "EncodedImages",
    "GroupSort2",
    "ImageClassifier",
    "ImageTextModel",
    "ImageTextOutput",
    "L2NormPool2d",
    "LipschitzLayer",
    "LipschitzResidual",
    "LoRA",
    "ModuleClassifier",
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
    "append_tokens",
    "build",
    "bundled_cards",
    "capture",
    "classifier",
    "cls_bias",
    "correlation",
    "expected_stds",
    "gather",
    "gather_patches",
    "lipschitz_rule",
    "list_models",
    "load",
    "load_vision",
    "lora_",
    "open_image_tower",
    "open_text_tower",
    "resolve_templates",
    "trace",
]

"""Models: one face for every contrastive image-text backbone, and the parts that look inside it.

Importing this room registers binderclip's own architectures with timm and open_clip.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from binderclip.models.classification import Classification
from binderclip.models.encode import EncodedImages
from binderclip.models.image_text import ImageTextModel, ImageTextOutput
from binderclip.models.load import load
from binderclip.models.open_clip_models import build
from binderclip.models.predictor import ModuleClassifier, Predictor, ZeroShotPredictor, classifier
from binderclip.models.preprocess import Preprocess
from binderclip.models.registry import bundled_cards, list_models
from binderclip.models.templates import TEMPLATES, resolve_templates
from binderclip.models.textbank import TextBank
from binderclip.models.tokenize import TokenIds

if importlib.util.find_spec("binderclip.models.architectures") is not None:
    importlib.import_module("binderclip.models.architectures")

_TOWERS = {
    "Tower": "towers",
    "Record": "towers",
    "Site": "towers",
    "open_image_tower": "towers",
    "open_text_tower": "towers",
    "Tokens": "tokens",
    "gather": "tokens",
    "trace": "trace",
    "Trace": "trace",
    "capture": "trace",
    "correlation": "correlation",
}

__all__ = [
    "TEMPLATES",
    "Classification",
    "EncodedImages",
    "ImageTextModel",
    "ImageTextOutput",
    "ModuleClassifier",
    "Predictor",
    "Preprocess",
    "TextBank",
    "TokenIds",
    "ZeroShotPredictor",
    "build",
    "bundled_cards",
    "classifier",
    "list_models",
    "load",
    "resolve_templates",
    *_TOWERS,
]

if TYPE_CHECKING:
    from binderclip.models.correlation import correlation as correlation
    from binderclip.models.tokens import Tokens as Tokens
    from binderclip.models.tokens import gather as gather
    from binderclip.models.towers import Record as Record
    from binderclip.models.towers import Site as Site
    from binderclip.models.towers import Tower as Tower
    from binderclip.models.towers import open_image_tower as open_image_tower
    from binderclip.models.towers import open_text_tower as open_text_tower
    from binderclip.models.trace import Trace as Trace
    from binderclip.models.trace import capture as capture
    from binderclip.models.trace import trace as trace


def __getattr__(name: str) -> Any:
    if name in _TOWERS:
        return getattr(importlib.import_module(f"binderclip.models.{_TOWERS[name]}"), name)
    raise AttributeError(f"module 'binderclip.models' has no attribute {name!r}")

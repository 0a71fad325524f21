"""binderclip: contrastive image-text models and the gradients that train them.

Rooms are imported on first use, so `import binderclip` costs nothing beyond Python itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_ROOMS = (
    "adapt", "cli", "data", "errors", "evaluate", "explain", "fit", "losses", "models", "optim", "quality", "search",
    "segment",
    "studies", "train",
)  # fmt: skip
_NAMES = {"load": "models", "list_models": "models", "TextBank": "models", "Predictor": "models"}

__all__ = ["__version__", *_ROOMS, *_NAMES]

if TYPE_CHECKING:
    from binderclip.models import Predictor as Predictor
    from binderclip.models import TextBank as TextBank
    from binderclip.models import list_models as list_models
    from binderclip.models import load as load


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"binderclip.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"binderclip.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'binderclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

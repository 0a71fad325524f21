"""binderclip: contrastive image-text models and the gradients that train them.

Rooms are imported on first use, so `import binderclip` costs nothing beyond Python itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

_NAMES = dict.fromkeys(("load", "from_module", "list_models", "TextBank", "Predictor"), "models")

__all__ = ["__version__", *_NAMES]

if TYPE_CHECKING:
    from binderclip.models import Predictor as Predictor
    from binderclip.models import TextBank as TextBank
    from binderclip.models import from_module as from_module
    from binderclip.models import list_models as list_models
    from binderclip.models import load as load


def _rooms() -> list[str]:
    """The rooms that are there: packages and modules of this folder."""
    import pkgutil

    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"binderclip.{_NAMES[name]}"), name)
    if name in _rooms():
        return importlib.import_module(f"binderclip.{name}")
    raise AttributeError(f"module 'binderclip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_rooms()])

"""binderclip.data: image-text sets, the bundled picture packs, augmentation, scenes with exact masks, caches, moments.

Every name is imported when it is first used, so `import binderclip.data` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# module -> its public names; `from binderclip.data import <name>` imports only that module.
_EXPORTS: dict[str, tuple[str, ...]] = {
    "images": ("ImageSource", "MAX_PIXELS", "list_images", "open_image", "to_tensor"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

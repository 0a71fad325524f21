"""The models that the page has loaded: the last few are kept, so that a run begins at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from binderclip.tasks.models import cached_models, image_text_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from binderclip.models import ImageTextModel

KEPT = 3
"""Models held at once."""


class ModelShelf:
    """Models by name, loaded when first asked for.

    Args:
        device: where they run.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._held: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def image_text(self, name: str) -> ImageTextModel:
        """The model that `load(name)` gives.

        Raises:
            BinderclipError: as `load`.
        """
        with cached_models(self.get):
            return image_text_model(name, device=self.device)

    def get(self, kind: str, name: str, make: Callable[[], Any]) -> Any:
        """What was made under this kind and name, made now where it is not held."""
        with self._lock:
            if (kind, name) in self._held:
                self._held.move_to_end((kind, name))
                return self._held[kind, name]
        made = make()
        with self._lock:
            self._held[kind, name] = made
            while len(self._held) > KEPT:
                self._held.popitem(last=False)
        return made

"""Methods of `explain`, built from words, and what they are asked of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from binderclip.errors import UsageError
from binderclip.tasks.models import image_text_model
from binderclip.tasks.verbs.explain.request import ExplainRequest

if TYPE_CHECKING:
    from PIL import Image

SIDE = 512
"""Longest side at which a picture is explained: the model sees less, and maps are drawn at the picture's own size."""


def build_methods(names: Sequence[str], layer: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """Methods by name with `--layer` and `--set` applied, before any model is loaded.

    Raises:
        UsageError: an unknown method or setting, or a layer for a method that looks at pixels.
    """
    import inspect

    from binderclip.explain import METHODS
    from binderclip.settings import check_part, parse_override

    for name in names:
        if name not in METHODS:
            raise UsageError(f"--method {name!r} is unknown; there are {', '.join(sorted(METHODS))}")
    chosen: dict[str, Any] = {}
    for text in settings:
        key, value = parse_override(text)
        chosen[".".join(key)] = value
    signatures = {name: inspect.signature(METHODS[name]).parameters for name in names}
    unused = [key for key in chosen if not any(key in accepted for accepted in signatures.values())]
    if unused and len(names) > 1:
        raise UsageError(f"--set {unused[0]}: none of {', '.join(names)} has such a setting")
    built = {}
    for name in names:
        accepted = signatures[name]
        mine = {key: value for key, value in chosen.items() if len(names) == 1 or key in accepted}
        if layer is not None:
            place: int | str = int(layer) if re.fullmatch("-?[0-9]{1,4}", layer) else layer
            slot = next((option for option in ("layer", "layers") if option in accepted), None)
            if slot is not None and not (name.startswith(("smoothgrad", "vargrad")) and slot == "layers"):
                mine[slot] = place
            elif len(names) == 1:
                raise UsageError(f"--layer: {name} looks at the pixels, not at a layer")
        check_part({"name": name, **mine}, METHODS, "method")
        built[name] = METHODS[name](**mine)
    return built


def shrunk(picture: Image.Image) -> Image.Image:
    """A picture as it is explained: at most `SIDE` pixels long."""
    from PIL.Image import Resampling

    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Resampling.LANCZOS, None)
    return small


@dataclass(frozen=True)
class Subject:
    """What is explained: an image-text model and a text, or a head's classifier and one of its classes (or None)."""

    model: Any
    target: Any
    name: str
    unit: str

    @property
    def text(self) -> str:
        """What is explained, in words."""
        return self.target if self.target is not None else "the predicted class"


def open_subject(request: ExplainRequest) -> Subject:
    """The model of a request, or its head, loaded.

    Raises:
        UsageError: a head that names no model, or that cannot be explained.
    """
    if request.head is None:
        model = image_text_model(request.model_name, device=request.device, dtype=request.dtype)
        return Subject(model, request.label, request.model_name, "cosine")
    from binderclip.adapt import head_model, load_head

    name = request.model or head_model(request.head)
    if not name:
        raise UsageError(f"{request.head} does not say which model its head stands on: give --model")
    clip = image_text_model(name, device=request.device, dtype=request.dtype)
    head = load_head(request.head, model=clip)
    if not hasattr(head, "predictor"):
        raise UsageError(f"{request.head}: {type(head).__name__} is no head that can be explained through its model")
    predictor = head.predictor(clip)
    predictor.classes = [str(label) for label in predictor.classes]
    return Subject(predictor, request.label, request.head, "logit")

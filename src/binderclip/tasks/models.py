"""The models that tasks work with: loaded where they are asked for, or kept between tasks by whoever runs them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser
    from binderclip.models import ImageTextModel
    from binderclip.segment import PromptableSegmenter

__all__ = [
    "ModelCache",
    "cached_models",
    "encoder",
    "image_text_model",
    "latent_denoiser",
    "own_model",
    "promptable_model",
]

ModelCache: TypeAlias = Callable[[str, str, Callable[[], Any]], Any]
"""`cache(kind, name, load)` gives the model that `load()` gave when it was first called with this kind and name."""


def _load(kind: str, name: str, load: Callable[[], Any]) -> Any:
    """No cache."""
    return load()


_current: ContextVar[ModelCache] = ContextVar("current", default=_load)


@contextmanager
def cached_models(cache: ModelCache) -> Iterator[None]:
    """In here tasks take their models from a cache."""
    before = _current.set(cache)
    try:
        yield
    finally:
        _current.reset(before)


def image_text_model(name: str, *, device: str = "cpu", dtype: str = "float32") -> ImageTextModel:
    """The model that `models.load` gives.

    Args:
        name, device, dtype: as `models.load` takes them.

    Raises:
        BinderclipError: as `models.load`.
    """
    from binderclip.models import load

    model: ImageTextModel = _current.get()(
        "image-text", _with_place(name, device, dtype), lambda: load(name, device=device, dtype=dtype)
    )
    return model


def own_model(model: ImageTextModel) -> ImageTextModel:
    """The model itself, or a copy of one that a cache keeps: for a task that moves its weights.

    Others may use the one of a cache meanwhile, or find it moved after the task was stopped.

    Args:
        model: of `image_text_model`.
    """
    return model if _current.get() is _load else copy.deepcopy(model)


def encoder(name: str, *, device: str = "cpu", dtype: str = "float32") -> ImageTextModel:
    """The model that `models.load_encoder` gives; of a cache that of `image_text_model`, which encodes alike.

    Args:
        name, device, dtype: as `models.load_encoder` takes them.

    Raises:
        BinderclipError: as `models.load_encoder`.
    """
    from binderclip.models import load_encoder

    if _current.get() is _load:
        return load_encoder(name, device=device, dtype=dtype)
    return image_text_model(name, device=device, dtype=dtype)


def promptable_model(name: str, *, device: str = "cpu") -> PromptableSegmenter:
    """The model that `segment.load_promptable` gives.

    Args:
        name, device: as `load_promptable` takes them.

    Raises:
        BinderclipError: as `load_promptable`.
    """
    from binderclip.segment import load_promptable

    model: PromptableSegmenter = _current.get()(
        "promptable", _with_place(name, device), lambda: load_promptable(name, device=device)
    )
    return model


def latent_denoiser(name: str, *, device: str = "cpu") -> LatentDenoiser:
    """The denoiser that `generate.load_denoiser` gives.

    Args:
        name, device: as `load_denoiser` takes them.

    Raises:
        BinderclipError: as `load_denoiser`.
    """
    from binderclip.generate import load_denoiser

    model: LatentDenoiser = _current.get()(
        "denoiser", _with_place(name, device), lambda: load_denoiser(name, device=device)
    )
    return model


def _with_place(name: str, device: str, dtype: str = "float32") -> str:
    """The name a model is kept by: the same one elsewhere, or in another precision, is another model."""
    return name if (device, dtype) == ("cpu", "float32") else f"{name} on {device} in {dtype}"

"""What a cache of features depends on, as one short hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel


def of_model(model: ImageTextModel) -> str:
    """32 hexadecimal digits that change with weights, precision, preprocessing, tokenizer, surgery or geometry.

    Reading all weights takes about a second a gigabyte, so the hash is kept with the version counters of the tensors
    (every in-place change raises them) and made again only when one differs.
    """
    state = model.backbone.state_dict()
    pixels = json.dumps(model.preprocess.as_dict(), sort_keys=True)
    geometry = [] if model.geometry is None else [model.geometry.signature()]
    about = "\n".join([model.kind, pixels, model.tokenizer.signature(), *model.history, *geometry])
    versions = (about, tuple((name, t.data_ptr(), _version(t), t.dtype) for name, t in state.items()))
    kept = model._cache.get("fingerprint")
    if kept is None or kept[0] != versions:
        kept = (versions, _digest(about, state))
        model._cache["fingerprint"] = kept
    return kept[1]


def of_tensors(about: str, state: Mapping[str, Tensor]) -> str:
    """32 hexadecimal digits that change with names, shapes, precision and values of tensors, and with a text."""
    return _digest(about, state)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _digest(about: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

"""A fitted head as a folder of two files, `head.json` and `head.safetensors`; nothing is pickled."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from binderclip.adapt.heads.base import FeatureClassifier
from binderclip.documents import json_text, parse_json
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.files import make_folder, write_whole

FORMAT = "binderclip-head-1"
_JSON, _TENSORS = "head.json", "head.safetensors"


def save_head(
    head: FeatureClassifier, folder: str | Path, *, model: str = "", about: Mapping[str, Any] | None = None
) -> Path:
    """Write a fitted head.

    Args:
        head: fitted; its fitted attributes must be tensors, arrays, numbers, texts, or lists of these.
        folder: made where it does not exist; an older head in it is replaced.
        model: name of the model whose features it takes, for `load_head` and `binderclip classify --head`.
        about: anything of plain values to keep beside it: figures, fingerprint, templates.

    Returns:
        The folder.

    Raises:
        NotSupported: the head holds something that has no plain form.
        sklearn.exceptions.NotFittedError: it is not fitted.
        OutputError: it cannot be written.
    """
    check_is_fitted(head, "classes_")
    tensors: dict[str, Tensor] = {}
    settings = {name: _plain(value) for name, value in head.get_params(deep=False).items()}
    fitted: dict[str, Any] = {}
    transient = {name for kind in type(head).__mro__ for name in getattr(kind, "transient", ())}
    for name, value in vars(head).items():
        if name in settings or name in transient:
            continue
        if isinstance(value, (Tensor, np.ndarray)) and _numeric(value):
            tensors[name] = torch.as_tensor(value).detach().cpu().contiguous().clone()
            fitted[name] = {"tensor": "array" if isinstance(value, np.ndarray) else "torch"}
            continue
        plain = _plain(value)
        if plain is _SKIP:
            raise NotSupported(f"{type(head).__name__}.{name} is a {type(value).__name__}, which cannot be saved")
        fitted[name] = {"value": plain, "array": isinstance(value, np.ndarray)}
    document = {
        "format": FORMAT,
        "head": type(head).__name__,
        "module": type(head).__module__,
        "model": model,
        "settings": {name: value for name, value in settings.items() if value is not _SKIP},
        "fitted": fitted,
        "about": dict(about or {}),
    }
    text = json_text(document) + "\n"
    place = make_folder(folder)

    # The tensors take their place when the text is on the disk: an older head's text never stands beside them because
    # the disk was full.
    def write(draft: Path) -> None:
        draft.write_text(text, encoding="utf-8")
        write_whole(place / _TENSORS, lambda draft: save_file(tensors, draft))

    write_whole(place / _JSON, write)
    return place


def head_model(folder: str | Path) -> str:
    """Name of the model whose features a saved head takes, as it was given to `save_head`; empty if it was not.

    Raises:
        CheckpointError: no head there, or a damaged one.
    """
    return str(_document(Path(folder))["model"])


def load_head(folder: str | Path, *, model: Any = None) -> FeatureClassifier:
    """Read a head that `save_head` wrote, ready to predict.

    Args:
        folder: where it is.
        model: for heads that work through the towers, the `ImageTextModel` they were fitted on.

    Returns:
        The head, with `model_name_` and `about_` as they were saved. Its text prior is there as far as prediction needs
        it.

    Raises:
        CheckpointError: no head, a damaged one, or one of another program.
        UsageError: a head that needs `model` and got none.
    """
    place = Path(folder)
    document = _document(place)
    kind = _class_of(document)
    # What has no plain form (a bank, a prior) was left out: it has done its work at `fit`.
    settings = {name: document["settings"].get(name, _default(kind, name)) for name in kind._get_param_names()}
    if "model" in kind._get_param_names():
        if model is None:
            raise UsageError(
                f"{place}: {document['head']} works through its model: pass model=load({document['model']!r})"
            )
        settings["model"] = model
    try:
        head = kind(**settings)
        with safe_open(place / _TENSORS, framework="pt") as tensors:
            for name, entry in document["fitted"].items():
                if "tensor" in entry:
                    value: Any = tensors.get_tensor(name)
                    if value.is_floating_point() and bool(value.isnan().any()):
                        raise CheckpointError(f"{place}: {name} of this head holds NaN; fit and save it again")
                    value = value.numpy() if entry["tensor"] == "array" else value
                else:
                    value = np.asarray(entry["value"]) if entry["array"] else entry["value"]
                setattr(head, name, value)
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place}: not a whole head ({error})") from error
    head.model_name_, head.about_ = document["model"], document["about"]
    return head


def _document(place: Path) -> dict[str, Any]:
    path = place / _JSON
    if not path.is_file():
        raise CheckpointError(
            f"{place} holds no head: there is no {_JSON} (`binderclip adapt` and save_head write one)"
        )
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path} has format {document['format']!r}; this version reads {FORMAT!r}")
        if not isinstance(document["settings"], dict) or not isinstance(document["fitted"], dict):
            raise TypeError("settings and fitted must be tables")
        document["model"], document["about"], document["head"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a head of binderclip ({error})") from error
    return document


def _class_of(document: Mapping[str, Any]) -> type[FeatureClassifier]:
    # Only estimators of this room are ever made, whatever the file says.
    module = str(document.get("module", ""))
    try:
        if not module.startswith("binderclip.adapt."):
            raise ImportError(module)
        kind = getattr(importlib.import_module(module), str(document["head"]))
        if not (isinstance(kind, type) and issubclass(kind, FeatureClassifier)):
            raise ImportError(document["head"])
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"this version of binderclip has no head {document['head']!r} ({module})") from error
    return kind


def _default(kind: type[FeatureClassifier], name: str) -> Any:
    default = inspect.signature(kind.__init__).parameters[name].default
    return None if default is inspect.Parameter.empty else default


class _Skip:
    """Marks a value without a plain form."""


_SKIP = _Skip()


def _numeric(value: Tensor | np.ndarray) -> bool:
    return isinstance(value, Tensor) or value.dtype.kind in "fiub"


def _plain(value: Any) -> Any:
    """JSON's form of numbers, texts, None and lists of these; `_SKIP` for anything else."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        parts = [_plain(part) for part in value]
        return _SKIP if any(part is _SKIP for part in parts) else parts
    return _SKIP

"""A model as a folder: open_clip's `local-dir:` format, or `transformers`' own for its models, with a card beside."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from binderclip.documents import compact_json, json_text
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.files import make_folder, write_whole
from binderclip.models.files.checkpoint import read_json_object
from binderclip.models.files.compact import INT8_CODES
from binderclip.models.files.devices import resolve_dtype
from binderclip.models.files.registry import CONCEPTS, CONFIG, SIMILARITY, WEIGHTS
from binderclip.similarity.geometry import Similarity
from binderclip.similarity.hubness import CSLS

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel


def save(
    model: ImageTextModel,
    folder: str | Path,
    *,
    dtype: str | torch.dtype = "float32",
    packed: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a model folder: configuration, weights (safetensors), tokenizer files and `card.json`.

    A model that compares by another geometry than the cosine keeps it, learned values and all, in `similarity.json`.
    The weights file is put in place last and whole, so a folder that has one is complete.

    Args:
        model: the model.
        folder: made where it does not exist.
        dtype: precision of the weights on disk; logit scale and bias stay float32.
        packed: weights as `compact` stores them in few bits, instead of those of these names; the model has the values
            that they stand for.

    Raises:
        UsageError: `folder` is a file.
        NotSupported: the model was made without the configuration that open_clip needs, is a network of the user's own,
            or compares by a geometry that has no name; another precision than float32 beside int8 layers or packed
            weights; packed weights of a model that is not open_clip's.
        OutputError: it cannot be written.
    """
    from binderclip.similarity.record import similarity_record

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"cannot save to {folder}: it is a file")
    precision = resolve_dtype(dtype)
    if model.kind == "open_clip" and "model_cfg" not in model.config:
        raise NotSupported(
            f"{model.name} was made without config={{'model_cfg': ...}}, which a model folder needs; use models.build, "
            "or save its backbone's state_dict() to a FILE, which `load` opens as open_clip:ARCHITECTURE/FILE"
        )
    if model.kind == "module":
        raise NotSupported(
            f"{model.name} is a module {type(model.backbone).__name__}, of whose class a model folder knows nothing: "
            "torch.save(module.state_dict(), FILE) keeps its weights"
        )
    concepts = model.concepts
    if precision != torch.float32 and (
        packed or any(name.endswith(INT8_CODES) for name in model.backbone.state_dict())
    ):
        raise NotSupported(f"{model.name} has weights in few bits, beside which the others stay float32")
    if packed and model.kind != "open_clip":
        raise NotSupported(f"weights in few bits are for folders of open_clip's kind, not for those of {model.name}")
    # The correction of hubs is made of the concepts again, which hold its references.
    plain = model.geometry is None or (concepts is not None and isinstance(model.geometry, CSLS))
    record = None if plain else similarity_record(model.geometry)  # type: ignore[arg-type]
    make_folder(folder)
    model.tokenizer.save(folder)
    if record is None:
        (folder / SIMILARITY).unlink(missing_ok=True)
    else:
        _write_json(folder / SIMILARITY, record)
    card = {"name": model.name, **model.card, "history": list(model.history)}
    _write_json(folder / "card.json", card)
    if model.kind == "open_clip":
        config = {"model_cfg": model.config["model_cfg"], "preprocess_cfg": model.preprocess.to_open_clip()}
        towers = model.backbone
        if concepts is not None:
            towers = model.backbone.base
            # open_clip opens the towers alone, which take pictures of another size.
            config["preprocess_cfg"] = model.preprocess.at(model.backbone.sides[1]).to_open_clip()
            config["binderclip"] = {"concepts": True}
            own, packed = _part_of(packed, "concepts."), _part_of(packed, "base.")
            about = {"binderclip": compact_json(model.backbone.settings() | (INT4 if own else {}))}
            _write_weights(folder / CONCEPTS, _with_packed(_on_disk(concepts.tensors(), precision), own), about)
        if packed:
            config["binderclip"] = {**config.get("binderclip", {}), **INT4}
        _write_json(folder / CONFIG, config)
        _write_weights(folder / WEIGHTS, _with_packed(_on_disk(towers.state_dict(), precision), packed))
    else:
        _save_transformers(model, folder, precision)
    return folder


INT4 = {"weights": "int4"}
"""What settings say of tensors of which some are packed."""


def _part_of(packed: Mapping[str, Tensor] | None, prefix: str) -> dict[str, Tensor]:
    """The packed weights of a part of the backbone, by their names in it."""
    return {name.removeprefix(prefix): own for name, own in (packed or {}).items() if name.startswith(prefix)}


def _with_packed(state: dict[str, Tensor], packed: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """A state with packed weights instead of those of these names."""
    packed = packed or {}
    return {name: tensor for name, tensor in state.items() if name not in packed} | dict(packed)


def read_similarity(folder: Path) -> Similarity | None:
    """The geometry that a model folder keeps; None where it compares by cosine.

    Raises:
        CheckpointError: a damaged record.
    """
    path = folder / SIMILARITY
    if not path.is_file():
        return None
    from binderclip.similarity.record import frozen_similarity, similarity_from_record

    record = read_json_object(path, "settings", "learned")
    try:
        return frozen_similarity(similarity_from_record(record))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _on_disk(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    def stored(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if name in ("logit_scale", "logit_bias") else dtype)
        return tensor.contiguous().clone()

    return {name: stored(name, tensor) for name, tensor in state.items()}


def _write_weights(path: Path, state: dict[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    from safetensors.torch import save_file

    write_whole(path, lambda draft: save_file(state, draft, {"format": "pt", **(about or {})}))


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json_text(value) + "\n")


def _save_transformers(model: ImageTextModel, folder: Path, dtype: torch.dtype) -> None:
    state = _on_disk(model.backbone.state_dict(), dtype)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as scratch:
        model.backbone.save_pretrained(scratch, state_dict=state)  # type: ignore[operator]
        # The weights last: their names come after the configuration's, `model.safetensors` after `config.json`.
        for made in sorted(Path(scratch).iterdir()):
            write_whole(folder / made.name, made)
    pixels = model.preprocess
    h, w = pixels.size
    squash = pixels.resize_mode == "squash"
    processor = {
        "image_processor_type": "SiglipImageProcessor" if model.kind == "hf-siglip" else "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": h, "width": w} if squash else {"shortest_edge": min(h, w)},
        "resample": {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}[pixels.interpolation],
        "do_center_crop": not squash,
        "crop_size": {"height": h, "width": w},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
        "do_convert_rgb": True,
    }
    _write_json(folder / "preprocessor_config.json", processor)

"""`transformers`' CLIPModel and SiglipModel as `ImageTextModel`s."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from binderclip.errors import CheckpointError, NotSupported, UsageError, require
from binderclip.models.checkpoint import check_weights_file, guarded
from binderclip.models.hub import cache_only_when_unreachable, why_not
from binderclip.models.image_text import ImageTextModel
from binderclip.models.preprocess import Interpolation, Preprocess
from binderclip.models.tokenize import MissingTokenizer, Tokenizer, TransformersTokenizer

KINDS = {"clip": ("hf-clip", "CLIPModel"), "siglip": ("hf-siglip", "SiglipModel")}
_RESAMPLING: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def load_hf(source: str, name: str) -> ImageTextModel:
    """A model of the Hugging Face hub, or a folder in its format.

    Args:
        source: `ORG/REPO` or a folder.
        name: as the user wrote it.

    Raises:
        UsageError: an empty name.
        CheckpointError: not on this machine and not to be had, or damaged.
        NotSupported: another kind of model.
    """
    if not source:
        raise UsageError("hf: needs a repository or a folder: hf:openai/clip-vit-base-patch32, hf:./my-clip")
    transformers: Any = require("transformers", "hf")
    folder = Path(source)
    if folder.is_dir():
        check_folder(folder)
    config, local = local_first(lambda **o: transformers.AutoConfig.from_pretrained(source, **o), source, name)
    if config.model_type not in KINDS:
        raise NotSupported(
            f"{name} is a {config.model_type!r} model; supported are {', '.join(c for _, c in KINDS.values())} "
            f"(model_type {', '.join(KINDS)})"
        )
    kind, class_name = KINDS[config.model_type]
    where = {"local_files_only": True} if local else {}
    backbone = guarded(lambda: _weights(getattr(transformers, class_name), source, name, where), name, class_name)
    return ImageTextModel(
        backbone,
        kind=kind,
        name=name,
        preprocess=_preprocess(transformers, source, config, kind, where),
        tokenizer=_tokenizer(transformers, source, name, config, where),
        card={"summary": f"transformers {class_name}, {source}", "weights": source},
    )


def check_folder(folder: Path) -> None:
    """Look at the files before a library opens them."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} is not a transformers model folder: it has no config.json")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{config} is not JSON: {error}") from error
    weights = [p for pattern in ("*.safetensors", "pytorch_model*.bin") for p in sorted(folder.glob(pattern))]
    if not weights:
        raise CheckpointError(f"{folder} has a configuration but no weights (model.safetensors): it is incomplete")
    for path in weights:
        check_weights_file(path)


def local_first(read: Any, source: str, name: str) -> tuple[Any, bool]:
    """What `read` gives, from this machine alone where it can: then nothing waits for a network."""
    try:
        return read(local_files_only=True), True
    except (OSError, ValueError) as error:
        if Path(source).is_dir():
            raise CheckpointError(f"{name} cannot be read: {_first_line(error)}") from error
    try:
        with cache_only_when_unreachable() as online:
            return read(local_files_only=not online), False
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name} is not on this machine and could not be downloaded ({why_not(error)}). Where there is a "
            f"network, run `hf download {source}` and copy the cache ($HF_HOME), or give the folder: hf:FOLDER"
        ) from error


def _weights(model_class: Any, source: str, name: str, where: dict[str, Any]) -> torch.nn.Module:
    verbose = _silence()
    try:
        model, report = model_class.from_pretrained(
            source, torch_dtype=torch.float32, output_loading_info=True, weights_only=True, **where
        )
    except OSError as error:
        raise CheckpointError(f"the weights of {name} cannot be read: {_first_line(error)}") from error
    finally:
        verbose()
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the weights of {name} lack {len(missing)} tensors of {model_class.__name__}, the first: {missing[0]}"
        )
    return model


def _silence() -> Any:
    """Switch off transformers' progress bars and reports; returns what switches them on again."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def restore() -> None:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

    return restore


def _preprocess(transformers: Any, source: str, config: Any, kind: str, where: dict[str, Any]) -> Preprocess:
    side = int(config.vision_config.image_size)
    try:
        found = transformers.AutoImageProcessor.from_pretrained(source, **where)
    except (OSError, ValueError, ImportError):
        # Folders written by `model.save_pretrained` alone have no processor: take the family's own.
        if kind == "hf-siglip":
            return Preprocess((side, side), (0.5,) * 3, (0.5,) * 3, resize_mode="squash")  # type: ignore[arg-type]
        return Preprocess((side, side), crop_rounding="down")
    size = dict(found.size)
    squash = bool(size.get("height")) and not getattr(found, "do_center_crop", False)
    crop = dict(found.crop_size) if getattr(found, "do_center_crop", False) else size
    height, width = int(crop.get("height") or side), int(crop.get("width") or side)
    if not squash and size.get("shortest_edge") and int(size["shortest_edge"]) != min(height, width):
        raise NotSupported(f"{source}: resizing to {size['shortest_edge']} and cropping {height} x {width} pixels")
    return Preprocess(
        size=(height, width),
        mean=tuple(found.image_mean),
        std=tuple(found.image_std),
        interpolation=_RESAMPLING.get(int(found.resample), "bicubic"),
        resize_mode="squash" if squash else "shortest",
        crop_rounding="down",
    )


def _tokenizer(transformers: Any, source: str, name: str, config: Any, where: dict[str, Any]) -> Tokenizer:
    length = int(config.text_config.max_position_embeddings)
    try:
        found = transformers.AutoTokenizer.from_pretrained(source, **where)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        return MissingTokenizer(
            length, f"{name} can encode images but not texts: its tokenizer cannot be read ({_first_line(error)})"
        )
    return TransformersTokenizer(found, length)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]

"""`transformers`' CLIPModel, its kin and SiglipModel as `ImageTextModel`s."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from binderclip.errors import CheckpointError, NotSupported, UsageError, require
from binderclip.models.files.checkpoint import check_weights_file, configured, first_words, guarded, read_json_object
from binderclip.models.files.hub import cache_only_when_unreachable, why_not
from binderclip.models.files.saving import read_similarity
from binderclip.models.image_text.backends import Kind
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import Interpolation, Preprocess
from binderclip.models.text.tokenize import MissingTokenizer, Tokenizer, TransformersTokenizer

KINDS: dict[str, tuple[Kind, str]] = {
    "clip": ("hf-clip", "CLIPModel"),
    "metaclip_2": ("hf-metaclip-2", "MetaClip2Model"),
    "chinese_clip": ("hf-chinese-clip", "ChineseCLIPModel"),
    "altclip": ("hf-altclip", "AltCLIPModel"),
    "siglip": ("hf-siglip", "SiglipModel"),
}
"""model_type -> how it is called, and its class. SigLIP 2 checkpoints of fixed resolution are of model_type siglip."""
NAFLEX = (
    "a SigLIP 2 of variable resolution (NaFlex), which takes lists of patches instead of images; SigLIP 2 checkpoints "
    "of fixed resolution, such as google/siglip2-base-patch16-224, are supported"
)
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)
PLACES = "vision_model.embeddings.position_embedding.weight"
"""Of the image tower, one row a patch and one for a class token."""
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
    if config.model_type == "siglip2":
        raise NotSupported(f"{name} is {NAFLEX}")
    if config.model_type not in KINDS:
        raise NotSupported(
            f"{name} is a {config.model_type!r} model; supported are {', '.join(c for _, c in KINDS.values())} "
            f"(model_type {', '.join(KINDS)})"
        )
    kind, class_name = KINDS[config.model_type]
    where = {"local_files_only": True} if local else {}
    backbone = guarded(lambda: _weights(getattr(transformers, class_name), source, name, where), name, class_name)
    preprocess = configured(
        lambda: _preprocess(transformers, source, config, kind, where), Path(source) / "preprocessor_config.json"
    )
    tokenizer = _tokenizer(transformers, source, name, config, where)
    card = {"summary": f"transformers {class_name}, {source}", "weights": source}
    geometry = read_similarity(Path(source)) if local else None
    return configured(
        lambda: ImageTextModel(
            backbone, kind=kind, name=name, preprocess=preprocess, tokenizer=tokenizer, card=card, geometry=geometry
        ),
        Path(source) / "config.json",
    )


def check_folder(folder: Path) -> None:
    """Look at the files before a library opens them."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{folder} is not a transformers model folder: it has no config.json")
    read_json_object(config)
    weights = [p for pattern in ("*.safetensors", "pytorch_model*.bin") for p in sorted(folder.glob(pattern))]
    if not weights:
        raise CheckpointError(f"{folder} has a configuration but no weights (model.safetensors): it is incomplete")
    for path in weights:
        check_weights_file(path)


def local_first(read: Any, source: str, name: str) -> tuple[Any, bool]:
    """What `read` gives, from this machine alone where it can: then nothing waits for a network."""
    if Path(source).is_dir():
        return configured(lambda: read(local_files_only=True), Path(source) / "config.json"), True
    try:
        return read(local_files_only=True), True
    except (OSError, ValueError):
        pass
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
            source, torch_dtype=torch.float32, output_loading_info=True, weights_only=True,
            ignore_mismatched_sizes=True, **where,
        )  # fmt: skip
    except OSError as error:
        raise CheckpointError(f"the weights of {name} cannot be read: {first_words(error)}") from error
    finally:
        verbose()
    if report["mismatched_keys"]:  # refused here, since transformers says in its log alone which they are
        raise CheckpointError(
            f"{name} does not fit {model_class.__name__}: {_misfit(model, report['mismatched_keys'])}"
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(
            f"the weights of {name} lack {len(missing)} tensors of {model_class.__name__}, the first: {missing[0]}"
        )
    return model


def _misfit(model: Any, mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]]) -> str:
    """Which tensor of a file has another shape than the configuration gives it; of positions, which size is right.

    Args:
        model: as the configuration built it.
        mismatched: names of tensors, their shapes in the file and those in the model.
    """
    key, stored, built = min(mismatched, key=lambda each: (not each[0].endswith(PLACES), each[0]))
    shapes = f"{key} is {tuple(stored)} in the weights, and {tuple(built)} by config.json"
    vision = model.config.vision_config
    if not key.endswith(PLACES) or stored[1] != built[1]:
        return shapes
    before = built[0] - (vision.image_size // vision.patch_size) ** 2  # the class token
    side = math.isqrt(max(0, stored[0] - before))
    if side**2 + before != stored[0]:
        return shapes
    return (
        f"vision_config.image_size in config.json is {vision.image_size}, but the weights take "
        f"{side * vision.patch_size} pixels ({shapes})"
    )


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
    folder = Path(source)
    files = ("preprocessor_config.json", "processor_config.json")
    try:
        if folder.is_dir() and any((folder / file).is_file() for file in files):
            processor = configured(lambda: transformers.AutoImageProcessor.from_pretrained(source), folder / files[0])
        else:
            processor = transformers.AutoImageProcessor.from_pretrained(source, **where)
    except (OSError, ValueError, ImportError):
        # Folders written by `model.save_pretrained` alone have no processor: take the family's own.
        if kind == "hf-siglip":
            return Preprocess((side, side), (0.5,) * 3, (0.5,) * 3, resize_mode="squash")  # type: ignore[arg-type]
        return Preprocess((side, side), crop_rounding="down")
    return preprocess_of(processor, side, source)


def preprocess_of(processor: Any, side: int, source: str) -> Preprocess:
    """The steps of an image processor of transformers.

    Args:
        processor: `CLIPImageProcessor`, `SiglipImageProcessor`, ...
        side: of the model's input in pixels, where the processor does not say one.
        source: of the model, for messages.

    Raises:
        NotSupported: it resizes to another size than it crops.
    """
    size = dict(processor.size)
    squash = bool(size.get("height")) and not getattr(processor, "do_center_crop", False)
    crop = dict(processor.crop_size) if getattr(processor, "do_center_crop", False) else size
    height, width = int(crop.get("height") or side), int(crop.get("width") or side)
    if not squash and size.get("shortest_edge") and int(size["shortest_edge"]) != min(height, width):
        raise NotSupported(f"{source}: resizing to {size['shortest_edge']} and cropping {height} x {width} pixels")
    return Preprocess(
        size=(height, width),
        mean=tuple(processor.image_mean),
        std=tuple(processor.image_std),
        interpolation=_RESAMPLING.get(int(processor.resample), "bicubic"),
        resize_mode="squash" if squash else "shortest",
        crop_rounding="down",
    )


def _tokenizer(transformers: Any, source: str, name: str, config: Any, where: dict[str, Any]) -> Tokenizer:
    text = config.text_config
    length = int(text.max_position_embeddings)
    images_alone = f"{name} can encode images but not texts:"
    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in VOCABULARIES):
        return MissingTokenizer(
            length,
            f"{images_alone} the folder has no tokenizer ({', '.join(VOCABULARIES[:3])}, ...); "
            "save it there with tokenizer.save_pretrained(FOLDER)",
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **where)
    except Exception as error:  # the readers of vocabularies raise many kinds
        return MissingTokenizer(length, f"{images_alone} its tokenizer cannot be read ({first_words(error)})")
    return tokenizer_for(tokenizer, config)


def tokenizer_for(tokenizer: Any, config: Any) -> TransformersTokenizer:
    """A tokenizer of transformers that pads to the length of a model's text tower.

    Args:
        tokenizer: of transformers.
        config: the model's.
    """
    text = config.text_config
    length = int(text.max_position_embeddings)
    if config.model_type == "altclip":  # RoBERTa counts positions from behind the padding's
        length -= int(text.pad_token_id) + 1
    if config.model_type in ("altclip", "chinese_clip"):
        length = min(length, int(tokenizer.model_max_length))
    return TransformersTokenizer(tokenizer, length)

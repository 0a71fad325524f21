"""Model folders in open_clip's `local-dir:` format: what they hold, and an `ImageTextModel` around a built backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from binderclip.errors import CheckpointError, NotSupported
from binderclip.models.bundled.encoder import ARCHITECTURES, BundledEncoder
from binderclip.models.files import registry
from binderclip.models.files.checkpoint import (
    check_weights_file,
    check_weights_finite,
    configured,
    guarded,
    read_json_object,
)
from binderclip.models.files.compact import INT8_CODES, compact_state, text_folder
from binderclip.models.files.saving import read_similarity
from binderclip.models.image_text.backends import place_backbone
from binderclip.models.image_text.concepts_file import with_concepts
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import Preprocess
from binderclip.models.text.tokenize import FileTokenizer, Tokenizer, clean_whitespace
from binderclip.similarity.geometry import Similarity

__all__ = ["ModelFolder", "encoder_from_folder", "finish", "read_model_folder", "wrap"]

# What `BundledEncoder` reads, or is the same whatever stands there.
MODEL_KEYS = frozenset({"embed_dim", "custom_text", "vision_cfg", "text_cfg"})
VISION_KEYS = frozenset(
    {"timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias", "image_size"}
)
TEXT_KEYS = frozenset({"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "hf_tokenizer_name"})
POOLS = {"binderclip_lite0_vit": "token", "binderclip_lite2": "avg"}


@dataclass(frozen=True)
class ModelFolder:
    """A folder as it was read.

    Attributes:
        path: the folder.
        config: `open_clip_config.json`.
        weights: the file of the weights, looked at.
    """

    path: Path
    config: Mapping[str, Any]
    weights: Path

    @property
    def model_cfg(self) -> dict[str, Any]:
        """The configuration of the model."""
        return self.config["model_cfg"]

    @property
    def compact(self) -> Mapping[str, Any]:
        """How the weights are stored, where that is a way of ours (`files.compact`); else empty."""
        return self.config.get("binderclip", {})

    def wrapped(self, backbone: Any, name: str, tokenizer: Callable[[], Tokenizer]) -> ImageTextModel:
        """The model around a backbone that holds the weights.

        Raises:
            CheckpointError: another part of the configuration is damaged.
        """
        card, geometry, whole = registry.read_card(self.path), read_similarity(self.path), backbone
        if "concepts" in self.compact:
            whole, geometry = with_concepts(backbone, self.path, self.compact)

        def make() -> ImageTextModel:
            preprocess = Preprocess.from_open_clip(self.config.get("preprocess_cfg", {}))
            size = whole.sides[0] if whole is not backbone else getattr(backbone.visual, "image_size", None)
            return wrap(whole, name, self.model_cfg, preprocess.at(size), tokenizer(), card, geometry)

        return configured(make, self.path / registry.CONFIG)


def read_model_folder(folder: Path) -> ModelFolder:
    """Configuration and weights of a folder.

    Raises:
        CheckpointError: one is missing, damaged or unsafe to read.
    """
    path = folder / registry.CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model folder: it has no {registry.CONFIG}")
    parts = ("model_cfg", "model_cfg.vision_cfg", "model_cfg.text_cfg", "preprocess_cfg", "binderclip")
    config = read_json_object(path, *parts)
    if not config.get("model_cfg"):
        raise CheckpointError(f"{path} has no 'model_cfg'")
    return ModelFolder(folder, config, check_weights_file(_weights_in(_towers_folder(folder, config))))


def _towers_folder(folder: Path, config: Mapping[str, Any]) -> Path:
    """Folder of the towers' weights: the folder itself, or its neighbour named by `towers`."""
    towers = (config.get("binderclip") or {}).get("towers")
    return folder if towers is None else folder.parent / str(towers)


def _weights_in(folder: Path) -> Path:
    preferred = [registry.WEIGHTS, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin"]
    files = [folder / name for name in preferred if (folder / name).is_file()]
    files += [path for suffix in ("safetensors", "bin", "pth", "pt") for path in sorted(folder.glob(f"*.{suffix}"))]
    if not files:
        raise CheckpointError(f"{folder} has a configuration but no weights ({registry.WEIGHTS}): it is incomplete")
    return files[0]


def wrap(
    backbone: Any,
    name: str,
    config: Mapping[str, Any],
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    card: Mapping[str, Any],
    geometry: Similarity | None = None,
) -> ImageTextModel:
    """An `ImageTextModel` around a backbone of open_clip's face.

    Args:
        backbone: has `encode_image`, `encode_text`, `visual` and `logit_scale`.
        name: it goes by.
        config: `model_cfg`.
        preprocess, tokenizer, card, geometry: as `ImageTextModel` takes them.
    """
    return ImageTextModel(
        backbone,
        kind="open_clip",
        name=name,
        preprocess=preprocess,
        tokenizer=tokenizer,
        config={"model_cfg": dict(config)},
        card=card,
        embed_dim=int(config["embed_dim"]),
        geometry=geometry,
    )


def finish(model: ImageTextModel, device: torch.device, dtype: torch.dtype) -> ImageTextModel:
    """The last steps of every `load`: device, precision, memory format, eval mode.

    Raises:
        CheckpointError: weights that are NaN or infinite, or become so in this precision.
        NotSupported: another device or precision than that of a model's int8 layers.
    """
    state = model.backbone.state_dict()
    check_weights_finite(state, model.name)
    if (device.type, dtype) != ("cpu", torch.float32) and any(name.endswith(INT8_CODES) for name in state):
        raise NotSupported(
            f"{model.name} computes in int8, on the CPU and beside float32 alone, not in "
            f"{str(dtype).removeprefix('torch.')} on {device}: open the float model that it was made of"
        )
    place_backbone(model.backbone, model.kind, device, dtype)
    if model.geometry is not None:
        model.geometry.to(device)
    if dtype == torch.float16:  # numbers beyond 65,504
        check_weights_finite(model.backbone.state_dict(), model.name)
    return model.eval()


# -- for encoding alone ----------------------------------------------------------------------------------------------


def encoder_from_folder(folder: Path, name: str) -> ImageTextModel | None:
    """The model of a folder in torch alone (`bundled.encoder`); None where it is of another architecture.

    Args:
        folder: in open_clip's `local-dir:` format.
        name: the model goes by.

    Raises:
        CheckpointError: a missing or damaged configuration or weight file.
    """
    own = read_model_folder(folder)
    texts = text_folder(folder, own.compact)
    if not (
        _is_bundled(own.model_cfg) and own.weights.suffix == ".safetensors" and (texts / "tokenizer.json").is_file()
    ):
        return None

    def build() -> nn.Module:
        backbone = BundledEncoder(own.model_cfg)
        state = compact_state(folder, own.weights, own.compact) if own.compact else load_file(own.weights)
        backbone.load_state_dict(state, strict=True)
        return backbone

    backbone = guarded(build, own.weights, f"the configuration in {folder}")
    length = int(own.model_cfg["text_cfg"]["context_length"])
    return own.wrapped(backbone, name, lambda: FileTokenizer(texts, length, clean=clean_whitespace))


def _is_bundled(model_cfg: Mapping[str, Any]) -> bool:
    """Whether a configuration is one that `BundledEncoder` builds as open_clip would."""
    vision, text = model_cfg.get("vision_cfg", {}), model_cfg.get("text_cfg", {})
    name = vision.get("timm_model_name")
    return (
        model_cfg.keys() <= MODEL_KEYS
        and model_cfg.get("custom_text") is True
        and vision.keys() <= VISION_KEYS
        and isinstance(name, str)
        and name in ARCHITECTURES
        and vision.get("timm_pool") == POOLS[name]
        and vision.get("timm_proj") == "linear"
        and isinstance(vision.get("image_size"), int)
        and text.keys() <= TEXT_KEYS
        and TEXT_KEYS - {"mlp_ratio"} <= text.keys()
    )

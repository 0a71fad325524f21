"""Every backbone through one small interface: embed, blocks (qkv, mix, mlp), pool, project, dense."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from binderclip.errors import NotSupported
from binderclip.models.towers.base import Stack, Tower
from binderclip.models.towers.block import Backbone, Block
from binderclip.models.towers.kinds.convolutional import ConvolutionalTower, open_convolutional_tower
from binderclip.models.towers.record import BLOCK_SITES, Record, Recorder, Site
from binderclip.models.towers.text import TextTower

__all__ = [
    "BLOCK_SITES",
    "Block",
    "ConvolutionalTower",
    "Record",
    "Recorder",
    "Site",
    "Stack",
    "TextTower",
    "Tower",
    "open_convolutional_tower",
    "open_image_tower",
    "open_text_tower",
]

IMAGE_KINDS = (
    "open_clip VisionTransformer, timm VisionTransformer and Eva (bare or inside open_clip), "
    "Hugging Face CLIPModel, MetaClip2Model, ChineseCLIPModel, AltCLIPModel and SiglipModel"
)
TEXT_KINDS = (
    "open_clip CLIP and TextTransformer, "
    "Hugging Face CLIPModel, MetaClip2Model, ChineseCLIPModel, AltCLIPModel and SiglipModel"
)
HF_CLIP = (
    "CLIPModel", "CLIPVisionModelWithProjection", "MetaClip2Model", "MetaClip2VisionModelWithProjection",
    "ChineseCLIPModel", "AltCLIPModel",
)  # fmt: skip
HF_CLIP_TEXT = ("CLIPModel", "CLIPTextModelWithProjection", "MetaClip2Model", "MetaClip2TextModelWithProjection")


def _library(module: nn.Module) -> str:
    """Library that wrote the class (or the nearest base class of a known library)."""
    for base in type(module).__mro__:
        root = base.__module__.split(".")[0]
        if root in ("open_clip", "timm", "transformers"):
            return root
    return ""


def open_image_tower(
    backbone: nn.Module, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Tower:
    """Open the image side of a backbone.

    Args:
        backbone: an open_clip CLIP/CustomTextCLIP/CoCa (or its `visual`), a timm VisionTransformer or Eva, a Hugging
            Face CLIPModel or MetaClip2Model (or their ...VisionModelWithProjection), ChineseCLIPModel, AltCLIPModel or
            SiglipModel.
        mean, std: the pixel normalisation that belongs to it; kept as `tower.mean`, `tower.std`, never applied.

    Raises:
        NotSupported: any other class; the message names it and what is supported.
    """
    visual: Backbone = getattr(backbone, "visual", backbone)
    library, name = _library(visual), type(visual).__name__
    if library == "open_clip" and name == "VisionTransformer":
        from binderclip.models.towers.kinds.open_clip_vit import OpenClipTower

        return OpenClipTower(visual, mean=mean, std=std)
    if library == "timm" or (library == "open_clip" and name == "TimmModel"):
        trunk, head = (visual, None) if library == "timm" else (visual.trunk, visual.head)
        if type(trunk).__name__ == "Eva":
            from binderclip.models.towers.kinds.timm_eva import EvaTower

            return EvaTower(trunk, head, mean=mean, std=std)
        from binderclip.models.towers.kinds.timm_vit import TimmTower

        return TimmTower(trunk, head, mean=mean, std=std)
    if library == "transformers" and name in HF_CLIP:
        from binderclip.models.towers.kinds.hf_clip import HfClipTower

        return HfClipTower(visual, mean=mean, std=std)
    if library == "transformers" and name == "SiglipModel":
        from binderclip.models.towers.kinds.hf_siglip import HfSiglipTower

        return HfSiglipTower(visual, mean=mean, std=std)
    _refuse_encoders(visual)
    raise NotSupported(f"image tower {name} is not supported; supported: {IMAGE_KINDS}")


def open_text_tower(backbone: nn.Module) -> TextTower:
    """Open the text side of a backbone.

    Args:
        backbone: an open_clip CLIP/CustomTextCLIP/CoCa (or its `text`), a Hugging Face CLIPModel or MetaClip2Model (or
            their ...TextModelWithProjection), ChineseCLIPModel, AltCLIPModel or SiglipModel.

    Raises:
        NotSupported: any other class; the message names it and what is supported.
    """
    owner: Backbone = getattr(backbone, "text", backbone)
    library, name = _library(owner), type(owner).__name__
    if library == "open_clip" and (name == "TextTransformer" or hasattr(owner, "text_pool_type")):
        from binderclip.models.towers.kinds.open_clip_text import OpenClipTextTower

        return OpenClipTextTower(owner)
    if library == "transformers" and name in HF_CLIP_TEXT:
        from binderclip.models.towers.kinds.hf_clip import hf_clip_text

        return hf_clip_text(owner)
    if library == "transformers" and name in ("ChineseCLIPModel", "AltCLIPModel"):
        from binderclip.models.towers.kinds.hf_bert import altclip_text, chinese_clip_text

        return altclip_text(owner) if name == "AltCLIPModel" else chinese_clip_text(owner)
    if library == "transformers" and name == "SiglipModel":
        from binderclip.models.towers.kinds.hf_siglip import hf_siglip_text

        return hf_siglip_text(owner)
    _refuse_encoders(owner)
    raise NotSupported(f"text tower {name} is not supported; supported: {TEXT_KINDS}")


def _refuse_encoders(module: nn.Module) -> None:
    if type(module).__module__ == "binderclip.models.bundled.encoder":
        raise NotSupported("the model was opened by load_encoder, which encodes alone: `load` gives one that opens")

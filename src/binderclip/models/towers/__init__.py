"""Every backbone through one small interface: embed, blocks (qkv, mix, mlp), pool, project, dense."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from binderclip.errors import NotSupported
from binderclip.models.towers.base import Stack, Tower
from binderclip.models.towers.block import Backbone, Block
from binderclip.models.towers.record import BLOCK_SITES, Record, Recorder, Site

__all__ = [
    "BLOCK_SITES",
    "Block",
    "Record",
    "Recorder",
    "Site",
    "Stack",
    "Tower",
    "open_image_tower",
]

IMAGE_KINDS = (
    "open_clip VisionTransformer, timm VisionTransformer (bare or inside open_clip), "
    "Hugging Face CLIPModel and SiglipModel"
)


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
        backbone: an open_clip CLIP/CustomTextCLIP/CoCa (or its `visual`), a timm VisionTransformer, a Hugging Face
            CLIPModel or SiglipModel.
        mean, std: the pixel normalisation that belongs to it; kept as `tower.mean`, `tower.std`, never applied.

    Raises:
        NotSupported: any other class; the message names it and what is supported.
    """
    library = _library(backbone)
    if library == "transformers":
        return _hugging_face(backbone, mean, std)
    visual: Backbone = getattr(backbone, "visual", backbone)
    library, name = _library(visual), type(visual).__name__
    if library == "open_clip" and name == "VisionTransformer":
        from binderclip.models.towers.open_clip_vit import OpenClipTower

        return OpenClipTower(visual, mean=mean, std=std)
    if hasattr(visual, "trunk") and name == "TimmModel":
        from binderclip.models.towers.timm_vit import TimmTower

        return TimmTower(visual.trunk, visual.head, mean=mean, std=std)
    if library == "timm":
        from binderclip.models.towers.timm_vit import TimmTower

        return TimmTower(visual, mean=mean, std=std)
    raise NotSupported(f"image tower {name} is not supported; supported: {IMAGE_KINDS}")

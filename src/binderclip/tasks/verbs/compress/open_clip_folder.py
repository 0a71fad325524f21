"""Whether open_clip alone opens the folder of a model that became smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binderclip.models import ImageTextModel

OWN = ("experts", "alpha", "final_norm")
"""Further entries of a configuration that are ours."""


def how_open_clip_opens(model: ImageTextModel, folder: Path, *, packed: bool) -> str:
    """One sentence: that open_clip opens a model's folder by itself, or why it cannot.

    Args:
        model: that was saved. folder: where it lies.
        packed: whether weights are stored in few bits.
    """
    config: Mapping[str, Any] = model.config["model_cfg"]
    reasons = list(_reasons(config, packed))
    if reasons:
        return f"open_clip alone cannot open the folder: {'; '.join(reasons)}. binderclip.load does."
    name = str(config.get("vision_cfg", {}).get("timm_model_name", ""))
    after = " after `import binderclip`, which registers its image tower" if name.startswith("binderclip") else ""
    return f"open_clip opens the folder as well, as local-dir:{folder}{after}."


def _reasons(config: Mapping[str, Any], packed: bool) -> Iterator[str]:
    """What its configuration has no words for."""
    if packed or "int8" in config:
        yield "it reads float weights, and these have few bits"
    for side, entry in config.get("pruned", {}).items():
        part = config[f"{side}_cfg"]
        tower = {"vision": "image", "text": "text"}[side]
        if "channels" in entry:
            yield f"its configuration has no word for channels that were taken out of the {tower} tower"
        elif "timm_model_name" in part or "hf_model_name" in part:
            yield f"its configuration has no word for widths of an {tower} tower of another library"
        elif any(block != entry["blocks"][0] for block in entry["blocks"]):
            yield f"its configuration has no word for blocks of several widths in the {tower} tower"
        else:
            yield f"its configuration has no word for fewer heads than the width of the {tower} tower holds"
    for name in OWN:
        if name in config:
            yield f"it does not know {name!r} of the configuration"

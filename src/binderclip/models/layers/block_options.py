"""Blocks of an image tower as very large models have them: RMS norm, norms on what is added, no bias of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from binderclip.errors import NotSupported, UsageError

__all__ = ["BLOCK_OPTIONS", "set_block_options"]

#: Entries of `vision_cfg` that are ours, with what open_clip's own blocks are.
BLOCK_OPTIONS: dict[str, Any] = {"norm": "layer", "post_norm": False, "qkv_bias": True}


def set_block_options(visual: nn.Module, options: Mapping[str, Any]) -> None:
    """Change the blocks of a new open_clip VisionTransformer, in place; its other parts and its names stay.

    A post-norm here is on the output of a branch, x + norm(attention(x)) and x + norm(mlp(x)), and not on the sum as in
    BERT; open_clip has a place for it, that of LayerScale (`ls_1`, `ls_2`). EVA-CLIP-18B has all three options.

    Args:
        visual: the tower, with new weights.
        options: `norm`: "layer", or "rms" for w x / sqrt(mean(x^2) + 1e-6) in the whole tower; `post_norm`: normalise
            what a branch adds instead of what it is given; `qkv_bias`: whether queries, keys and values have a bias.

    Raises:
        UsageError: an option that is none, or a wrong value.
        NotSupported: another tower than open_clip's VisionTransformer with its default blocks, or post_norm beside
            LayerScale.

    Paper: Sun et al., "EVA-CLIP-18B: Scaling CLIP to 18 Billion Parameters", arXiv 2402.04252.
    """
    if unknown := sorted(set(options) - set(BLOCK_OPTIONS)):
        raise UsageError(f"a block has no option {unknown[0]!r}: {', '.join(BLOCK_OPTIONS)}")
    chosen = {**BLOCK_OPTIONS, **options}
    if chosen["norm"] not in ("layer", "rms"):
        raise UsageError(f"vision_cfg.norm must be 'layer' or 'rms', got {chosen['norm']!r}")
    for name in ("post_norm", "qkv_bias"):
        if not isinstance(chosen[name], bool):
            raise UsageError(f"vision_cfg.{name} must be true or false, got {chosen[name]!r}")
    if chosen == BLOCK_OPTIONS:
        return
    blocks = _blocks(visual)
    for block in blocks:
        if not chosen["qkv_bias"]:
            block.attn.register_parameter("in_proj_bias", None)
        if chosen["post_norm"]:
            if not isinstance(block.ls_1, nn.Identity):
                raise NotSupported(
                    "vision_cfg.post_norm: leave ls_init_value out, the norm stands in LayerScale's place"
                )
            block.ls_1, block.ln_1 = block.ln_1, nn.Identity()
            block.ls_2, block.ln_2 = block.ln_2, nn.Identity()
    if chosen["norm"] == "rms":
        _use_rms(visual)


def _blocks(visual: Any) -> list[Any]:
    """The default blocks of open_clip's VisionTransformer."""
    blocks = list(getattr(getattr(visual, "transformer", None), "resblocks", ()))
    if type(visual).__name__ != "VisionTransformer" or any(
        type(b).__name__ != "ResidualAttentionBlock" for b in blocks
    ):
        raise NotSupported(
            f"vision_cfg.{', '.join(BLOCK_OPTIONS)} change the default blocks of open_clip's VisionTransformer, and "
            f"this tower is a {type(visual).__name__}"
        )
    return blocks


def _use_rms(visual: nn.Module) -> None:
    """An RMSNorm in the place of every LayerNorm."""
    for part in list(visual.modules()):
        for name, norm in list(part.named_children()):
            if isinstance(norm, nn.LayerNorm):
                rms = nn.RMSNorm(norm.normalized_shape, eps=1e-6, device=norm.weight.device, dtype=norm.weight.dtype)
                setattr(part, name, rms)

"""What differs between the libraries behind an `ImageTextModel`: how each is called and how it pools a sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import CheckpointError, NotSupported
from binderclip.models.text.tokenize import Pooling, TokenIds
from binderclip.settings import check_choice

Kind = Literal["open_clip", "hf-clip", "hf-metaclip-2", "hf-chinese-clip", "hf-altclip", "hf-siglip", "module"]


@dataclass(frozen=True)
class Backend:
    """The library's own forward passes.

    Args:
        image: (backbone, normalised (B, 3, h, w)) -> raw (B, E).
        text: (backbone, tokens) -> raw (Q, E).
        visual: backbone -> the module that holds the image tower.
        pooling: backbone -> (how it pools a sentence, the end id it looks for or None).
    """

    image: Callable[[Any, Tensor], Tensor]
    text: Callable[[Any, TokenIds], Tensor]
    visual: Callable[[Any], nn.Module]
    pooling: Callable[[Any], tuple[Pooling, int | None]]


def patch_embedding(visual: Any) -> Any:
    """The module of timm by which an image tower of open_clip cuts pictures into patches; None where there is none."""
    trunk = getattr(visual, "trunk", None)
    parts = (getattr(trunk, name, None) for name in ("patch_embed", "stem"))
    return next((part for part in parts if hasattr(part, "strict_img_size")), None)


def trunk_size(visual: Any) -> tuple[int, int] | None:
    """Height and width in pixels that timm's trunk in an image tower of open_clip takes; None where others pass too."""
    embed = patch_embedding(visual)
    return tuple(embed.img_size) if embed is not None and embed.strict_img_size and embed.img_size else None


def _open_clip_image(backbone: Any, pixels: Float[Tensor, "B C h w"]) -> Float[Tensor, "B E"]:
    size = getattr(backbone.visual, "image_size", None)
    native = type(backbone.visual).__name__ in ("VisionTransformer", "ModifiedResNet")
    want = trunk_size(backbone.visual)
    if native and size is not None:
        want = (size, size) if isinstance(size, int) else tuple(size)
    if want is not None and tuple(pixels.shape[-2:]) != want:
        raise NotSupported(
            f"open_clip's own forward of this model takes {want[0]} x {want[1]} pixels, not "
            f"{pixels.shape[-2]} x {pixels.shape[-1]}; image_tower runs other sizes"
        )
    return backbone.encode_image(pixels, normalize=False)


def _open_clip_pooling(backbone: Any) -> tuple[Pooling, int | None]:
    text = getattr(backbone, "text", backbone)
    pooler = getattr(text, "pooler", None)
    if pooler is not None:  # a Hugging Face text tower
        return ("first" if "Cls" in type(pooler).__name__ else "mean"), None
    if getattr(text, "cls_emb", None) is not None:
        return "appended", None
    rule = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", "argmax")
    end = getattr(text, "text_eos_id", None) if text is backbone else getattr(text, "eos_id", None)
    if rule not in ("first", "last", "argmax", "eos"):
        raise NotSupported(f"the text tower pools by {rule!r}; supported: first, last, argmax, eos")
    return rule, (_end_id(end, "eos_id") if rule == "eos" else None)


SPARED = 32
"""Places of padding that a batch must save before its sentences are shortened."""


def _open_clip_text(backbone: Any, tokens: TokenIds) -> Float[Tensor, "Q E"]:
    """The library's forward, without the padding that a causal tower never reads (CLIP pads 10 words to 77)."""
    owner = getattr(backbone, "text", backbone)
    causal = getattr(owner, "attn_mask", None) is not None and getattr(owner, "cls_emb", None) is None
    if not causal or backbone.training or torch.is_grad_enabled():
        return backbone.encode_text(tokens.ids, normalize=False)
    length = int(tokens.position.max()) + 1
    if tokens.ids.shape[1] - length < SPARED:
        return backbone.encode_text(tokens.ids, normalize=False)
    return _short_text(owner, tokens.ids[:, :length])


def _short_text(owner: Any, ids: Int[Tensor, "Q L"]) -> Float[Tensor, "Q E"]:
    """open_clip's `encode_text`, which takes full sentences alone, on the first L places of a causal tower."""
    from open_clip.transformer import text_global_pool

    inside = hasattr(owner, "text_pool_type")  # CLIP holds the parts itself, under other names
    rule, end = (owner.text_pool_type, owner.text_eos_id) if inside else (owner.pool_type, owner.eos_id)
    length, dtype = ids.shape[1], owner.transformer.get_cast_dtype()
    x = owner.token_embedding(ids).to(dtype) + owner.positional_embedding[:length].to(dtype)
    x = owner.ln_final(owner.transformer(x, attn_mask=owner.attn_mask[:length, :length].to(dtype)))
    x = text_global_pool(x, ids, rule, eos_token_id=end)
    projection = owner.text_projection
    if projection is None:
        return x
    return projection(x) if isinstance(projection, nn.Module) else x @ projection


def _features(output: Any) -> Tensor:
    # Up to transformers 4 these calls give the features, from 5 on an output whose pooled state they are.
    return output if isinstance(output, Tensor) else output.pooler_output


def _hf_image(backbone: Any, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B E"]:
    side = backbone.config.vision_config.image_size
    other = tuple(pixels.shape[-2:]) != (side, side)
    return _features(backbone.get_image_features(pixel_values=pixels, interpolate_pos_encoding=other))


def _hf_clip_text(backbone: Any, tokens: TokenIds) -> Float[Tensor, "Q E"]:
    return _features(backbone.get_text_features(input_ids=tokens.ids, attention_mask=tokens.mask.long()))


def _hf_bert_text(backbone: Any, tokens: TokenIds) -> Float[Tensor, "Q E"]:
    """Without the padding, which is masked: BERT has 512 places, and nothing is read at the last one."""
    length = int((tokens.mask * torch.arange(1, tokens.mask.shape[1] + 1, device=tokens.mask.device)).max())
    ids, mask = tokens.ids[:, : max(1, length)], tokens.mask[:, : max(1, length)]
    return _features(backbone.get_text_features(input_ids=ids, attention_mask=mask.long()))


def _hf_siglip_text(backbone: Any, tokens: TokenIds) -> Float[Tensor, "Q E"]:
    # SigLIP was trained without a padding mask.
    return _features(backbone.get_text_features(input_ids=tokens.ids))


def _hf_clip_pooling(backbone: Any) -> tuple[Pooling, int | None]:
    # 2 is what early configurations say by mistake; the library then takes the largest id, as OpenAI did.
    return ("argmax", None) if backbone.config.text_config.eos_token_id == 2 else _hf_end_pooling(backbone)


def _hf_end_pooling(backbone: Any) -> tuple[Pooling, int | None]:
    return "eos", _end_id(backbone.config.text_config.eos_token_id, "eos_token_id")


def _end_id(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise CheckpointError(f"{name} is {value!r}: the text tower is read at that token, so it must be one number")
    return value


def _module_visual(backbone: Any) -> nn.Module:
    visual = getattr(backbone, "visual", None)
    return visual if isinstance(visual, nn.Module) and any(True for _ in visual.parameters()) else backbone


def _hf(text: Callable[[Any, TokenIds], Tensor], pooling: Callable[[Any], tuple[Pooling, int | None]]) -> Backend:
    return Backend(image=_hf_image, text=text, visual=lambda backbone: backbone.vision_model, pooling=pooling)


BACKENDS: dict[Kind, Backend] = {
    "open_clip": Backend(
        image=_open_clip_image,
        text=_open_clip_text,
        visual=lambda backbone: backbone.visual,
        pooling=_open_clip_pooling,
    ),
    "hf-clip": _hf(_hf_clip_text, _hf_clip_pooling),
    "hf-metaclip-2": _hf(_hf_clip_text, _hf_end_pooling),
    "hf-chinese-clip": _hf(_hf_bert_text, lambda backbone: ("first", None)),
    "hf-altclip": _hf(_hf_bert_text, lambda backbone: ("first", None)),
    "hf-siglip": _hf(_hf_siglip_text, lambda backbone: ("last", None)),
    # A network of the user's own (`in_memory`): how it pools a sentence is not known, and nothing reads the place.
    "module": Backend(
        image=lambda backbone, pixels: backbone.encode_image(pixels),
        text=lambda backbone, tokens: backbone.encode_text(tokens.ids),
        visual=_module_visual,
        pooling=lambda backbone: ("last", None),
    ),
}


def backend_of(kind: str) -> Backend:
    """The backend by name.

    Raises:
        UsageError: an unknown kind.
    """
    check_choice("kind", kind, BACKENDS)
    return BACKENDS[kind]  # type: ignore[index]


def is_convolutional(module: nn.Module) -> bool:
    """True where convolutions other than a patch embedding do the work, which run faster channels-last."""
    return sum(isinstance(m, nn.Conv2d) for m in module.modules()) > 2


def place_backbone(backbone: nn.Module, kind: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a backbone: towers in `dtype`, logit scale and bias in float32 or better, convolutions channels-last."""
    kept = {
        name: parameter.detach().clone()
        for name in ("logit_scale", "logit_bias")
        if isinstance(parameter := getattr(backbone, name, None), Tensor)
    }
    backbone.to(device=device, dtype=dtype)
    for name, value in kept.items():
        exact = value if value.dtype in (torch.float32, torch.float64) else value.float()
        getattr(backbone, name).data = exact.to(device)
    for part in (backend_of(kind).visual(backbone), getattr(backbone, "concepts", None)):
        if part is not None and is_convolutional(part):
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone

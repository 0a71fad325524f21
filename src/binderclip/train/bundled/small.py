"""The body of `small`: its configuration, the closed-form start of its image tower, and how it is written to disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from binderclip.files import make_folder, write_whole
from binderclip.models.bundled.architectures import CLIP_MEAN, CLIP_STD

__all__ = [
    "SMALL",
    "TowerStates",
    "build_small",
    "closed_form_blocks",
    "closed_form_head",
    "reduced_ridge",
    "tower_states",
    "write_open_clip_folder",
]

SMALL: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 384,
        "custom_text": True,
        "vision_cfg": {
            "timm_model_name": "binderclip_lite0_vit",
            "timm_model_pretrained": False,
            "timm_pool": "token",
            "timm_proj": "linear",
            "image_size": 128,
        },
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 8000,
            "width": 256,
            "heads": 4,
            "layers": 3,
            "mlp_ratio": 2.0,
            "hf_tokenizer_name": "tokenizer.json",
        },
    },
    "preprocess_cfg": {
        "mean": list(CLIP_MEAN),
        "std": list(CLIP_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def build_small(config: Mapping[str, Any] = SMALL) -> CustomTextCLIP:
    """An untrained `small` by open_clip's own constructor."""
    model = config["model_cfg"]
    return CustomTextCLIP(model["embed_dim"], model["vision_cfg"], model["text_cfg"])


def reduced_ridge(
    features: Float[Tensor, "N F"], targets: Float[Tensor, "N E"], *, ridge: float = 1.0, rank: int | None = None
) -> tuple[Float[Tensor, "F E"], Float[Tensor, "F R"]]:
    """Ridge regression of centred targets on centred features, and its best basis of `rank` directions of features.

    Solved in float64. The second result maps features to the coordinates of their prediction in the leading right
    singular vectors of the fitted values (reduced-rank regression, Izenman 1975).
    """
    x, y = features.double(), targets.double()
    weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
    _, _, right = torch.linalg.svd(x @ weight, full_matrices=False)
    return weight.float(), (weight @ right[:rank].T).float()


def closed_form_blocks(
    trunk: Any, centre: Float[Tensor, "F"], basis: Float[Tensor, "F D"], *, rms: float, std: float = 0.03
) -> None:
    """Set the projection and the blocks, in place, so that CLS is nearly the mean of the locations' unit-length codes.

    Every block but the last starts as the identity. The last one's values are the normalised tokens, so its value path
    is the dense closed form; its queries and keys are one small random map, so that attention is near uniform and a
    token attends a little more to its like. Were both zero, each one's gradient would be a multiple of the other and
    neither would ever move.

    Args:
        trunk: the hybrid ViT.
        centre, basis: mean of the convolutional features, and their directions.
        rms: size of the codes before scaling.
        std: deviation of the weights of queries and keys. With normalised tokens of width D the logit of a token with
            itself is about D^1.5 H^-0.5 std^2 (H heads): 1.8 by default.
    """
    width = trunk.embed_dim
    with torch.no_grad():
        trunk.patch_embed.proj.weight.copy_((basis.T / rms)[:, :, None, None])
        trunk.patch_embed.proj.bias.copy_(-(centre @ basis) / rms)
        trunk.pos_embed.mul_(0.1)
        trunk.cls_token.zero_()
        for block in trunk.blocks:
            nn.init.zeros_(block.attn.proj.weight)
            nn.init.zeros_(block.mlp.fc2.weight)
            nn.init.normal_(block.attn.qkv.weight, std=0.02)
        last = trunk.blocks[-1].attn
        nn.init.normal_(last.qkv.weight[:width], std=std)
        last.qkv.weight[width : 2 * width].copy_(last.qkv.weight[:width])
        last.qkv.weight[2 * width :].copy_(torch.eye(width))
        last.proj.weight.copy_(torch.eye(width))


def closed_form_head(
    model: Any,
    pooled: Float[Tensor, "N D"],
    targets: Float[Tensor, "N E"],
    *,
    ridge: float = 0.1,
) -> None:
    """Fit the last linear map, in place: ridge from the normalised CLS states to the centred caption embeddings.

    The mean of the features goes into the bias of the last norm, and the direction of the mean caption is projected
    out, so that the plain cosine ranks as the centred one does.
    """
    centre, mean = pooled.mean(0), targets.mean(0)
    weight, _ = reduced_ridge((pooled - centre) / pooled.shape[1] ** 0.5, targets - mean, ridge=ridge)
    along = nn.functional.normalize(mean, dim=0)
    weight = weight - (weight @ along)[:, None] * along
    with torch.no_grad():
        model.visual.trunk.norm.bias.sub_(centre)
        model.visual.head.proj.weight.copy_(weight.T / pooled.shape[1] ** 0.5)


class TowerStates(NamedTuple):
    """What training reads of the image tower.

    Attributes:
        pooled: normalised CLS state. dense: normalised value-path states of the patches.
        attention: weights of CLS over all tokens in the last block, CLS itself first.
    """

    pooled: Float[Tensor, "B D"]
    dense: Float[Tensor, "B L D"]
    attention: Float[Tensor, "B H N"]


def tower_states(trunk: Any, features: Float[Tensor, "B F h w"]) -> TowerStates:
    """Run the transformer blocks on the convolutional map.

    The value path is the last block with every token attending to itself alone, without residual and MLP, as in
    MaskCLIP (Zhou et al., ECCV 2022).
    """
    x = trunk.patch_embed.proj(features).permute(0, 2, 3, 1)
    x = trunk.norm_pre(trunk._pos_embed(x))
    for block in trunk.blocks[:-1]:
        x = block(x)
    last = trunk.blocks[-1]
    width, heads = trunk.embed_dim, last.attn.num_heads
    normed = last.norm1(x)
    weight, bias = last.attn.qkv.weight.split(width), last.attn.qkv.bias.split(width)
    values = nn.functional.linear(normed[:, 1:], weight[2], bias[2])
    dense = trunk.norm(last.attn.proj(values))
    q = nn.functional.linear(normed[:, :1], weight[0], bias[0]).unflatten(-1, (heads, -1))  # (B, 1, H, d)
    k = nn.functional.linear(normed, weight[1], bias[1]).unflatten(-1, (heads, -1))  # (B, N, H, d)
    logits = (q.float() * k.float()).sum(-1) * (width // heads) ** -0.5  # (B, N, H)
    return TowerStates(trunk.norm(last(x))[:, 0], dense, logits.softmax(1).mT)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, length: int) -> None:
    """`tokenizer.json`, and the `tokenizer_config.json` that open_clip's route through transformers reads."""
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[SOT]", "eos_token": "[EOT]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length, **special}
    write_whole(folder / "tokenizer.json", lambda draft: tokenizer.save(str(draft), pretty=False))
    write_whole(folder / "tokenizer_config.json", json.dumps(config, indent=2) + "\n")


def write_open_clip_folder(
    model: Any,
    tokenizer: Tokenizer | None,
    folder: Path,
    *,
    card: Mapping[str, Any],
    config: Mapping[str, Any] = SMALL,
) -> Path:
    """Write open_clip's `local-dir:` folder: configuration, float16 weights, tokenizer, card. Weights come last."""
    make_folder(folder)

    def put(name: str, value: Any) -> None:
        write_whole(folder / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    put("open_clip_config.json", config)
    put("card.json", card)
    if tokenizer is not None:
        write_tokenizer(tokenizer, folder, config["model_cfg"]["text_cfg"]["context_length"])
    state = {name: value.detach().half().contiguous().clone() for name, value in model.state_dict().items()}
    write_whole(folder / "open_clip_model.safetensors", lambda draft: save_file(state, draft, {"format": "pt"}))
    return folder

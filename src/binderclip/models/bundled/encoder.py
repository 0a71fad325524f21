"""The bundled image-text models in torch alone, for encoding: the names of the weights and the numbers are the same.

timm and open_clip import their whole model zoos, torch._dynamo and transformers before they build a tower, which takes
longer than all else that a verb does with a picture. These modules take the same weights and compute the same features
bit for bit (tested), and nothing more: no part of them can be opened, rewired or traced.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["ARCHITECTURES", "BundledEncoder"]

# (channels, blocks) of the seven stages: EfficientNet-Lite0, and -Lite2, 1.1 times as wide and 1.2 times as deep.
LITE0 = ((16, 1), (24, 2), (40, 2), (80, 3), (112, 3), (192, 4), (320, 1))
LITE2 = ((16, 1), (24, 3), (48, 3), (88, 4), (120, 4), (208, 5), (352, 1))
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
STEM, HEAD, EXPANSION = 32, 1280, 6


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow pads: n pixels become ceil(n / stride), an odd pixel of padding goes last.

    `in_kernel` spares the padded copy of the pictures, which takes longer than the convolution where maps are large:
    where one zero more is due behind than in front, the kernel takes up a zero in front, and both sides are padded
    alike. Half precision may then sum in another order.
    """

    in_kernel = False

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        before, after = zip(*(self._sides(input.shape[axis], axis - 2) for axis in (2, 3)), strict=True)
        if not self.in_kernel:
            return super().forward(functional.pad(input, (before[1], after[1], before[0], after[0])))
        front = [last - first for first, last in zip(before, after, strict=True)]
        weight = functional.pad(self.weight, (front[1], 0, front[0], 0)) if any(front) else self.weight
        return functional.conv2d(input, weight, self.bias, self.stride, after, self.dilation, self.groups)

    def _sides(self, length: int, axis: int) -> tuple[int, int]:
        stride, kernel = self.stride[axis], self.kernel_size[axis]
        padding = max((math.ceil(length / stride) - 1) * stride + kernel - length, 0)
        return padding // 2, padding - padding // 2


def _relu6(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    # The largest maps do not fit a processor's caches: a second copy of each costs as much as the arithmetic.
    return functional.relu6(x, inplace=not torch.is_grad_enabled())


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, dilation: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride > 1:
        return SameConv2d(inputs, outputs, kernel, stride, groups=groups)
    return nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation, groups=groups)


class LiteBlock(nn.Module):
    """A block of EfficientNet-Lite, its norms folded into its convolutions: expand, filter each channel, project.

    Args:
        inputs, outputs: channels.
        kernel, stride, dilation: of the depthwise convolution.
        expansion: of the channels; at 1 there is no expanding convolution (MobileNet's separable one).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        self.skips = stride == 1 and inputs == outputs
        if self.expands:
            self.conv_pw = _conv(inputs, inner)
        self.conv_dw = _conv(inner, inner, kernel, stride, dilation, groups=inner)
        if self.expands:
            self.conv_pwl = _conv(inner, outputs)
        else:
            self.conv_pw = _conv(inner, outputs)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        y = _relu6(self.conv_pw(x)) if self.expands else x
        y = _relu6(self.conv_dw(y))
        y = self.conv_pwl(y) if self.expands else self.conv_pw(y)
        if not self.skips:
            return y
        return y + x if torch.is_grad_enabled() else y.add_(x)


class Lite(nn.Module):
    """The convolutions of an EfficientNet-Lite (arXiv 1905.11946): pictures -> (B, 1280, h, w).

    Args:
        stages: (channels, blocks) of each.
        output_stride: 16 or 32; beyond it stages are dilated instead of strided.
    """

    def __init__(self, stages: tuple[tuple[int, int], ...], output_stride: int) -> None:
        super().__init__()
        self.stem = _conv(3, STEM, 3, 2)
        rows, inputs, reached, dilation = [], STEM, 2, 1
        for index, (outputs, count) in enumerate(stages):
            blocks = []
            for block in range(count):
                stride, here = (STRIDES[index] if block == 0 else 1), dilation
                if stride > 1 and reached >= output_stride:
                    # the block that would have strided keeps the spacing of its input; those after it are dilated
                    dilation, stride = dilation * stride, 1
                reached *= stride
                blocks.append(LiteBlock(inputs, outputs, KERNELS[index], stride, here, EXPANSION if index > 0 else 1))
                inputs = outputs
            rows.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*rows)
        self.head = _conv(inputs, HEAD)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        return _relu6(self.head(self.stages(_relu6(self.stem(x)))))


class ViTBlock(nn.Module):
    """A pre-norm transformer block under timm's names.

    Args:
        width: D. heads: attention heads. mlp_width: of the hidden layer.
    """

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, mlp_width), "fc2": nn.Linear(mlp_width, width)})

    def forward(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        x = x + self._attention(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))

    def _attention(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        rows, tokens, width = x.shape
        split = self.attn["qkv"](x).reshape(rows, tokens, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, d)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.attn["proj"](mixed.transpose(1, 2).reshape(rows, tokens, width))


class HybridViT(nn.Module):
    """`binderclip_lite0_vit`: Lite0 at stride 16, projected, a CLS token, four blocks; the CLS token is the picture."""

    def __init__(self, side: int, width: int = 256, depth: int = 4, heads: int = 4, mlp_width: int = 512) -> None:
        super().__init__()
        self.grid = side // 16
        self.patch_embed = nn.ModuleDict({"backbone": Lite(LITE0, 16), "proj": _conv(HEAD, width)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid**2 + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads, mlp_width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.num_features = width

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        cells = self.patch_embed["proj"](self.patch_embed["backbone"](x)).permute(0, 2, 3, 1)  # (B, h, w, D)
        positions = self._positions(cells.shape[1], cells.shape[2])
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), cells.reshape(len(x), -1, cells.shape[-1])], 1)
        return self.norm(self.blocks(tokens + positions))[:, 0]

    def _positions(self, height: int, width: int) -> Float[Tensor, "1 N D"]:
        """The position embeddings, those of the cells resized to another grid."""
        if (height, width) == (self.grid, self.grid):
            return self.pos_embed
        first, cells = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        map_ = cells.float().reshape(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)
        map_ = functional.interpolate(map_, size=(height, width), mode="bicubic", antialias=True)
        return torch.cat([first, map_.permute(0, 2, 3, 1).reshape(1, height * width, -1).to(cells.dtype)], 1)


class PooledLite2(nn.Module):
    """`binderclip_lite2`: EfficientNet-Lite2, average pooled."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.trunk = Lite(LITE2, 32)
        self.num_features = HEAD

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        return self.trunk(x).mean((2, 3))


ARCHITECTURES = {"binderclip_lite0_vit": HybridViT, "binderclip_lite2": PooledLite2}
"""timm's name of an image tower -> its module here, of the side of the pictures."""


class VisualEncoder(nn.Module):
    """An image tower and its linear head, under the names of open_clip's adapter for timm.

    Args:
        config: `vision_cfg` of the model.
        embed_dim: E.
    """

    def __init__(self, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        side = int(config["image_size"])
        self.image_size = (side, side)
        self.trunk = ARCHITECTURES[config["timm_model_name"]](side)
        bias = bool(config.get("timm_proj_bias", False))
        self.head = nn.ModuleDict({"proj": nn.Linear(self.trunk.num_features, embed_dim, bias=bias)})

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        return self.head["proj"](self.trunk(x))


class TextBlock(nn.Module):
    """A pre-norm transformer block under open_clip's names.

    Args:
        width: D. heads: attention heads. mlp_width: of the hidden layer.
    """

    def __init__(self, width: int, heads: int, mlp_width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        parts = [("c_fc", nn.Linear(width, mlp_width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(mlp_width, width))]
        self.mlp = nn.Sequential(OrderedDict(parts))

    def forward(self, x: Float[Tensor, "Q L D"], mask: Float[Tensor, "L L"]) -> Float[Tensor, "Q L D"]:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp(self.ln_2(x))


class TextEncoder(nn.Module):
    """A causal text transformer read at the token with the largest id, under open_clip's names.

    Args:
        config: `text_cfg` of the model.
        embed_dim: E.
    """

    attn_mask: Tensor
    pool_type = "argmax"
    cls_emb = None
    eos_id = 2

    def __init__(self, config: Mapping[str, Any], embed_dim: int) -> None:
        super().__init__()
        width, length, heads = int(config["width"]), int(config["context_length"]), int(config["heads"])
        hidden = int(width * float(config.get("mlp_ratio", 4.0)))
        self.token_embedding = nn.Embedding(int(config["vocab_size"]), width)
        self.positional_embedding = nn.Parameter(torch.zeros(length, width))
        blocks = nn.ModuleList(TextBlock(width, heads, hidden) for _ in range(int(config["layers"])))
        self.transformer = nn.ModuleDict({"resblocks": blocks})
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))
        causal = torch.full((length, length), float("-inf")).triu_(1)
        self.register_buffer("attn_mask", causal, persistent=False)

    def forward(self, ids: Int[Tensor, "Q L"]) -> Float[Tensor, "Q E"]:
        x = self.token_embedding(ids) + self.positional_embedding
        for block in self.transformer["resblocks"].children():
            x = block(x, self.attn_mask.to(x.dtype))
        x = self.ln_final(x)
        return x[torch.arange(len(x), device=x.device), ids.argmax(-1)] @ self.text_projection


class BundledEncoder(nn.Module):
    """A bundled image-text model under the names of open_clip's `CustomTextCLIP`, to encode with.

    Args:
        config: `model_cfg` of the model's folder; its image tower one of `ARCHITECTURES`.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        embed_dim = int(config["embed_dim"])
        self.visual = VisualEncoder(config["vision_cfg"], embed_dim)
        self.text = TextEncoder(config["text_cfg"], embed_dim)
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def encode_image(self, image: Float[Tensor, "B 3 H W"], normalize: bool = False) -> Float[Tensor, "B E"]:
        """Features of normalised pixels, raw unless `normalize`."""
        features = self.visual(image)
        return functional.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Int[Tensor, "Q L"], normalize: bool = False) -> Float[Tensor, "Q E"]:
        """Features of token ids, raw unless `normalize`."""
        features = self.text(text)
        return functional.normalize(features, dim=-1) if normalize else features

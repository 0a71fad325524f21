"""Image towers of the bundled models, registered with timm so that open_clip opens them by name.

`binderclip_lite0_vit` is a hybrid ViT: the whole convolutional part of EfficientNet-Lite0 with its last stage dilated
(stride 16 in place of 32), a 1x1 projection, a CLS token and four transformer blocks. `binderclip_lite2` is plain
EfficientNet-Lite2 with average pooling. `binderclip_lite0_vit8` has only the lower five stages under its blocks,
side by side and dilated to stride 8: a fine grid of patches. BatchNorm is folded into the convolutions in all (exact:
there is no squeeze-and-excitation), so training and evaluation mode agree and a batch is the sum of its parts.

Importing this module registers the names (`timm.list_models("binderclip*")`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import timm
import torch
from jaxtyping import Float
from timm.layers import HybridEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from binderclip.errors import CheckpointError, UsageError
from binderclip.settings import check_choice

__all__ = ["CLIP_MEAN", "CLIP_STD", "LiteStem", "LiteTrunk", "fold_lite", "lite_pixels_to_clip"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LiteTrunk(nn.Module):
    """Convolutional part of an EfficientNet-Lite with BatchNorm folded away: images -> (B, 1280, h, w) feature map.

    Args:
        name: `lite0`, `lite1` or `lite2`.
        output_stride: 32 as trained, or 16 or 8: later stages keep the resolution and dilate their kernels instead,
            which leaves the weights what they are and gives a map twice (four times) as fine.

    Paper: Tan and Le, EfficientNet, arXiv 1905.11946; the Lite variants are Google's, without squeeze-and-excitation
    and with ReLU6.
    """

    stem: nn.Conv2d
    stages: nn.Sequential
    head: nn.Conv2d
    num_features: int

    def __init__(self, name: str = "lite0", *, output_stride: int = 32, in_chans: int = 3) -> None:
        super().__init__()
        check_choice("output_stride", output_stride, (8, 16, 32))
        net: Any = timm.create_model(
            f"tf_efficientnet_{name}", pretrained=False, num_classes=0, output_stride=output_stride, in_chans=in_chans
        )
        self.stem = net.conv_stem
        self.stem_act = _strip_norm(net, "bn1", net.conv_stem)
        self.stages = net.blocks
        for stage in self.stages.children():
            for block in stage.children():
                _strip_block(block)
        self.head = net.conv_head
        self.head_act = _strip_norm(net, "bn2", net.conv_head)
        for conv in self._convolutions():
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        self.num_features = self.head.out_channels
        self.output_stride = output_stride

    def _convolutions(self) -> list[nn.Conv2d]:
        return [module for module in self.modules() if isinstance(module, nn.Conv2d)]

    def lower(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        """Stem and the first five stages: the map at stride 16 (112 channels in Lite0)."""
        x = self.stem_act(self.stem(x))
        for stage in self.stages[:5].children():
            x = stage(x)
        return x

    def upper(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B F h w"]:
        """The last two stages and the 1x1 convolution to 1,280 channels."""
        for stage in self.stages[5:].children():
            x = stage(x)
        return self.head_act(self.head(x))

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        return self.upper(self.lower(x))


class LiteStem(nn.Module):
    """The lower five stages of an EfficientNet-Lite, dilated to stride 8: images -> (B, C, H/8, W/8).

    The weights carry the names that they have in `LiteTrunk`, so the lower part of any trunk's state fits.

    Args:
        name: `lite0`, `lite1` or `lite2`.
        columns: whether the map holds all five stages, the finer ones averaged to stride 8 (272 channels in Lite0:
            edges and colours stay), or the fifth alone (112).
        in_chans: channels of the input.
    """

    def __init__(self, name: str = "lite0", *, columns: bool = False, in_chans: int = 3) -> None:
        super().__init__()
        trunk = LiteTrunk(name, output_stride=8, in_chans=in_chans)
        self.stem, self.stem_act = trunk.stem, trunk.stem_act
        self.stages = trunk.stages[:5]
        widths = [_width(stage[-1]) for stage in self.stages.children()]  # type: ignore[index]
        self.columns = columns
        self.num_features = sum(widths) if columns else widths[-1]

    def levels(self, x: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """The maps at stride 2, 4 and 8 (16, 24 and 112 channels in Lite0)."""
        maps = self._maps(x)
        return maps[0], maps[1], maps[-1]

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B C h w"]:
        maps = self._maps(x)
        if not self.columns:
            return maps[-1]
        # Maps of stride 2 and 4 have even sides, as the grid has whole cells.
        pooled = [nn.functional.avg_pool2d(y, y.shape[-1] // maps[-1].shape[-1]) for y in maps]
        return torch.cat(pooled, 1)

    def _maps(self, x: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        x = self.stem_act(self.stem(x))
        maps = []
        for stage in self.stages.children():
            x = stage(x)
            maps.append(x)
        return maps

    def load_trunk(self, state: Mapping[str, Tensor]) -> None:
        """Take over the lower part of a `LiteTrunk`'s state.

        Raises:
            CheckpointError: tensors are missing.
        """
        own = self.state_dict()
        missing = [key for key in own if key not in state]
        if missing:
            raise CheckpointError(f"the trunk has no {missing[0]!r}")
        self.load_state_dict({key: state[key] for key in own})


def _width(block: Any) -> int:
    """Channels that a block of timm's EfficientNet gives."""
    return (block.conv_pwl if hasattr(block, "conv_pwl") else block.conv_pw).out_channels


def _strip_norm(parent: nn.Module, name: str, conv: nn.Conv2d) -> nn.Module:
    """Activation of the norm layer `parent.name`; the norm itself lives on in the bias of `conv`."""
    activation = getattr(getattr(parent, name), "act", None)
    # Not in place: the maps below are read again by residual sums and by whoever records them.
    return nn.ReLU6() if isinstance(activation, nn.ReLU6) else nn.Identity()


def _strip_block(block: Any) -> None:
    for norm in [name for name, _ in block.named_children() if name.startswith("bn")]:
        setattr(block, norm, _strip_norm(block, norm, block.conv_dw))


def fold_lite(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of `LiteTrunk(name)` from one of timm's `tf_efficientnet_<name>`, BatchNorm folded in.

    Args:
        name: `lite0`, `lite1` or `lite2`.
        state: weights under timm's names, as trained.

    Raises:
        CheckpointError: the state has the wrong tensors.
    """
    net = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    missing = net.load_state_dict(dict(state), strict=False)
    if missing.missing_keys or missing.unexpected_keys:
        raise CheckpointError(
            f"EfficientNet {name}: wrong tensors {missing.missing_keys[:3]}{missing.unexpected_keys[:3]}"
        )
    folded: list[tuple[Tensor, Tensor]] = []
    conv: nn.Conv2d | None = None
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d) and conv is not None:
            weight, bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                cast(Tensor, module.running_mean),
                cast(Tensor, module.running_var),
                module.eps,
                module.weight,
                module.bias,
            )
            folded.append((weight.detach(), bias.detach()))
    trunk = LiteTrunk(name)
    convolutions = trunk._convolutions()
    with torch.no_grad():
        for target, (kernel, offset) in zip(_by_execution(trunk), folded, strict=True):
            target.weight.copy_(kernel)
            target.bias.copy_(offset)  # type: ignore[union-attr]
    if len(convolutions) != len(folded):
        raise CheckpointError(f"EfficientNet {name}: {len(folded)} norms for {len(convolutions)} convolutions")
    return trunk.state_dict()


def _by_execution(trunk: LiteTrunk) -> list[nn.Conv2d]:
    """Convolutions from the stem to the head, the order in which timm defines them."""
    inner = [module for module in trunk.stages.modules() if isinstance(module, nn.Conv2d)]
    return [trunk.stem, *inner, trunk.head]


def lite_pixels_to_clip(trunk: LiteTrunk) -> LiteTrunk:
    """Absorb the input scale of the Lite weights into the first convolution, in place.

    They were trained on (255 p - 127) / 128 for pixels p in [0, 1]; afterwards the trunk takes (p - mean) / std with
    CLIP's mean and std. Equal but for the outermost pixels, where the zero padding now stands for CLIP's mean.
    """
    mean = trunk.stem.weight.new_tensor(CLIP_MEAN)
    std = trunk.stem.weight.new_tensor(CLIP_STD)
    with torch.no_grad():
        shift = (trunk.stem.weight * ((255 * mean - 127) / 128)[:, None, None]).sum((1, 2, 3))
        trunk.stem.bias.add_(shift)  # type: ignore[union-attr]
        trunk.stem.weight.mul_((255 * std / 128)[:, None, None])
    return trunk


class PooledLite(nn.Module):
    """`LiteTrunk` with average pooling under the members that open_clip's timm adapter asks for."""

    def __init__(self, name: str = "lite2", num_classes: int = 0, in_chans: int = 3, global_pool: str = "avg") -> None:
        super().__init__()
        if global_pool not in ("avg", ""):
            raise UsageError(f"global_pool={global_pool!r}: this tower pools by the average")
        self.trunk = LiteTrunk(name, in_chans=in_chans)
        self.num_features = self.head_hidden_size = self.trunk.num_features
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier (0: none)."""
        if global_pool not in (None, "avg", ""):
            raise UsageError(f"global_pool={global_pool!r}: this tower pools by the average")
        self.num_classes = num_classes
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F h w"]:
        """The unpooled map."""
        return self.trunk(x)

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B F"]:
        return self.classifier(self.trunk(x).mean((2, 3)))


def _cfg(size: int, **kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 0,
        "input_size": (3, size, size),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "binderclip_lite0_vit.untrained": _cfg(128, first_conv="patch_embed.backbone.stem", classifier="head"),
        "binderclip_lite0_vit8.untrained": _cfg(128, first_conv="patch_embed.backbone.stem", classifier="head"),
        "binderclip_lite2.untrained": _cfg(160, first_conv="trunk.stem", classifier="classifier"),
    }
)


@register_model
def binderclip_lite0_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """EfficientNet-Lite0 at stride 16, CLS token, four blocks of width 256: 128 px, any multiple of 16 works."""
    trunk = LiteTrunk("lite0", output_stride=16, in_chans=kwargs.get("in_chans", 3))
    arguments: dict[str, Any] = {
        "img_size": 128,
        "patch_size": 1,
        "embed_dim": 256,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "num_classes": 0,
        "dynamic_img_size": True,
        "embed_layer": partial(HybridEmbed, backbone=trunk),
    }
    return build_model_with_cfg(VisionTransformer, "binderclip_lite0_vit", pretrained, **{**arguments, **kwargs})


@register_model
def binderclip_lite0_vit8(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Lower stages of EfficientNet-Lite0 at stride 8, CLS token, three blocks of width 128: any multiple of 8 works."""
    stem = LiteStem("lite0", columns=True, in_chans=kwargs.get("in_chans", 3))
    arguments: dict[str, Any] = {
        "img_size": 128,
        "patch_size": 1,
        "embed_dim": 128,
        "depth": 3,
        "num_heads": 4,
        "mlp_ratio": 3.0,
        "num_classes": 0,
        "dynamic_img_size": True,
        "embed_layer": partial(HybridEmbed, backbone=stem),
    }
    return build_model_with_cfg(VisionTransformer, "binderclip_lite0_vit8", pretrained, **{**arguments, **kwargs})


@register_model
def binderclip_lite2(pretrained: bool = False, **kwargs: Any) -> PooledLite:
    """EfficientNet-Lite2, average pooled: 160 px, any multiple of 32 works."""
    kwargs.pop("img_size", None)
    return build_model_with_cfg(PooledLite, "binderclip_lite2", pretrained, **kwargs)

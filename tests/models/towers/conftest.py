"""A zoo of tiny backbones of every supported kind, with the library's own forward beside the tower."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import open_clip
import pytest
import timm.layers
import torch
from open_clip.model import resize_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch import Tensor, nn
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    SiglipConfig,
    SiglipModel,
)

from binderclip.models.towers import Tower, open_image_tower


@dataclass
class Case:
    """One backbone: `forward(x)` is the library's; `at(size)` the library's at another (h, w)."""

    name: str
    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    at: Callable[[tuple[int, int]], tuple[nn.Module, Callable[[Tensor], Tensor]]]
    other: tuple[int, int] = (48, 32)
    tower: Tower = field(init=False)

    def __post_init__(self) -> None:
        self.tower = open_image_tower(self.module)


def shake(module: nn.Module, seed: int = 0, scale: float = 0.15) -> nn.Module:
    """Move every parameter away from its initialisation, so that a forgotten bias, scale or norm shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module.eval()


def _open_clip(name: str, *, embed_dim: int = 24, quick_gelu: bool = False, **vision: Any) -> Case:
    text = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}

    def build(size: int | tuple[int, int]) -> nn.Module:
        config = {"image_size": size, "layers": 3, "width": 48, "head_width": 12, "patch_size": 8, **vision}
        return open_clip.CLIP(embed_dim, vision_cfg=config, text_cfg=text, quick_gelu=quick_gelu)

    model = shake(build(32))

    def at(size: tuple[int, int]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        resized = build(size).eval()
        state = dict(model.state_dict())
        resize_pos_embed(state, resized)
        resized.load_state_dict(state)
        return resized, lambda x: resized.encode_image(x)

    return Case(name, model, lambda x: model.encode_image(x), at)


def _timm(name: str, **config: Any) -> Case:
    config = {
        "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 24, **config,
    }  # fmt: skip
    model = shake(TimmVit(**config))

    def at(size: tuple[int, int]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        resized = TimmVit(**config)
        resized.load_state_dict(model.state_dict())
        resized.set_input_size(img_size=size)
        return resized.eval(), resized.eval()

    return Case(name, model, model, at)


EVA02 = {
    "qkv_fused": False, "mlp_ratio": 8 / 3, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True,
    "use_rot_pos_emb": True, "ref_feat_shape": (5, 5), "global_pool": "token",
}  # fmt: skip
PERCEPTION = {
    "attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True, "ref_feat_shape": (4, 4),
    "rope_grid_offset": 1.0, "rope_grid_indexing": "xy", "global_pool": "map", "attn_pool_num_heads": 4,
}  # fmt: skip


def _eva(name: str, **config: Any) -> Case:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 24}
    config = {**sizes, **config}
    model = shake(Eva(**config))

    def at(size: tuple[int, int]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        if config.get("dynamic_img_size"):
            return model, model
        resized = Eva(**config)
        resized.load_state_dict(model.state_dict())
        resized.set_input_size(img_size=size)
        return resized.eval(), resized.eval()

    return Case(name, model, model, at)


class ConvolutionalEmbed(nn.Module):
    """A small convolutional stem at stride 8 with timm's embedding face, like a hybrid's."""

    def __init__(self, img_size: int = 32, embed_dim: int = 48, **_: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.proj = nn.Conv2d(16, embed_dim, 2, stride=2)
        self.img_size, self.grid_size = (img_size, img_size), (img_size // 8, img_size // 8)
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        return 8 if as_scalar else (8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.middle(self.stem(x).relu()).relu()).permute(0, 2, 3, 1)


def _timm_dynamic(name: str, **config: Any) -> Case:
    case = _timm(name, dynamic_img_size=True, **config)
    case.at = lambda size: (case.module, case.module)
    return case


def _hybrid(name: str) -> Case:
    return _timm_dynamic(name, embed_layer=ConvolutionalEmbed)


def _open_clip_timm(name: str, *, proj: str = "linear", **trunk: Any) -> Case:
    text = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}
    config = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_proj": proj, "timm_pool": "token"}
    model = open_clip.CustomTextCLIP(24, vision_cfg=config, text_cfg=text)
    # timm has no tiny ViT with map pooling: the wrapper is open_clip's own, its trunk and head are cut down
    config = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "num_classes": 0, **trunk}
    model.visual.trunk = TimmVit(**config)
    if proj == "linear":
        model.visual.head.proj = nn.Linear(48, 24)
    else:
        model.visual.head.mlp = timm.layers.Mlp(48, 48, 24)
    shake(model)

    def at(size: tuple[int, int]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        if trunk.get("dynamic_img_size"):
            return model, model.encode_image
        resized = copy.deepcopy(model)
        resized.visual.set_input_size(size)
        return resized, resized.encode_image

    return Case(name, model, lambda x: model.encode_image(x), at)


HF_CLIP = {
    "clip": (CLIPConfig, CLIPModel),
    "metaclip 2": (MetaClip2Config, MetaClip2Model),
    "chinese clip": (ChineseCLIPConfig, ChineseCLIPModel),
    "altclip": (AltCLIPConfig, AltCLIPModel),
}


def _hf_clip(kind: str) -> Case:
    config, model_class = HF_CLIP[kind]
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    text = {**TEXT_SIZES, "eos_token_id": 39, "bos_token_id": 38}
    if kind == "altclip":
        text |= {"project_dim": 20, "pad_token_id": 0}
    model = shake(model_class(config(vision_config=vision, text_config=text, projection_dim=24)))
    return Case(f"hf {kind}", model, _features(model), lambda size: (model, _features(model, True)))


def _hf_siglip(name: str) -> Case:
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    model = shake(
        SiglipModel(
            SiglipConfig(
                vision_config=vision,
                text_config={**TEXT_SIZES, "projection_size": 48, "bos_token_id": 38, "eos_token_id": 39},
            )
        )
    )
    return Case(name, model, _features(model), lambda size: (model, _features(model, True)))


TEXT_SIZES = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 8,
}  # fmt: skip


def _features(model: nn.Module, interpolate: bool = False) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        out = model.get_image_features(pixel_values=x, interpolate_pos_encoding=interpolate)
        return out if isinstance(out, Tensor) else out.pooler_output

    return forward


BUILDERS: dict[str, Callable[[], Case]] = {
    "open_clip": lambda: _open_clip("open_clip"),
    "open_clip quick_gelu no_ln_pre": lambda: _open_clip("q", quick_gelu=True, no_ln_pre=True),
    "open_clip avg layer_scale": lambda: _open_clip("a", pool_type="avg", ls_init_value=0.3),
    "open_clip avg norm last, patch dropout": lambda: _open_clip(
        "l", pool_type="avg", final_ln_after_pool=True, patch_dropout=0.5
    ),
    "open_clip qk_norm": lambda: _open_clip("k", qk_norm=True, scale_heads=True),
    "open_clip normformer": lambda: _open_clip("n", scale_attn_inner=True, scale_attn=True, scale_fc=True),
    "open_clip attentional pool": lambda: _open_clip(
        "p", attentional_pool=True, attn_pooler_queries=5, attn_pooler_heads=4
    ),
    "timm cls": lambda: _timm("cls"),
    "timm mean, layer_scale, registers": lambda: _timm(
        "gap", global_pool="avg", init_values=0.3, reg_tokens=2, no_embed_class=True
    ),
    "timm mean norm first, no class token": lambda: _timm("gap2", global_pool="avg", class_token=False, fc_norm=False),
    "timm map": lambda: _timm("map", global_pool="map", class_token=False, num_classes=0),
    "timm map, class token": lambda: _timm("map2", global_pool="map", qk_norm=True, pre_norm=True),
    "timm max": lambda: _timm("max", global_pool="avgmax"),
    "timm inner norm": lambda: _timm("sn", scale_attn_norm=True, scale_mlp_norm=True),
    "timm rms, swiglu": lambda: _timm(
        "rms", norm_layer=timm.layers.RmsNorm, mlp_layer=timm.layers.SwiGLU, global_pool="avg", class_token=False
    ),
    "timm dynamic": lambda: _timm_dynamic("dynamic"),
    "timm hybrid": lambda: _hybrid("hybrid"),
    "eva": lambda: _eva("eva", init_values=0.3),
    "eva residual post-norm": lambda: _eva("p", use_post_norm=True, global_pool="token", qkv_fused=True),
    "eva02": lambda: _eva("eva02", **EVA02),
    "eva02 dynamic": lambda: _eva("dynamic", **EVA02, dynamic_img_size=True, init_values=0.2),
    "eva perception encoder": lambda: _eva("pe", **PERCEPTION),
    "eva dinov3, registers": lambda: _eva(
        "d",
        attn_type="eva",
        use_rot_pos_emb=True,
        rope_type="dinov3",
        rope_rotate_half=True,
        num_reg_tokens=2,
        use_abs_pos_emb=False,
        no_embed_class=True,
        global_pool="token",
        qkv_fused=True,
        init_values=0.4,
    ),
    "open_clip timm siglip": lambda: _open_clip_timm("siglip", global_pool="map", class_token=False),
    "open_clip timm mlp head": lambda: _open_clip_timm("mlp", proj="mlp", dynamic_img_size=True, init_values=0.2),
    **{f"hf {kind}": functools.partial(_hf_clip, kind) for kind in HF_CLIP},
    "hf siglip": lambda: _hf_siglip("hf siglip"),
}


@functools.cache
def case_of(name: str) -> Case:
    torch.manual_seed(0)
    return BUILDERS[name]()


@pytest.fixture(params=list(BUILDERS))
def case(request: pytest.FixtureRequest) -> Case:
    """Every kind of image backbone."""
    return case_of(request.param)


@functools.cache
def exact_tower(name: str) -> Tower:
    return open_image_tower(copy.deepcopy(case_of(name).module).double())


@pytest.fixture(params=list(BUILDERS))
def tower(request: pytest.FixtureRequest) -> Tower:
    """Every kind of image tower in float64, so that identities are not blurred by rounding."""
    return exact_tower(request.param)


@pytest.fixture
def pixels() -> Tensor:
    """Two normalised pictures at the training resolution of the zoo."""
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def get_case() -> Callable[[str], Case]:
    return case_of


@pytest.fixture
def exact() -> Callable[[str], Tower]:
    """A tower of the zoo by name, in float64."""
    return exact_tower

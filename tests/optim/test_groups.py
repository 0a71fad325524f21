from __future__ import annotations

import open_clip
import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from binderclip import errors
from binderclip.optim import layer_index, layerwise_lr_groups, param_groups


@pytest.fixture
def clip_model():
    return open_clip.model.CLIP(
        embed_dim=32,
        vision_cfg={"image_size": 16, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2},
    )


def test_every_parameter_once_and_only_matrices_decay(clip_model):
    groups = param_groups(clip_model, 0.2)
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in clip_model.parameters())
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            assert group["weight_decay"] == (0.2 if parameter.ndim >= 2 else 0.0), name
    torch.optim.AdamW(groups, lr=1e-3)


def test_layer_decay_counts_from_each_towers_own_top(clip_model):
    depths = layer_index([name for name, _ in clip_model.named_parameters()])
    assert depths["visual.conv1.weight"] == (0, 4)
    assert depths["visual.transformer.resblocks.0.ln_1.weight"] == (1, 4)
    assert depths["visual.transformer.resblocks.2.ln_1.weight"] == (3, 4)
    assert depths["visual.proj"] == (4, 4)
    assert depths["transformer.resblocks.1.ln_1.weight"] == (2, 3)
    assert depths["logit_scale"][0] == depths["logit_scale"][1]
    groups = param_groups(clip_model, lr=1.0, layer_decay=0.5)
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    assert rate["visual.conv1.weight"] == 0.5**4
    assert rate["visual.transformer.resblocks.2.mlp.c_fc.weight"] == 0.5
    assert rate["token_embedding.weight"] == 0.5**3
    assert rate["text_projection"] == rate["logit_scale"] == 1.0


def test_patterns_scale_freeze_and_exempt(clip_model):
    groups = param_groups(
        clip_model, 0.1, lr=2.0, lr_scale={"visual.*": 0.1}, no_decay=["token_embedding*"], freeze=["logit_scale"]
    )
    by_name = {name: group for group in groups for name in group["names"]}
    assert by_name["visual.proj"]["lr"] == pytest.approx(0.2)
    assert by_name["text_projection"]["lr"] == 2.0
    assert by_name["token_embedding.weight"]["weight_decay"] == 0.0
    assert "logit_scale" not in by_name


def test_tied_weights_appear_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert sum(len(group["params"]) for group in param_groups(model)) == 3


def test_a_pattern_that_matches_nothing_is_an_error(clip_model):
    with pytest.raises(errors.UsageError, match=r"'vision\.\*'"):
        param_groups(clip_model, lr_scale={"vision.*": 0.1})
    with pytest.raises(errors.UsageError, match="nothing to train"):
        param_groups(clip_model, freeze=["*"])
    with pytest.raises(errors.UsageError, match="nothing to train"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(errors.UsageError, match=r"'vision\.\*'"):
        param_groups(clip_model, layer_decay={"vision.*": 0.5})


def rates(module: nn.Module, decay: float) -> dict[str, float]:
    return {name: g["lr"] for g in layerwise_lr_groups(module, 1.0, decay) for name in g["names"]}


def test_the_published_table_of_rates():
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    rate = rates(vit, 0.6)
    assert rate["patch_embed.proj.weight"] == rate["pos_embed"] == pytest.approx(0.6**13)
    assert rate["patch_embed.proj.weight"] == pytest.approx(0.001306, abs=5e-7)
    for block in range(12):
        assert rate[f"blocks.{block}.mlp.fc1.weight"] == pytest.approx(0.6 ** (12 - block))
    assert rate["norm.weight"] == rate["head.weight"] == 1.0


@pytest.mark.parametrize("registers", [0, 2])
def test_rates_and_decay_are_timms_own(registers):
    from timm.models.vision_transformer import VisionTransformer

    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, reg_tokens=registers)
    theirs = {
        id(p): (g["lr_scale"], g["weight_decay"])
        for g in param_groups_layer_decay(vit, 0.05, vit.no_weight_decay() | {"reg_token"}, layer_decay=0.7)
        for p in g["params"]
    }
    ours = {
        id(p): (g["lr"], g["weight_decay"])
        for g in layerwise_lr_groups(vit, 1.0, 0.7, weight_decay=0.05)
        for p in g["params"]
    }
    assert ours.keys() == theirs.keys()
    for name, p in vit.named_parameters():
        # timm gives the last norm the rate of the last block; the paper that of the head.
        if not name.startswith("norm."):
            assert ours[id(p)] == pytest.approx(theirs[id(p)]), name


def test_rates_of_open_clip_and_hugging_face_towers_agree(clip_model):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    theirs = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        )
    )
    ours, other = rates(clip_model.visual, 0.5), rates(theirs, 0.5)
    pairs = {
        "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "class_embedding": "vision_model.embeddings.class_embedding",
        "positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "ln_pre.weight": "vision_model.pre_layrnorm.weight",
        "transformer.resblocks.0.attn.in_proj_weight": "vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "transformer.resblocks.2.mlp.c_fc.weight": "vision_model.encoder.layers.2.mlp.fc1.weight",
        "ln_post.weight": "vision_model.post_layernorm.weight",
        "proj": "visual_projection.weight",
    }
    expected = [0.5**4, 0.5**4, 0.5**4, 0.5**4, 0.5**3, 0.5, 1.0, 1.0]
    assert [ours[name] for name in pairs] == [other[name] for name in pairs.values()] == expected
    decays = {n: g["weight_decay"] for g in layerwise_lr_groups(theirs, 1.0) for n in g["names"]}
    assert decays["vision_model.embeddings.position_embedding.weight"] == 0
    assert decays["vision_model.embeddings.patch_embedding.weight"] == 0.05


def test_no_decay_is_one_rate_and_frozen_parameters_are_in_no_group(clip_model):
    clip_model.visual.conv1.weight.requires_grad_(False)
    groups = layerwise_lr_groups(clip_model.visual, 0.3, 1.0)
    assert {group["lr"] for group in groups} == {0.3}
    names = [name for group in groups for name in group["names"]]
    assert sorted([*names, "conv1.weight"]) == sorted(name for name, _ in clip_model.visual.named_parameters())


def test_parameters_named_frozen_are_in_no_group(clip_model):
    groups = layerwise_lr_groups(clip_model.visual, 0.3, freeze=["conv1.*", "*.bias"])
    names = {name for group in groups for name in group["names"]}
    every = {name for name, _ in clip_model.visual.named_parameters()}
    assert every - names == {name for name in every if name.startswith("conv1.") or name.endswith(".bias")}


def test_the_convolutions_of_a_hybrid_all_lie_below_its_blocks():
    class Hybrid(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch_embed = nn.ModuleDict({"blocks": nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))})
            self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

    assert rates(Hybrid(), 0.5)["patch_embed.blocks.1.weight"] == 0.5**3


def test_names_that_tell_no_layer_are_refused():
    with pytest.raises(errors.UsageError, match=r"the layer of 'encode.weight' is unknown \(2 such\)"):
        layerwise_lr_groups(nn.ModuleDict({"encode": nn.Linear(2, 2), "head": nn.Linear(2, 2)}), 1.0)
    with pytest.raises(errors.UsageError, match=r"decay must be in \(0, 1\], got 1\.5"):
        layerwise_lr_groups(nn.ModuleDict({"head": nn.Linear(2, 2)}), 1.0, 1.5)


def test_each_tower_has_its_own_layer_decay_and_the_projections_none(clip_model):
    plain = param_groups(clip_model, 0.1, lr=1.0)
    groups = param_groups(
        clip_model, 0.1, lr=1.0, lr_scale={"transformer.*": 0.1}, layer_decay={"visual.*": 0.5, "transformer.*": 0.25}
    )
    rate = {name: group["lr"] for group in groups for name in group["names"]}
    blocks = [rate[f"visual.transformer.resblocks.{i}.mlp.c_fc.weight"] for i in range(3)]
    assert blocks == [0.5**3, 0.5**2, 0.5]  # a geometric sequence from the top
    assert rate["transformer.resblocks.0.mlp.c_fc.weight"] == pytest.approx(0.1 * 0.25**2)
    assert rate["token_embedding.weight"] == rate["text_projection"] == rate["logit_scale"] == 1.0
    ones = param_groups(clip_model, 0.1, lr=1.0, layer_decay={"visual.*": 1.0})
    assert [(g["names"], g["lr"]) for g in ones] == [(g["names"], g["lr"]) for g in plain]
    with pytest.raises(errors.UsageError, match=r"must lie in \(0, 1\], got 0"):
        param_groups(clip_model, layer_decay={"visual.*": 0.0})
    with pytest.raises(errors.UsageError, match="image"):
        param_groups(clip_model, layer_decay={"image.*": 0.5})

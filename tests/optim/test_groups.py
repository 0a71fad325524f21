from __future__ import annotations

import open_clip
import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.optim import layer_index, param_groups


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

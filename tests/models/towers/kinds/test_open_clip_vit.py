"""What is particular to open_clip's own ViT, and what is refused."""

from __future__ import annotations

import open_clip
import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported
from binderclip.models.towers import open_image_tower

TEXT = {"context_length": 8, "vocab_size": 40, "width": 32, "heads": 2, "layers": 1}


def build(**vision) -> nn.Module:
    config = {"image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8, **vision}
    return open_clip.CLIP(24, vision_cfg=config, text_cfg=TEXT).eval()


def test_patch_dropout_acts_in_training_only():
    model = build(patch_dropout=0.5)
    tower, x = open_image_tower(model), torch.randn(4, 3, 32, 32)
    assert tower.embed(x).x.shape[1] == 17
    model.train()
    tokens = tower.embed(x)
    assert tokens.x.shape[1] == 9
    assert tokens.positions.shape == (4, 9)
    assert len({tuple(row) for row in tokens.positions.tolist()}) > 1
    assert torch.equal(tokens.positions, tokens.positions.sort(1).values)
    model.eval()
    whole = tower.embed(x).x
    at = tokens.positions.unsqueeze(-1).expand_as(tokens.x)
    assert torch.allclose(whole.gather(1, at), tokens.x, atol=1e-6)


def test_window_tokens_are_cut_before_the_first_norm():
    """WinCLIP encodes subsets of the embedded tokens: the whole grid as a window is the image."""
    model = build()
    tower, x = open_image_tower(model), torch.randn(2, 3, 32, 32)
    bare = tower.embed(x, norm=False)
    embedded = tower.run(bare.with_x(tower.norm_pre(bare.x)))
    assert torch.allclose(tower.project(tower.pool(embedded)), model.encode_image(x), atol=1e-5)


def test_parameters_are_the_models_own():
    model = build()
    tower, x = open_image_tower(model), torch.randn(2, 3, 32, 32)
    before = tower(x)
    with torch.no_grad():
        model.visual.transformer.resblocks[0].attn.in_proj_weight.mul_(1.5)
    assert torch.allclose(tower(x), model.encode_image(x), atol=1e-5)
    assert not torch.allclose(tower(x), before, atol=1e-4)
    assert not isinstance(tower, nn.Module)


def test_cocas_pooler_is_opened():
    decoder = {**TEXT, "heads": 2}
    vision = {
        "image_size": 32, "layers": 2, "width": 48, "head_width": 12, "patch_size": 8, "attentional_pool": True,
        "attn_pooler_heads": 4, "output_tokens": True,
    }  # fmt: skip
    text = {**TEXT, "embed_cls": True, "output_tokens": True}
    model = open_clip.CoCa(32, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision).eval()
    tower, x = open_image_tower(model), torch.randn(2, 3, 32, 32)
    assert torch.allclose(tower(x), model.encode_image(x, normalize=False), atol=1e-5)
    assert tower.embed_dim == 32


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"pool_type": "none"}, "pool_type 'none'"),
        ({"attentional_pool": "parallel", "attn_pooler_heads": 4}, "'parallel'"),
        ({"scaled_cosine_attn": True}, "scaled cosine"),
        ({"layers": [1, 1, 1, 1], "width": 16, "head_width": 16}, "ModifiedResNet is not supported; supported: open_c"),
    ],
)
def test_what_is_not_supported_is_named(vision, message):
    with pytest.raises(NotSupported, match=message):
        open_image_tower(build(**vision))

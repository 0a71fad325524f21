"""Blocks with RMS norm, norms on what is added and no bias (p108), against the block written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import NotSupported, UsageError
from binderclip.models import build, load

from ..conftest import tiny_cfg

EVA = {"norm": "rms", "post_norm": True, "qkv_bias": False}


def made(**options: Any) -> Any:
    torch.manual_seed(0)
    config = tiny_cfg()
    return build({**config, "vision_cfg": {**config["vision_cfg"], **options}}, name="tiny")


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


@pytest.mark.parametrize(
    "options", [EVA, {"norm": "rms"}, {"post_norm": True}, {"qkv_bias": False}], ids=lambda o: ",".join(o)
)
def test_a_block_is_the_formula_written_out(options: dict[str, Any]) -> None:
    block = made(**options).visual.transformer.resblocks[0].eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # no weight of a norm is 1, no bias 0
    x = torch.randn(2, 5, block.attn.embed_dim)
    after = options.get("post_norm", False)

    def norm(number: int, x: torch.Tensor) -> torch.Tensor:
        layer = getattr(block, f"{'ls' if after else 'ln'}_{number}")
        if options.get("norm") == "rms":
            return rms(x, layer.weight)
        return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)

    def attended(x: torch.Tensor) -> torch.Tensor:
        bias = block.attn.in_proj_bias
        assert (bias is None) == (options.get("qkv_bias") is False)
        joint = x @ block.attn.in_proj_weight.T + (0 if bias is None else bias)
        q, k, v = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, -1))
        mixed = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v
        return block.attn.out_proj(mixed.transpose(1, 2).flatten(2))

    if after:
        middle = x + norm(1, attended(x))
        expected = middle + norm(2, block.mlp(middle))
    else:
        middle = x + attended(norm(1, x))
        expected = middle + block.mlp(norm(2, middle))
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_post_norms_of_zero_leave_the_stream_as_it_is() -> None:
    block = made(**EVA).visual.transformer.resblocks[0]
    x = torch.randn(2, 5, block.attn.embed_dim)
    assert not torch.equal(block(x), x)
    with torch.no_grad():
        block.ls_1.weight.zero_()
        block.ls_2.weight.zero_()
    assert torch.equal(block(x), x)


def test_the_tower_seen_block_by_block_is_the_library_s_own_and_is_saved(tmp_path: Path) -> None:
    model = made(**EVA)
    visual = model.visual
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in visual.modules())
    assert not any("bias" in name and ("ln_" in name or "ls_" in name or "in_proj" in name)
                   for name, _ in visual.named_parameters())  # fmt: skip
    pixels = torch.randn(2, 3, *model.preprocess.size)
    tower = model.image_tower
    torch.testing.assert_close(tower(pixels), visual(pixels), rtol=1e-4, atol=1e-5)
    with pytest.raises(NotSupported, match="normalises the attention output"):
        tower.blocks[0].output_map()
    model.save(tmp_path / "eva")
    assert load(tmp_path / "eva").fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [({"norm": "batch"}, "'layer' or 'rms'"), ({"post_norm": 1}, "post_norm must be true"),
     ({"qkv_bias": "no"}, "qkv_bias must be true")],
)  # fmt: skip
def test_wrong_values_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(**options)


def test_other_towers_are_refused() -> None:
    with pytest.raises(NotSupported, match="TimmModel"):
        made(timm_model_name="vit_tiny_patch16_224", image_size=224, timm_pool="avg", post_norm=True)
    with pytest.raises(NotSupported, match="ls_init_value"):
        made(ls_init_value=0.1, post_norm=True)
    with pytest.raises(NotSupported, match="default blocks"):
        made(qk_norm=True, qkv_bias=False)

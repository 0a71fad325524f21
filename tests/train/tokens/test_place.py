"""Reductions in the towers they act in, and what no tower can do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load
from binderclip.train import TOKENS, RandomPatches, Recipe, Resize, run
from binderclip.train.tokens.place import check_size, input_side, patch_grid, prefix_tokens, reduced_tokens


@pytest.fixture(scope="module")
def small() -> Any:
    """`small` is a timm ViT inside open_clip."""
    return load("small").backbone


def open_clip_vit(**vision: Any) -> Any:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    shape = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8, **vision}
    text = {"width": 32, "heads": 2, "layers": 1, "context_length": 8, "vocab_size": 50}
    return open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=shape, text_cfg=text)


def test_everything_kept_is_the_plain_tower(small: Any) -> None:
    for backbone, side in ((small, 128), (open_clip_vit(), 32)):
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        backbone.train()
        for module in backbone.modules():
            if isinstance(module, nn.Dropout) or "DropPath" in type(module).__name__:
                module.eval()
        plain = backbone.encode_image(pixels)
        for name in ("random", "block", "resize"):
            with reduced_tokens(backbone, TOKENS[name](keep=1.0)):
                assert torch.equal(backbone.encode_image(pixels), plain), name
        with reduced_tokens(backbone, RandomPatches(keep=0.5)):
            assert not torch.equal(backbone.encode_image(pixels), plain)
            backbone.eval()
            whole = backbone.encode_image(pixels)
        assert torch.equal(backbone.encode_image(pixels), whole)


def test_grids_and_prefixes(small: Any) -> None:
    assert patch_grid(small) == patch_grid(small, 128) == (8, 8)
    assert prefix_tokens(small) == 1
    assert patch_grid(open_clip_vit(), 64) == (8, 8)
    convolutional = open_clip_vit(layers=[1, 1, 1, 1], image_size=64)
    assert patch_grid(convolutional) is None
    assert prefix_tokens(convolutional) == 0
    assert input_side(open_clip_vit(), Resize(keep=0.25), 32) == 16
    assert input_side(convolutional, None, 64) == 64


def test_what_a_tower_cannot_do(small: Any) -> None:
    convolutional = open_clip_vit(layers=[1, 1, 1, 1], image_size=64)
    with pytest.raises(NotSupported, match="no patch tokens"), reduced_tokens(convolutional, RandomPatches(keep=0.5)):
        pass
    with pytest.raises(NotSupported, match="square ViT"):
        input_side(convolutional, Resize(keep=0.5), 64)
    check_size(open_clip_vit(), "fixed", 32)
    check_size(open_clip_vit(), "sincos", 16)
    check_size(small, "fixed", 64)  # timm interpolates for itself
    with pytest.raises(NotSupported, match="positions = 'sincos' or 'interpolated'"):
        check_size(open_clip_vit(), "fixed", 16)
    odd = reduced_tokens(open_clip_vit(), TOKENS["grid"](), "sincos", image_size=40)
    with pytest.raises(UsageError, match="5 x 5 patches"), odd:
        pass
    with pytest.raises(UsageError, match="no multiple of the patch"):
        patch_grid(open_clip_vit(), 30)
    with pytest.raises(NotSupported, match="TimmModel keeps its own"), reduced_tokens(small, None, "sincos"):
        pass


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"image_tokens": {"name": "radom", "keep": 0.5}}, "did you mean 'random'"),
        ({"image_tokens": "random"}, "needs keep"),
        ({"image_tokens": {"name": "random", "keep": "half"}}, "keep is 'half'; it is a number"),
        ({"image_tokens": {"name": "random", "keep": 2.0}}, "share of the patches"),
        ({"image_tokens": "grid", "patch_dropout": 0.5}, "not both"),
        ({"text_tokens": "nouns"}, "text_tokens"),
        ({"positions": "learned"}, "positions"),
    ],
    ids=str,
)
def test_recipes_say_what_is_wrong(tiny: dict[str, Any], entries: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe.from_dict({**tiny, **entries})


def test_a_run_that_cannot_be_is_refused_before_its_folder_is_made(tiny: dict[str, Any], tmp_path: Any) -> None:
    with pytest.raises(NotSupported, match="positions ="):
        run(Recipe.from_dict({**tiny, "image_size": 16}), out=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()

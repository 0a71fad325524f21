"""Positions of other sizes, against a direct double loop and open_clip's own table and loader."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from binderclip.errors import NotSupported, UsageError
from binderclip.train.tokens.place import short_context
from binderclip.train.tokens.positions import positions_for, resample_grid, resample_rows, sincos_2d

open_clip = pytest.importorskip("open_clip")

VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"width": 32, "heads": 2, "layers": 2, "context_length": 12, "vocab_size": 50}


@pytest.fixture
def backbone() -> Any:
    torch.manual_seed(0)
    return open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)


def test_sine_and_cosine_by_a_double_loop() -> None:
    width, grid = 16, (3, 5)
    for released in (False, True):
        table = sincos_2d(width, grid, prefix=1, released_jax=released)
        assert table.shape == (16, width)
        assert not table[0].any()
        for row in range(3):
            for column in range(5):
                for k in range(4):
                    angle = 10_000 ** (-k / (3 if released else 4))
                    want = [math.sin(column * angle), math.cos(column * angle)]
                    want += [math.sin(row * angle), math.cos(row * angle)]
                    got = table[1 + row * 5 + column, k::4]
                    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(sincos_2d(64, (4, 4)).norm(dim=1), math.sqrt(32), rtol=1e-6)


def test_the_table_is_open_clips() -> None:
    theirs = open_clip.pos_embed.get_2d_sincos_pos_embed(32, 6, cls_token=True)
    np.testing.assert_allclose(sincos_2d(32, (6, 6), prefix=1), theirs, atol=1e-6)
    assert np.abs(sincos_2d(32, (6, 6), prefix=1, released_jax=True).numpy() - theirs).max() > 0.1
    with pytest.raises(UsageError, match="multiple of 4"):
        sincos_2d(30, (2, 2))


def test_resampling_is_open_clips_loader(backbone: Any) -> None:
    larger = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg={**VISION, "image_size": 64}, text_cfg=TEXT)
    table = backbone.visual.positional_embedding.detach()
    state = {"visual.positional_embedding": table.clone()}
    open_clip.model.resize_pos_embed(state, larger)
    torch.testing.assert_close(resample_grid(table, (4, 4), (8, 8)), state["visual.positional_embedding"])
    assert resample_grid(table, (4, 4), (4, 4)) is table


def test_rows_are_linear() -> None:
    line = torch.stack([torch.arange(8.0), torch.arange(8.0) * -2], dim=1)
    longer = resample_rows(line, 16)
    # half-pixel centres, clamped at both ends: what numpy interpolates
    want = np.interp((np.arange(16) + 0.5) / 2 - 0.5, np.arange(8), np.arange(8.0))
    np.testing.assert_allclose(longer, np.stack([want, -2 * want], 1), atol=1e-6)
    shorter = resample_rows(longer, 8)
    assert (shorter[1:-1] - line[1:-1]).abs().max() < 1e-5
    # every row counts: none is left out when a table becomes shorter
    table = torch.randn(32, 4, requires_grad=True)
    resample_rows(table, 8).sum().backward()
    assert table.grad is not None
    assert (table.grad.abs() > 0).all()


@pytest.mark.parametrize("kind", ["sincos", "interpolated"])
def test_another_size_is_trained_and_the_models_own_is_measured(backbone: Any, kind: Any) -> None:
    before = backbone.visual.positional_embedding
    names = [name for name, _ in backbone.named_parameters()]
    text = torch.randint(1, 50, (2, 12))
    with positions_for(backbone, kind, image_size=16, text_length=6):
        assert [name for name, _ in backbone.named_parameters()] == names
        with short_context(backbone, 6):
            (
                backbone.encode_image(torch.randn(2, 3, 16, 16)).sum() + backbone.encode_text(text[:, :6]).sum()
            ).backward()
        table = dict(backbone.named_parameters())["visual.positional_embedding"]
        assert table.shape == (5, 32)
        assert table.requires_grad == (kind == "interpolated")
        assert (table.grad is not None) == (kind == "interpolated")
        within = backbone.encode_image(torch.ones(1, 3, 32, 32)), backbone.encode_text(text)
        copied = copy.deepcopy(backbone)
        assert torch.equal(copied.encode_text(text), within[1])
    assert backbone.visual.positional_embedding is before
    assert before.requires_grad
    assert type(backbone.visual) is open_clip.transformer.VisionTransformer
    # What was measured within is what is left.
    torch.testing.assert_close(backbone.encode_image(torch.ones(1, 3, 32, 32)), within[0])
    torch.testing.assert_close(backbone.encode_text(text), within[1])
    if kind == "sincos":
        torch.testing.assert_close(before.detach(), sincos_2d(32, (4, 4), prefix=1))


def with_table(backbone: Any, side: int, table: torch.Tensor) -> Any:
    """The same model of another image size, with a table of its own."""
    other = open_clip.CustomTextCLIP(embed_dim=16, vision_cfg={**VISION, "image_size": side}, text_cfg=TEXT)
    state = {**backbone.state_dict(), "visual.positional_embedding": table}
    other.load_state_dict(state)
    return other


def test_sincos_is_recomputed_not_interpolated(backbone: Any) -> None:
    for side, grid in ((16, 2), (64, 8)):
        pixels = torch.randn(2, 3, side, side)
        plain = with_table(backbone, side, sincos_2d(32, (grid, grid), prefix=1))
        stretched = with_table(backbone, side, resample_grid(sincos_2d(32, (3, 3), prefix=1), (3, 3), (grid, grid)))
        with positions_for(backbone, "sincos", image_size=24):
            found = backbone.encode_image(pixels)
        torch.testing.assert_close(found, plain.encode_image(pixels))
        assert (found - stretched.encode_image(pixels)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["sincos", "interpolated"])
def test_the_parameter_is_what_the_attribute_gives(backbone: Any, kind: Any) -> None:
    """Whatever shards or averages a model asks for its parameters by name, outside forward passes."""
    with positions_for(backbone, kind, image_size=16, text_length=6):
        with short_context(backbone, 6):
            backbone.encode_image(torch.randn(1, 3, 32, 32))
            backbone.encode_text(torch.randint(1, 50, (1, 6)))
        for name, parameter in backbone.named_parameters():
            assert backbone.get_parameter(name) is parameter
            assert parameter.is_contiguous()
            *owner, last = name.split(".")
            assert getattr(backbone.get_submodule(".".join(owner)), last) is parameter


def test_an_unchanged_grid_changes_nothing(backbone: Any) -> None:
    pixels, text = torch.randn(2, 3, 32, 32), torch.randint(1, 50, (2, 12))
    before = backbone.encode_image(pixels), backbone.encode_text(text)
    with positions_for(backbone, "interpolated", image_size=32, text_length=12):
        pass
    assert torch.equal(backbone.encode_image(pixels), before[0])
    assert torch.equal(backbone.encode_text(text), before[1])


def test_an_error_inside_leaves_the_model_as_it_was(backbone: Any) -> None:
    before = backbone.visual.positional_embedding.detach().clone()
    with pytest.raises(ZeroDivisionError), positions_for(backbone, "interpolated", text_length=6):
        raise ZeroDivisionError
    assert type(backbone.text) is open_clip.transformer.TextTransformer
    torch.testing.assert_close(backbone.visual.positional_embedding.detach(), before)


def test_what_cannot_be_done(backbone: Any) -> None:
    with pytest.raises(UsageError, match="multiples of the patch, 8"), positions_for(backbone, "sincos", image_size=20):
        pass
    with pytest.raises(UsageError, match="context of 12"), positions_for(backbone, "sincos", text_length=13):
        pass
    with pytest.raises(NotSupported, match="Linear keeps its own"), positions_for(nn.Linear(2, 2), "sincos"):
        pass
    plain = open_clip.CLIP(embed_dim=16, vision_cfg=VISION, text_cfg=TEXT)
    with pytest.raises(NotSupported, match="tower of its own"), positions_for(plain, "sincos", text_length=6):
        pass

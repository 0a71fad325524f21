"""CLIPA's recipes: the papers' figures, and the scaled ones beside them."""

from __future__ import annotations

import pytest

from binderclip.train import load_recipe


def test_clipa_is_i37_t8_then_everything() -> None:
    recipe = load_recipe("clipa")
    cost = recipe.cost()
    assert [(s.image_tokens, s.text_tokens) for s in cost.stages] == [(37, 8), (197, 32)]
    reduced, full = recipe.stage
    # 8e-6 and 8e-7 per 256 pairs
    assert [round(s.lr / s.batch_size * 256, 10) for s in recipe.stage] == [8e-6, 8e-7]
    assert [round(s.warmup / s.batch_size) for s in recipe.stage] == [1563, 3571]
    assert (reduced.positions, full.positions) == ("sincos", "fixed")
    # a ViT's operations by hand: projections and MLP, attention, patches, and the output projection
    tokens, width, layers = 37, 1024, 24
    blocks = layers * (24 * tokens * width**2 + 4 * tokens**2 * width)
    assert cost.stages[0].image_flops == blocks + 2 * 36 * 16 * 16 * 3 * width + 2 * width * 768
    # what the paper is about: the same pairs with all tokens would cost five times as much
    whole = load_recipe("clipa", set=["stage.0.image_size=224", "stage.0.text_length=32"]).cost()
    assert whole.stages[0].samples == cost.stages[0].samples
    assert 4.5 < whole.stages[0].flops / cost.stages[0].flops < 6  # type: ignore[operator]


def test_clipa_v2_is_three_stages() -> None:
    recipe = load_recipe("clipa-v2")
    cost = recipe.cost()
    # int(256 * 0.7) and int(576 * 0.6) patches, and the class token
    assert [(s.image_tokens, s.text_tokens) for s in cost.stages] == [(37, 8), (180, 32), (346, 32)]
    assert [s.lr for s in recipe.stage] == [2.048e-3, 5.12e-5, 6.4e-6]
    assert [s.lr * 256 / s.batch_size for s in recipe.stage] == pytest.approx([8e-6, 4e-7, 1e-7])
    assert [round(s.warmup / s.batch_size) for s in recipe.stage] == [3200, 800, 1600]
    assert [s.samples for s in cost.stages] == [12_800_000_000 // 65_536 * 65_536, 524_288_000, 131_072_000]
    # The first stage has the smallest pictures and most of the operations.
    assert cost.stages[0].flops > 0.6 * cost.flops  # type: ignore[operator]
    assert "84" in str(cost)


@pytest.mark.parametrize("name", ["clipa", "clipa-v2"])
def test_the_scaled_ones_have_the_same_stages(name: str) -> None:
    paper, scaled = load_recipe(name), load_recipe(f"{name}-small")
    assert [s.name for s in paper.stage] == [s.name for s in scaled.stage] or name == "clipa-v2"
    assert len(paper.stage) == len(scaled.stage)
    assert scaled.scaling["of"] == name
    for a, b in zip(paper.stage, scaled.stage, strict=True):
        assert (a.patch_dropout, a.positions, a.text_tokens) == (b.patch_dropout, b.positions, b.text_tokens)
    # pictures grow from stage to stage, rates fall, and the short stages are the last ones
    tokens = [s.image_tokens for s in scaled.cost().stages]
    assert tokens == ([17, 65] if name == "clipa" else [10, 26, 39])
    assert all(
        a.lr > b.lr and (a.samples or 0) > (b.samples or 0)
        for a, b in zip(scaled.stage, scaled.stage[1:], strict=False)
    )

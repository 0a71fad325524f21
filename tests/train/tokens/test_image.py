"""Which patches each reduction keeps, by brute force and by counting (p020, p025)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.train import TOKENS
from binderclip.train.tokens.image import (
    BlockPatches,
    GridPatches,
    PatchSelection,
    RandomPatches,
    Resize,
    TokenReduction,
)

GRID = (6, 6)


def drawn(reduction: TokenReduction, batch: int = 200, grid: tuple[int, int] = GRID) -> torch.Tensor:
    index = reduction.select(batch, grid, generator=torch.Generator().manual_seed(0))
    assert index is not None
    return index


@pytest.mark.parametrize("reduction", [RandomPatches(keep=0.25), GridPatches(), BlockPatches(keep=0.25)], ids=str)
def test_a_quarter_is_kept_in_order_and_everything_has_its_turn(reduction: TokenReduction) -> None:
    index = drawn(reduction)
    assert index.shape == (200, reduction.count(GRID)) == (200, 9)
    assert (index.diff(dim=1) > 0).all()
    assert set(index.flatten().tolist()) == set(range(36))
    assert len({tuple(row) for row in index.tolist()}) > 10


def test_the_grid_keeps_one_of_every_window() -> None:
    windows = {(y // 2, x // 2) for y in range(6) for x in range(6)}
    for row in drawn(GridPatches(), 20).tolist():
        assert {(place // 6 // 2, place % 6 // 2) for place in row} == windows
    kept = drawn(RandomPatches(keep=0.25), 50).tolist()
    assert any(len({(p // 6 // 2, p % 6 // 2) for p in row}) < 9 for row in kept)


@given(st.floats(0.01, 1), st.integers(1, 9), st.integers(1, 9))
def test_a_block_is_a_rectangle_inside(keep: float, h: int, w: int) -> None:
    for row in drawn(BlockPatches(keep=keep), 4, (h, w)).tolist():
        rows, columns = sorted({p // w for p in row}), sorted({p % w for p in row})
        assert row == [y * w + x for y in rows for x in columns]
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert columns == list(range(columns[0], columns[-1] + 1))
        assert 0 <= row[0] <= row[-1] < h * w


def test_corners_of_blocks_are_even() -> None:
    corners = torch.bincount(drawn(BlockPatches(keep=0.25), 8000)[:, 0], minlength=36).view(6, 6)
    assert (corners[4:] == 0).all()
    assert (corners[:, 4:] == 0).all()
    # 16 places, 500 each; four standard deviations are 87
    assert (corners[:4, :4] - 500).abs().max() < 90


def test_the_share_is_rounded_as_open_clip_does() -> None:
    open_clip = pytest.importorskip("open_clip.transformer")
    for prob in (0.3, 0.4, 0.5, 0.99):
        theirs = open_clip.PatchDropout(prob).train()(torch.zeros(2, 1 + 256, 4)).shape[1] - 1
        assert RandomPatches(keep=1 - prob).count((16, 16)) == theirs


def test_resizing_counts_the_smaller_grid() -> None:
    # 224 to 112 pixels at patch 16: I50 of the paper with the class token, 7 x 7 patches
    assert Resize(keep=0.25).side(14) == 7
    assert Resize(keep=0.25).count((14, 14)) == 49
    assert Resize(keep=16 / 196).side(14) == 4
    assert Resize(keep=0.25).select(3, GRID) is None
    assert RandomPatches(keep=0.25).side(14) == 14


@pytest.mark.parametrize("prefix", [1, 5])
def test_the_prefix_stays_and_only_training_selects(prefix: int) -> None:
    x = torch.arange(prefix + 36.0).view(1, -1, 1).expand(8, -1, 3).contiguous()
    selection = PatchSelection(RandomPatches(keep=0.25), prefix)
    kept = selection.train()(x)
    assert kept.shape == (8, prefix + 9, 3)
    assert torch.equal(kept[:, :prefix], x[:, :prefix])
    assert (kept[:, prefix:, 0].diff(dim=1) > 0).all()
    assert selection.eval()(x) is x
    everything = PatchSelection(RandomPatches(keep=1.0), prefix).train()(x)
    assert torch.equal(everything, x)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("random", {"keep": 0.0}, "share of the patches"),
        ("block", {"keep": 1.5}, "share of the patches"),
        ("resize", {"keep": -1.0}, "share of the patches"),
        ("grid", {"window": 0}, "number of patches"),
    ],
)
def test_bad_settings(name: str, settings: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TOKENS[name](**settings)


def test_windows_have_to_divide_and_grids_to_be_square() -> None:
    with pytest.raises(UsageError, match="3 x 5 patches"):
        GridPatches().count((3, 5))
    with pytest.raises(UsageError, match="no square"):
        PatchSelection(RandomPatches(keep=0.5)).train()(torch.zeros(1, 9, 4))

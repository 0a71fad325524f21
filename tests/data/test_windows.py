from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.data.windows import WindowGrid, fold, unfold
from binderclip.errors import UsageError

lengths, sides = st.integers(1, 40), st.integers(1, 20)
geometry = st.tuples(lengths, lengths, sides, sides, sides, sides).map(
    lambda g: ((g[0], g[1]), (max(g[2], g[4]), max(g[3], g[5])), (min(g[2], g[4]), min(g[3], g[5])))
)


@settings(max_examples=150)
@given(geometry)
def test_geometry(case: tuple) -> None:
    """Every pixel is covered, the last window ends at the border, and the count map counts."""
    size, window, stride = case
    layout = WindowGrid.over(size, window, stride)
    count = torch.zeros(size)
    for x0, y0, x1, y1 in layout.boxes:
        assert 0 <= x0 < x1 <= size[1]
        assert 0 <= y0 < y1 <= size[0]
        assert (y1 - y0, x1 - x0) == (min(window[0], size[0]), min(window[1], size[1]))
        for y in range(y0, y1):
            for x in range(x0, x1):
                count[y, x] += 1
    assert torch.equal(count, layout.count())
    elsewhere = layout.count(dtype=torch.float64, device="meta")
    assert (elsewhere.dtype, elsewhere.device.type, elsewhere.shape) == (torch.float64, "meta", count.shape)
    assert count.min() >= 1
    assert layout.boxes[-1][2:] == (size[1], size[0])
    assert len(set(layout.boxes)) == len(layout.boxes) == len(layout)
    steps = [b - a for a, b in zip(layout.tops, layout.tops[1:], strict=False)]
    assert all(step == stride[0] for step in steps[:-1])
    assert all(0 < step <= stride[0] for step in steps)


@settings(max_examples=60)
@given(geometry, st.integers(0, 2**31))
def test_merging_what_was_cut_gives_it_back(case: tuple, seed: int) -> None:
    size, window, stride = case
    layout = WindowGrid.over(size, window, stride)
    draw = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, *size, generator=draw, dtype=torch.float64)
    assert torch.allclose(fold(unfold(maps, layout), layout), maps, atol=1e-12)
    taper = torch.rand(layout.window, generator=draw, dtype=torch.float64) + 0.1
    assert torch.allclose(fold(unfold(maps, layout), layout, weight=taper), maps, atol=1e-12)


def test_a_constant_stays_itself_and_overlaps_are_means() -> None:
    layout = WindowGrid.over((5, 9), (5, 6), 3)
    assert layout.lefts == (0, 3)
    constant = torch.full((1, 2, 1, 5, 6), 0.7)
    assert torch.allclose(fold(constant, layout), torch.full((1, 1, 5, 9), 0.7))
    different = torch.cat([torch.zeros(1, 1, 1, 5, 6), torch.ones(1, 1, 1, 5, 6)], 1)
    assert fold(different, layout)[0, 0, 0].tolist() == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]


def test_agrees_with_torch_fold_where_strides_fit() -> None:
    values = torch.rand(2, 9, 4, 6, 6)
    layout = WindowGrid.over((12, 12), 6, 3)
    columns = values.flatten(2).transpose(1, 2)
    total = torch.nn.functional.fold(columns, (12, 12), 6, stride=3)
    assert torch.allclose(fold(values, layout), total / layout.count(), atol=1e-6)


def test_scaled_to_tokens() -> None:
    layout = WindowGrid.over((336, 448), 224, 112)
    tokens = layout.scaled(16)
    assert tokens.size == (21, 28)
    assert [tuple(v * 16 for v in box) for box in tokens.boxes] == layout.boxes
    with pytest.raises(UsageError, match="grid of 5"):
        layout.scaled(5)


def test_gradients_are_shared_between_covers() -> None:
    layout = WindowGrid.over((4, 6), 4, 2)
    values = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    fold(values, layout).sum().backward()
    assert torch.allclose(values.grad.sum(), torch.tensor(24.0))


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="left out"):
        WindowGrid.over((10, 10), 4, 5)
    layout = WindowGrid.over((10, 10), 4, 3)
    with pytest.raises(UsageError, match="do not fit"):
        unfold(torch.rand(1, 1, 9, 10), layout)
    with pytest.raises(UsageError, match="9 windows"):
        fold(torch.rand(1, 3, 1, 4, 4), layout)
    with pytest.raises(UsageError, match="positive"):
        fold(torch.rand(1, 9, 1, 4, 4), layout, weight=torch.zeros(4, 4))

from __future__ import annotations

import math

import pytest
import torch

from binderclip.optim.gradients.measure import combine_norms, tensor_norms, unit_norms


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("foreach", [False, True])
def test_norms_of_mixed_types_and_empty_shards(order, foreach):
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=generator) for shape in ((3, 4), (5,), (), (0, 4), (2, 1, 6))]
    tensors[1], tensors[4] = tensors[1].double(), tensors[4].bfloat16()
    found = tensor_norms(tensors, order, foreach=foreach)
    assert found.dtype == torch.float64
    for tensor, norm in zip(tensors, found.tolist(), strict=True):
        values = tensor.double().abs().flatten()
        expected = (values.max() if order == math.inf else values.pow(order).sum() ** (1 / order)) if len(values) else 0
        assert norm == pytest.approx(float(expected), rel=1e-5)


def _large(layout: str, generator: torch.Generator) -> torch.Tensor:
    """At least 40,000 entries: each layout stores them in another order, with gaps, or once for many."""
    if layout == "vector":
        return torch.randn(40_000, generator=generator)
    if layout == "transposed":
        return torch.randn(400, 100, generator=generator).mT
    if layout == "channels last":
        return torch.randn(10, 40, 10, 10, generator=generator).to(memory_format=torch.channels_last)
    if layout == "every other column":
        return torch.randn(400, 200, generator=generator)[:, ::2]
    if layout == "every other entry repeated":
        return torch.randn(2, 50, 2, generator=generator)[..., :1].expand(2, 50, 400)
    if layout == "one number":
        return torch.randn((), generator=generator).expand(400_000)
    return torch.randn(1, 100, generator=generator).expand(4_000, 100)


LAYOUTS = ["vector", "transposed", "channels last", "every other column", "one row repeated", "one number"]


@pytest.mark.parametrize("layout", [*LAYOUTS, "every other entry repeated"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_norm_of_a_large_tensor_in_any_layout(layout, autocast):
    tensor = _large(layout, torch.Generator().manual_seed(0))
    small = torch.tensor([3.0, 4.0])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = tensor_norms([small, tensor, small], 2.0)
    exact = float(tensor.double().square().sum().sqrt())
    assert found.tolist() == pytest.approx([5.0, exact, 5.0], rel=1e-5)
    assert tensor_norms([tensor], 2.0, foreach=False)[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("size", [5, 40_000])
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("value", [0.0, 2.0])
def test_the_gradient_of_a_norm_is_its_direction_and_0_at_0(size, times, value):
    tensor = torch.full((size, 1), value, requires_grad=True)
    (found,) = torch.autograd.grad(tensor_norms([tensor.expand(size, times)], 2.0).sum(), tensor)
    # d/dx sqrt(times * sum x^2) = times x / norm, by hand
    assert found.flatten().tolist() == pytest.approx([math.sqrt(times / size) if value else 0.0] * size, rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_the_norm_of_a_large_tensor(bad):
    tensor = torch.ones(40_000)
    tensor[12_345] = bad
    found = tensor_norms([tensor], 2.0)[0]
    assert found.isnan() if math.isnan(bad) else found == math.inf


@pytest.mark.parametrize("values", [[-3.0, -1.0], [1.0, 3.0], [-3.0, 2.0], [0.0], [math.nan, 1.0], [-math.inf, 1.0]])
def test_the_largest_absolute_value(values):
    tensor = torch.tensor(values)
    expected = torch.linalg.vector_norm(tensor, math.inf)
    torch.testing.assert_close(tensor_norms([tensor], math.inf)[0], expected, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("order", [1.0, 2.0, math.inf])
def test_norms_of_blocks_make_up_the_norm_of_all(order):
    tensor = torch.randn(7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = unit_norms(tensor, order, whole=False)
    whole = torch.linalg.vector_norm(tensor, order)
    torch.testing.assert_close(combine_norms(rows, order)[0], whole)
    halves = combine_norms(rows, order, torch.tensor([0, 1, 0, 1, 0, 1, 0]), 2)
    torch.testing.assert_close(halves[1], torch.linalg.vector_norm(tensor[1::2], order))
    torch.testing.assert_close(combine_norms(halves, order)[0], whole)

"""Input diversity (arXiv 1803.06978): where a resized batch lies, how it was resized, and how often."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.robust import InputDiversity


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("rate", "size", "full"),
    [(0.6, (20, 20), (20, 20)), (0.5, (12, 30), (12, 30)), (1.2, (20, 10), (24, 12))],
)
def test_the_batch_lies_resized_among_zeros(rate: float, size: tuple[int, int], full: tuple[int, int]) -> None:
    images = 0.5 + 0.5 * torch.rand(3, 2, *size, generator=seeded(1))
    sizes, places = set(), set()
    for seed in range(60):
        found = InputDiversity(1.0, rate)(images, seeded(seed))
        assert found.shape == (3, 2, *full)
        rows, columns = (found[0, 0] > 0).any(1).nonzero()[:, 0], (found[0, 0] > 0).any(0).nonzero()[:, 0]
        height, width = len(rows), len(columns)
        part = found[..., rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        wanted = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        torch.testing.assert_close(part, wanted)
        assert float(found.sum()) == pytest.approx(float(part.sum()), rel=1e-5)
        # The longer side is drawn, from the smaller to below the larger size; the shape stays.
        low, high = sorted((max(size), int(max(size) * rate)))
        assert low <= max(height, width) < high
        assert abs(height / width - size[0] / size[1]) < 0.11
        sizes.add(height)
        places.add((int(rows[0]), int(columns[0])))
    assert len(sizes) >= 4
    assert len(places) >= 6


def test_it_happens_as_often_as_asked_and_gradients_go_through() -> None:
    images, generator = torch.rand(1, 3, 16, 16, generator=seeded(1)), seeded()
    for probability in (0.0, 0.3, 1.0):
        diverse = InputDiversity(probability)
        changed = sum(diverse(images, generator) is not images for _ in range(400)) / 400
        assert abs(changed - probability) <= 4 * (probability * (1 - probability) / 400) ** 0.5
    leaf = images.clone().requires_grad_()
    InputDiversity(1.0)(leaf, generator).sum().backward()
    assert leaf.grad is not None
    assert (leaf.grad > 0).float().mean() > 0.9


def test_what_cannot_be_is_refused() -> None:
    for settings, said in (
        ({"probability": 1.1}, r"must be in \[0, 1\]"), ({"probability": -0.1}, r"must be in \[0, 1\]"),
        ({"resize_rate": 1.0}, "not 1"), ({"resize_rate": 0.0}, "above 0"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            InputDiversity(**settings)
    for shape, said in (((1, 3, 1, 1), "cannot be resized"), ((3, 16, 16), r"\(B, C, H, W\)")):
        with pytest.raises(UsageError, match=said):
            InputDiversity(1.0)(torch.rand(shape), seeded())

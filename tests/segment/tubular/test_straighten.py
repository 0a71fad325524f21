"""Strips along paths (p174): a straight one is the crop itself, and a mask comes back to where it was cut."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment.tubular.straighten import frames, straightened, unstraightened


def row_path(row: int, first: int, count: int) -> torch.Tensor:
    return torch.stack([torch.full((count,), row), torch.arange(first, first + count)], 1)[None]


def test_a_straight_path_gives_the_crop() -> None:
    image = torch.rand(2, 20, 30, generator=torch.Generator().manual_seed(0))
    strip = straightened(image, row_path(9, 5, 12), 4)
    assert strip.shape == (1, 2, 12, 9)
    # To the right of a path that runs right is down.
    torch.testing.assert_close(strip[0], image[:, 5:14, 5:17].transpose(1, 2), atol=1e-5, rtol=0)
    back = straightened(image, row_path(9, 5, 12).flip(1), 4)
    torch.testing.assert_close(back[0], strip[0].flip(1, 2), atol=1e-5, rtol=0)


def test_beyond_the_edge_lies_its_nearest_pixel() -> None:
    image = torch.rand(1, 12, 20, generator=torch.Generator().manual_seed(1))
    strip = straightened(image, row_path(1, 3, 9), 4)[0, 0]
    torch.testing.assert_close(strip[:, 0], image[0, 0, 3:12], atol=1e-5, rtol=0)
    torch.testing.assert_close(strip[:, 3], image[0, 0, 3:12], atol=1e-5, rtol=0)


def test_normals_are_unit_and_across() -> None:
    turn = torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3], [3, 4], [3, 5], [3, 6], [3, 7]])[None]
    centre, normal = frames(turn)
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(1, 8))
    torch.testing.assert_close(centre[:, [0, -1]], turn[:, [0, -1]].float())
    torch.testing.assert_close(normal[0, 0], torch.tensor([0.5**0.5, -(0.5**0.5)]), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal[0, -1], torch.tensor([1.0, 0.0]), atol=1e-5, rtol=0)


def test_a_mask_comes_back_to_its_place() -> None:
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[12:17, 6:34] = True
    path = row_path(14, 6, 28)
    strip = straightened(mask[None].float(), path, 6)[:, 0]
    assert torch.equal(unstraightened(strip, path, (30, 40)) >= 0.5, mask)


def test_no_path_gives_no_strip_and_a_short_one_is_refused() -> None:
    image = torch.rand(3, 10, 10)
    assert straightened(image, torch.zeros(0, 7, 2, dtype=torch.long), 2).shape == (0, 3, 7, 5)
    with pytest.raises(UsageError, match="n of at least 3"):
        straightened(image, torch.zeros(1, 2, 2, dtype=torch.long), 2)

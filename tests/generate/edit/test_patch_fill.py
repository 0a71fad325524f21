"""Holes filled with patches: textures go on, what is hidden does not count, and the parts against brute force."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import biharmonic_fill, patch_fill
from binderclip.generate.edit.patch_search import TEXTURE, PatchLevel, search_patches
from binderclip.generate.edit.seamless import REACH, join_slopes


def tiles(side: int = 64) -> Tensor:
    """Bricks of two colours with dark joints, (1, 3, side, side)."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    shifted = x + 8 * (y // 8 % 2)
    brick = torch.where((shifted // 16 % 2 == 0), 0.8, 0.5)
    joint = (y % 8 == 0) | (shifted % 16 == 0)
    grey = torch.where(joint, 0.1, brick)
    return torch.stack([grey, 0.7 * grey, 0.5 * grey])[None]


def hole(side: int = 64) -> Tensor:
    mask = torch.zeros(1, 1, side, side)
    mask[..., 22:41, 19:43] = 1
    return mask


def test_bricks_go_on_as_bricks_where_the_smoothest_continuation_is_none() -> None:
    wall, mask = tiles(), hole()
    inside = mask[0, 0] > 0
    errors = [
        float((fill(wall * (1 - mask), mask) - wall)[..., inside].abs().mean())
        for fill in (patch_fill, biharmonic_fill)
    ]
    assert errors[0] < 0.02
    assert errors[1] > 0.1


def test_a_step_of_light_leaves_no_seam() -> None:
    slope = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    filled = patch_fill(slope * (1 - hole()), hole())
    assert float((filled[..., 1:] - filled[..., :-1]).abs().max()) < 0.03  # a step of the slope is 0.0095
    assert float((filled - slope).abs().max()) < 0.08


def test_what_is_known_stays_and_what_is_hidden_counts_nowhere() -> None:
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, 40, 33, generator=generator)
    mask = torch.zeros(2, 1, 40, 33)
    mask[0, :, 10:20, 5:15] = 1
    mask[1, :, 0:9, 25:33] = 1  # in a corner
    other = torch.where(mask > 0, torch.rand(2, 3, 40, 33, generator=generator), pictures)
    filled = patch_fill(pictures, mask)
    torch.testing.assert_close(patch_fill(other, mask), filled, rtol=0, atol=0)
    outside = (mask == 0).expand_as(pictures)
    torch.testing.assert_close(filled[outside], pictures[outside], rtol=0, atol=0)
    assert not torch.equal(patch_fill(pictures, mask, seed=1), filled)
    assert bool(((filled >= 0) & (filled <= 1)).all())
    nothing = torch.zeros(2, 1, 40, 33)
    torch.testing.assert_close(patch_fill(pictures, nothing), pictures, rtol=0, atol=0)


def test_the_search_comes_near_to_the_nearest_of_all() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(5, 40, 40, generator=generator)
    values = F.avg_pool2d(values, 5, 1, 2)
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[15:25, 12:20] = True
    near = F.max_pool2d(inside[None].float(), 7, 1, 3)[0] > 0
    sources = ~near
    sources[:3] = sources[-3:] = sources[:, :3] = sources[:, -3:] = False
    level = PatchLevel(values, inside, near.flatten().nonzero()[:, 0], sources)
    usable = sources.flatten().nonzero()[:, 0]
    nearest = usable[torch.randint(len(usable), level.targets.shape, generator=generator)]
    for _ in range(20):
        nearest, distances = search_patches(level, nearest, 7, generator)
    scaled = np.concatenate([values[:3].numpy(), values[3:].numpy() * TEXTURE**0.5])

    def patch_of(place: int) -> np.ndarray:
        row, column = divmod(place, 40)
        return scaled[:, row - 3 : row + 4, column - 3 : column + 4]

    every = np.stack([patch_of(place) for place in usable.tolist()])
    least = np.array([np.square(every - patch_of(place)).mean((1, 2, 3)).min() for place in level.targets.tolist()])
    assert bool(sources.flatten()[nearest].all())
    ratio = distances.numpy() / least
    assert float(ratio.min()) >= 1 - 1e-4
    assert float(np.mean(ratio < 1.001)) > 0.9


def test_joining_is_the_least_squares_of_its_equations() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 5, 6, generator=generator) * 0.4 + 0.3
    inside = torch.zeros(5, 6, dtype=torch.bool)
    inside[1:4, 2:5] = True
    inside[0, 2] = True  # at the border
    slopes = 0.1 * torch.randn(2, 3, int(inside.sum()), generator=generator)
    order = {place: index for index, place in enumerate(map(tuple, inside.nonzero().tolist()))}
    for channel in range(3):
        rows, right = [], []
        for row in range(5):
            for column in range(6):
                for axis, beside in ((0, (row + 1, column)), (1, (row, column + 1))):
                    if beside[0] > 4 or beside[1] > 5 or not ({(row, column), beside} & order.keys()):
                        continue
                    here = (row, column)
                    value = (
                        slopes[axis, channel, order[here]].item()
                        if here in order
                        else float(image[(channel, *beside)] - image[(channel, *here)])
                    )
                    equation = np.zeros(len(order))
                    for place, sign in ((beside, 1), (here, -1)):
                        if place in order:
                            equation[order[place]] += sign
                        else:
                            value -= sign * float(image[(channel, *place)])
                    rows.append(equation)
                    right.append(value)
        weight = 1 / (REACH * len(order) ** 0.5)
        matrix = np.vstack([np.stack(rows), weight * np.eye(len(order))])
        vector = np.concatenate([right, weight * image[channel, inside].numpy()])
        expected = np.clip(np.linalg.lstsq(matrix, vector, rcond=None)[0], 0, 1)
        np.testing.assert_allclose(join_slopes(image, inside, slopes)[channel, inside].numpy(), expected, atol=1e-5)


def test_what_cannot_be_filled_is_refused() -> None:
    picture = torch.rand(1, 3, 20, 20)
    with pytest.raises(UsageError, match="no patch to go by"):
        patch_fill(picture, torch.ones(1, 1, 20, 20))
    with pytest.raises(UsageError, match="must be"):
        patch_fill(picture, torch.ones(1, 1, 20, 21))
    with pytest.raises(UsageError, match="odd"):
        patch_fill(picture, torch.ones(1, 1, 20, 20), patch=6)


@pytest.mark.parametrize("fill", [patch_fill, biharmonic_fill])
def test_what_is_not_finite_is_refused_but_where_it_is_hidden(fill: Any) -> None:
    picture, mask = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 24, 24)
    mask[..., 8:14, 9:15] = 1
    filled = fill(picture, mask)
    hidden = picture.masked_fill(mask > 0, torch.nan)
    torch.testing.assert_close(fill(hidden, mask), filled, rtol=0, atol=0)
    for value in (torch.nan, torch.inf):
        wrong = picture.clone()
        wrong[0, 1, 2, 3] = value
        with pytest.raises(UsageError, match="images have a value that is not finite outside of the mask"):
            fill(wrong, mask)
        with pytest.raises(UsageError, match="mask has a value that is not finite"):
            fill(picture, mask.masked_fill(mask == 0, value))


def test_patches_take_pictures_in_their_range_alone() -> None:
    mask = hole()
    for wrong, text in ((tiles() * 255, r"0 to 20[0-9]"), (tiles() - 0.5, r"-0.4")):
        with pytest.raises(UsageError, match=rf"images must be in \[0, 1\], got {text}"):
            patch_fill(wrong, mask)
    assert patch_fill(tiles()[:0], mask[:0]).shape == (0, 3, 64, 64)

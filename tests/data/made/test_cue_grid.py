"""Pictures of the cue grid of p169 (arXiv 2110.03095): what each cue changes, and what it leaves alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from binderclip.data import CueGrid
from binderclip.errors import UsageError


def one_each(cue: str, values: int = 3, size: int = 96) -> torch.Tensor:
    """Pictures that differ in one cue alone, at one place."""
    grid = CueGrid(values=values, size=size)
    z = torch.ones(values, 4, dtype=torch.long)
    z[:, grid.cues.index(cue)] = torch.arange(values)
    return torch.cat([grid.drawn(row[None], seed=3).images for row in z])


def moments(image: torch.Tensor) -> tuple[float, float, float]:
    """Area in pixels, and the direction of the longest axis in [0, pi) with its length over that of the other."""
    mass = image.sum(0).double()
    y, x = torch.meshgrid(torch.arange(len(mass)), torch.arange(len(mass)), indexing="ij")
    total = mass.sum()
    cy, cx = (mass * y).sum() / total, (mass * x).sum() / total
    xx, yy, xy = ((mass * a * b).sum() / total for a, b in ((x - cx, x - cx), (y - cy, y - cy), (x - cx, y - cy)))
    values, vectors = np.linalg.eigh([[xx, xy], [xy, yy]])
    angle = math.atan2(vectors[1, 1], vectors[0, 1]) % math.pi
    return float(total), angle, float(np.sqrt(values[1] / values[0]))


def test_scales_are_areas_of_a_geometric_series_and_nothing_else_changes_them() -> None:
    side = 96
    shares = [moments(image)[0] / side**2 for image in one_each("scale")]
    assert shares == pytest.approx([0.03, 0.03 * 3**0.5, 0.09], rel=0.03)
    for cue in ("shape", "orientation", "colour"):
        areas = [moments(image)[0] for image in one_each(cue, values=5)]
        assert max(areas) / min(areas) < 1.03, cue


def test_orientations_are_steps_of_a_half_turn() -> None:
    grid = CueGrid(size=96)
    z = torch.tensor([[0, shape, 2, step] for shape in range(3) for step in range(3)])
    for row, image in zip(z.tolist(), grid.drawn(z, seed=1).images, strict=True):
        _, angle, longer = moments(image)
        assert longer > 1.3
        apart = (angle - row[3] * math.pi / 3) % math.pi
        assert min(apart, math.pi - apart) < 0.05, row


def test_a_colour_is_the_only_thing_its_cue_changes() -> None:
    red, green, blue = one_each("colour")
    assert torch.equal(red[0], green[1])
    assert torch.equal(red[0], blue[2])
    assert red[1:].abs().max() == 0


@pytest.mark.parametrize("values", [2, 3, 5])
def test_no_shape_leaves_the_picture(values: int) -> None:
    images = CueGrid(values=values, size=48).off_diagonal(400, seed=0).images
    rim = torch.cat([images[..., 0, :], images[..., -1, :], images[..., :, 0], images[..., :, -1]], dim=-1)
    assert rim.sum() < 1e-3 * images.sum()


def test_cues_agree_on_the_diagonal_and_are_independent_off_it() -> None:
    grid = CueGrid(size=16)
    both = grid.diagonal(10, seed=0)
    assert torch.equal(both.cues, both.cues[:, :1].expand(-1, 4))
    assert both.labels("shape").tolist() == [0] * 10 + [1] * 10 + [2] * 10
    apart = grid.off_diagonal(6000, seed=0).cues
    for one in range(4):
        for other in range(one):
            counts = torch.bincount(3 * apart[:, one] + apart[:, other], minlength=9)
            assert (counts - 6000 / 9).abs().max() < 4 * math.sqrt(6000 / 9), (one, other)


def test_the_place_and_the_other_cues_say_nothing_of_a_cue() -> None:
    apart = CueGrid().off_diagonal(1500, seed=5)
    area, grey = apart.images.sum((1, 2, 3))[:, None].numpy(), apart.images.mean(1).flatten(1).numpy()
    for seen, cue in ((area, "shape"), (area, "orientation"), (area, "colour"), (grey, "colour")):
        y = apart.labels(cue).numpy()
        rate = LogisticRegression(max_iter=300).fit(seen[:1000], y[:1000]).score(seen[1000:], y[1000:])
        assert rate < 1 / 3 + 4 * math.sqrt(2 / 9 / 500), cue


def test_the_same_seed_gives_the_same_pictures_and_what_is_wrong_is_said() -> None:
    grid = CueGrid(size=16)
    assert torch.equal(grid.diagonal(2, 1).images, grid.diagonal(2, 1).images)
    assert not torch.equal(grid.diagonal(2, 1).images, grid.diagonal(2, 2).images)
    assert CueGrid(cues=("shape", "colour"), size=16).drawn(torch.tensor([[2, 1]]), 0).images[0, 1].sum() > 0
    for wrong in ({"values": 1}, {"values": 6}, {"size": 8}):
        with pytest.raises(UsageError, match="at least 16"):
            CueGrid(**wrong)
    with pytest.raises(UsageError, match="each once"):
        CueGrid(cues=("colour", "colour"))
    with pytest.raises(UsageError, match="values from 0 to 2"):
        grid.drawn(torch.tensor([[0, 1, 2, 3]]), 0)
    with pytest.raises(UsageError, match="no cue 'size'"):
        grid.diagonal(1, 0).labels("size")

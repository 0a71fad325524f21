"""Paths inside their boxes: values and gradients are those of the dense coverage and of the plain compositing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from binderclip.generate import composite_over
from binderclip.generate.draw.vector.boxes import composite_boxes, coverage_in_boxes, path_boxes
from binderclip.generate.draw.vector.coverage import fill_coverage
from binderclip.generate.draw.vector.curves import Pieces, curve_index, flatten

SIZE = (40, 56)


def paths(seed: int) -> Tensor:
    """Twelve points of each of five paths: two inside, one crossing itself, one over two borders, one far outside."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.arange(12) / 12 * 2 * math.pi
    curves = []
    for x, y, size in (
        (12.0, 9.0, 5.0),
        (30.0, 20.0, 14.0),
        (25.0, 25.0, 9.0),
        (55.0, 38.0, 12.0),
        (200.0, -90.0, 9.0),
    ):
        radius = size * (0.4 + torch.rand(12, generator=g))
        curves.append(torch.stack([x + radius * angle.cos(), y + radius * angle.sin()], 1))
    curves[2] = curves[2][torch.randperm(12, generator=g)]
    return torch.cat(curves)


def pieces_of(points: Tensor) -> Pieces:
    return flatten(points, curve_index([4] * 5, closed=True), 9)


def dense(flat: Tensor, pieces: Pieces) -> Tensor:
    """Values of the boxes as pictures, 0 outside."""
    boxes = path_boxes(pieces, SIZE)
    index = boxes.owner * SIZE[0] * SIZE[1] + boxes.y * SIZE[1] + boxes.x
    return flat.new_zeros(pieces.curves * SIZE[0] * SIZE[1]).index_put((index,), flat).reshape(pieces.curves, -1)


def test_coverage_is_that_of_all_pixels_and_boxes_hold_all_of_it() -> None:
    for seed in range(6):
        pieces = pieces_of(paths(seed))
        boxes = path_boxes(pieces, SIZE)
        torch.testing.assert_close(
            dense(coverage_in_boxes(pieces, boxes), pieces), fill_coverage(pieces, SIZE), atol=0, rtol=0
        )
        assert boxes.first[-1] == len(boxes.owner) < 5 * SIZE[0] * SIZE[1] / 2
        assert boxes.first[4] == boxes.first[5]  # nothing of the one outside is looked at


def test_pictures_and_gradients_are_those_of_the_plain_compositing() -> None:
    g = torch.Generator().manual_seed(1)
    ground, target = torch.rand(3, 1, generator=g).expand(3, SIZE[0] * SIZE[1]), torch.rand(3, 1, generator=g)
    gradients, pictures = [], []
    for boxed in (True, False):
        points = paths(3).requires_grad_()
        colours = torch.linspace(0.1, 0.9, 20).reshape(5, 4).requires_grad_()
        pieces = pieces_of(points)
        if boxed:
            boxes = path_boxes(pieces, SIZE)
            seen = colours.T[:, boxes.owner]
            picture = composite_boxes(coverage_in_boxes(pieces, boxes) * seen[3], seen[:3], boxes, ground)
        else:
            picture = composite_over(fill_coverage(pieces, SIZE) * colours[:, 3:], colours[:, :3, None], ground)
        (picture - target).square().sum().backward()
        pictures.append(picture.detach())
        gradients.append((points.grad, colours.grad))
    torch.testing.assert_close(pictures[0], pictures[1], atol=1e-6, rtol=0)
    for boxed_grad, plain_grad in zip(*gradients, strict=True):
        assert float(plain_grad.abs().max()) > 0.1
        torch.testing.assert_close(boxed_grad, plain_grad, atol=2e-4, rtol=2e-4)


def test_no_paths_and_paths_outside_leave_the_background() -> None:
    ground = torch.rand(3, SIZE[0] * SIZE[1])
    none = Pieces(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 0)
    for pieces in (none, pieces_of(paths(0) + 500)):
        boxes = path_boxes(pieces, SIZE)
        assert not len(boxes.owner)
        assert torch.equal(composite_boxes(coverage_in_boxes(pieces, boxes), torch.zeros(3, 0), boxes, ground), ground)

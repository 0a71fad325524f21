"""Pictures of tubes: the annotation is what was drawn."""

from __future__ import annotations

import pytest
import torch

from binderclip.data import tube_pictures
from binderclip.errors import UsageError


def test_lines_have_no_gaps_and_lie_in_their_masks() -> None:
    pictures = tube_pictures(0, 4)
    assert len(pictures) == 4
    for one in pictures:
        assert one.image.shape == (3, 96, 96)
        assert 0 <= one.image.min() <= one.image.max() <= 1
        assert ((one.line[1:] - one.line[:-1]).abs().amax(1) == 1).all()
        assert all(one.mask[line[:, 0], line[:, 1]].float().mean() > 0.99 for line in one.lines)
        assert 2 <= len(one.lines) <= 3
        # The mask is no wider than the radius says, and both ends are those of the line.
        assert (one.mask | ~one.own).all()
        rows, columns = torch.nonzero(one.own, as_tuple=True)
        distance = torch.cdist(torch.stack([rows, columns], 1).float(), one.line.float()).amin(1)
        assert float(distance.max()) <= one.radius + 1.5
        assert one.start == (int(one.line[0, 1]), int(one.line[0, 0]))
        assert one.end == (int(one.line[-1, 1]), int(one.line[-1, 0]))


def test_a_picture_depends_on_its_seed_and_place_alone() -> None:
    whole, part, other = tube_pictures(3, 3), tube_pictures(3, 1), tube_pictures(4, 1)
    assert torch.equal(whole[0].image, part[0].image)
    assert torch.equal(whole[0].line, part[0].line)
    assert not torch.equal(whole[0].image, other[0].image)
    assert not torch.equal(whole[0].image, whole[1].image)


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"n": -1}, {"side": 16}, {"others": (3, 2)}, {"patches": (-1, 2)}, {"noise": -0.1}]
)
def test_values_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="at least 32"):
        tube_pictures(**{"seed": 0, "n": 1} | wrong)  # type: ignore[arg-type]

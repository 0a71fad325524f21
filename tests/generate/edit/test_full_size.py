"""An edit brought to the picture's size: closed forms of added changes, moved edges and what detail is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate import add_change, changed_share, detail_ratio, moved_edges


def square(side: int, left: int, top: int, edge: int, colours: tuple[float, float, float]) -> Tensor:
    """A square of a colour on a grey ground."""
    image = torch.full((1, 3, side, side), 0.6)
    image[..., top : top + edge, left : left + edge] = torch.tensor(colours)[:, None, None]
    return image


def textured(side: int) -> Tensor:
    """Random values between 0.3 and 0.6 at every pixel."""
    return 0.3 + 0.3 * torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_a_change_that_is_the_same_everywhere_is_added_as_it_is() -> None:
    original = textured(96)
    before = F.adaptive_avg_pool2d(original, 16)
    constant = torch.tensor([0.25, -0.2, 0.0])[:, None, None]
    edited = add_change(original, before, before + constant)
    torch.testing.assert_close(edited, original + constant, atol=1e-5, rtol=0)
    ratio = detail_ratio(original, edited, changed_share(before, before + constant))
    torch.testing.assert_close(ratio, torch.ones(2), atol=1e-3, rtol=0)


def test_what_is_hardly_another_colour_stays_as_it_was() -> None:
    original = textured(40)
    before = F.adaptive_avg_pool2d(original, 10)
    assert torch.equal(add_change(original, before, before + 0.039), original)
    assert not bool(changed_share(before, before + 0.039).any())
    assert bool((changed_share(before, before + 0.161) == 1).all())
    assert bool(detail_ratio(original, original, torch.zeros(2, 1, 10, 10)).isnan().all())  # nothing changed


def test_another_colour_ends_where_the_picture_has_its_edge() -> None:
    """The small copy is eight times coarser: enlarged as it is, the colour would end over eight pixels."""
    small = square(32, 8, 10, 12, (0.9, 0.1, 0.1)), square(32, 8, 10, 12, (0.1, 0.6, 0.1))
    original, expected = (F.interpolate(each, scale_factor=8.0, mode="nearest") for each in small)
    error = (add_change(original, *small) - expected).abs().amax(1)[0]
    assert float(error.max()) < 0.1
    blown_up = F.interpolate(small[1], (256, 256), mode="bilinear", align_corners=False)
    assert float((blown_up - expected).abs().max()) > 0.3


def test_edges_stay_where_a_colour_changes_and_are_others_where_a_thing_moved() -> None:
    before = square(48, 6, 6, 12, (0.9, 0.1, 0.1))
    colours = square(48, 6, 6, 12, (0.1, 0.2, 0.9)), square(48, 6, 6, 12, (1.0, 1.0, 0.0))
    for after in colours:  # also where the edge is lighter inside and not outside
        assert float(moved_edges(before, after)) == 0
    assert float(moved_edges(before, before + 0.2)) == 0
    far = square(48, 28, 28, 12, (0.9, 0.1, 0.1))
    assert float(moved_edges(before, far)) == pytest.approx(1)
    assert float(moved_edges(before, square(48, 12, 6, 12, (0.9, 0.1, 0.1)))) > 0.3  # by half its side
    assert float(moved_edges(before, torch.full_like(before, 0.6))) > 0.9  # it went
    assert float(moved_edges(torch.full_like(before, 0.6), before)) > 0.9  # it came
    two = moved_edges(torch.cat([before, before]), torch.cat([far, before]))
    assert two.tolist() == [pytest.approx(1), 0]


@pytest.mark.parametrize(("height", "share"), [(0.5, 0.0), (0.08, 1.0)])
def test_an_edge_is_gone_where_hardly_any_of_its_height_is_left(height: float, share: float) -> None:
    before = square(48, 12, 12, 20, (0.1, 0.1, 0.1))
    after = 0.6 + height * (before - 0.6) + 0.2  # the ground changes as well, so that every pixel counts
    for one, two in ((before, after), (after, before)):
        assert float(moved_edges(one, two)) == pytest.approx(share, abs=0.02)


def test_noise_moves_nothing() -> None:
    noise = 0.01 * torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(moved_edges(0.5 + noise[:1], 0.8 + noise[1:])) == 0


def test_a_blur_has_no_detail_and_twice_the_contrast_four_times_as_much() -> None:
    original = textured(64)
    everywhere = torch.ones(2, 1, 8, 8)
    mean = original.mean((2, 3), keepdim=True)
    torch.testing.assert_close(
        detail_ratio(original, mean + 2 * (original - mean), everywhere), torch.full((2,), 4.0), atol=1e-3, rtol=0
    )
    blurred = F.interpolate(F.adaptive_avg_pool2d(original, 8), (64, 64), mode="bilinear", align_corners=False)
    assert float(detail_ratio(original, blurred, everywhere).max()) < 0.01


def test_pictures_of_other_sizes_are_refused() -> None:
    small = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UsageError, match="must be of one size"):
        moved_edges(small, torch.zeros(1, 3, 8, 9))
    with pytest.raises(UsageError, match="must be of one size"):
        add_change(torch.zeros(1, 3, 16, 16), small, torch.zeros(1, 3, 8, 9))
    with pytest.raises(UsageError, match="must be of one size"):
        add_change(torch.zeros(2, 3, 16, 16), small, small)
    with pytest.raises(UsageError, match="of 7 x 16, is smaller than its edit, of 8 x 8"):
        add_change(torch.zeros(1, 3, 7, 16), small, small)

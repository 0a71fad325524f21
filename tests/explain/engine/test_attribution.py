"""Drawing: placement, signs, peaks, overlays; and the scores of maps against masks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.explain import Attribution, energy_inside, pointing_game
from binderclip.explain.engine.placement import Box, input_box, render_map, whole
from binderclip.models import Preprocess


def attribution(values: torch.Tensor, size: tuple[int, int], finish: str = "signed") -> Attribution:
    return Attribution((values,), (whole(size),), size, torch.zeros(len(values)), "test", finish)


def test_signs_are_kept_until_the_map_is_drawn() -> None:
    values = torch.tensor([[[1.0, -4.0], [0.0, 2.0]]])
    assert attribution(values, (2, 2)).maps().tolist() == values.tolist()
    assert attribution(values, (2, 2), "relu").maps().tolist() == [[[1.0, 0.0], [0.0, 2.0]]]
    assert attribution(values, (2, 2), "abs").maps(normalize=True).tolist() == [[[0.25, 1.0], [0.0, 0.5]]]
    assert attribution(values, (2, 2)).maps(normalize=True).tolist() == [[[0.25, -1.0], [0.0, 0.5]]]
    assert attribution(torch.full((1, 2, 2), 3.0), (2, 2), "abs").maps(normalize=True).abs().sum() == 0
    # Two sites are summed after drawing.
    two = Attribution((values, values), (whole((2, 2)),) * 2, (2, 2), torch.zeros(1), "test")
    assert two.maps().tolist() == (2 * values).tolist()


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(40, 100), (90, 60), (64, 64)])
def test_the_input_box_is_where_pixels_come_from(mode: str, size: tuple[int, int]) -> None:
    # A ramp of coordinates sent through the preprocessing says which place every input pixel shows.
    preprocess = Preprocess(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1), resize_mode=mode, interpolation="bilinear")
    box = input_box(preprocess, size)
    rows = ((torch.arange(size[0]) + 0.5) / size[0])[:, None].expand(size)
    columns = ((torch.arange(size[1]) + 0.5) / size[1])[None].expand(size)
    shown = preprocess.fit(torch.stack([rows, columns, torch.ones(size)])[None])[0]
    for i, j in [(16, 16), (12, 20), (20, 12)]:
        assert float(shown[2, i, j]) == pytest.approx(1.0, abs=1e-5)
        want = ((box.top + (i + 0.5) / 32 * box.height) / size[0], (box.left + (j + 0.5) / 32 * box.width) / size[1])
        assert (float(shown[0, i, j]), float(shown[1, i, j])) == pytest.approx(want, abs=0.02)


def test_render_matches_interpolation_and_is_zero_outside() -> None:
    values = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = render_map(values, Box(2, 4, 8, 8), (12, 16))
    want = torch.nn.functional.interpolate(values[:, None], size=(8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(drawn[:, 2:10, 4:12], want)
    assert drawn[:, :2].abs().sum() == drawn[:, :, 12:].abs().sum() == 0


def test_peak_and_pointing_game_and_energy_by_loops() -> None:
    maps = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(0)) - 0.3
    masks = torch.rand(5, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.5
    found = attribution(maps, (6, 7))
    hits, shares = [], []
    for index in range(5):
        best = max((float(maps[index, y, x]), x, y) for y in range(6) for x in range(7))
        assert found.peak(index) == (best[1], best[2])
        hits.append(bool(masks[index, best[2], best[1]]))
        cells = [(float(maps[index, y, x]), bool(masks[index, y, x])) for y in range(6) for x in range(7)]
        total = sum(max(v, 0) for v, _ in cells)
        shares.append(sum(max(v, 0) for v, inside in cells if inside) / total)
    assert pointing_game(maps, masks).tolist() == hits
    assert energy_inside(maps, masks).tolist() == pytest.approx(shares, abs=1e-6)
    with pytest.raises(UsageError, match="one shape"):
        pointing_game(maps, masks[:2])


def test_overlay_is_grey_without_evidence_and_coloured_with_it() -> None:
    picture = Image.fromarray(np.full((20, 30, 3), (10, 200, 60), dtype=np.uint8))
    values = torch.zeros(1, 4, 6)
    plain = np.asarray(attribution(values, (20, 30), "abs").overlay(picture)).astype(int)
    assert plain.shape == (20, 30, 3)
    assert np.ptp(plain, axis=2).max() == 0
    values[0, 1, 1], values[0, 3, 5] = 1.0, -1.0
    shown = np.asarray(attribution(values, (20, 30)).overlay(picture)).astype(int)
    assert shown[7, 7, 0] > shown[7, 7, 2] + 60  # for: red
    assert shown[18, 28, 2] > shown[18, 28, 0] + 60  # against: blue
    assert np.ptp(shown[2, 20]) == 0
    with pytest.raises(UsageError, match="index 1: there are 1 images"):
        attribution(values, (20, 30)).overlay(picture, 1)
    with pytest.raises(UsageError, match="opacity"):
        attribution(values, (20, 30)).overlay(picture, opacity=2)


def test_overlay_darkens_what_the_model_did_not_see() -> None:
    picture = Image.fromarray(np.full((20, 40, 3), 200, dtype=np.uint8))
    # A centre crop: columns 10 to 30 of 40.
    values = torch.arange(16.0).view(1, 4, 4)
    seen = Attribution((values,), (Box(0, 10, 20, 20),), (20, 40), torch.zeros(1), "test", "relu")
    columns = np.asarray(seen.overlay(picture, opacity=0)).astype(int)[:, :, 0]
    assert (columns[:, :10] < 0.6 * columns[10, 20]).all()
    # A light frame with a dark edge around what it saw, and the picture within.
    assert (columns[2:-2, 12:28] == columns[10, 20]).all()
    assert (columns[:, [10, 29]] == 255).all()
    assert (columns[2:-2, [11, 28]] < 60).all()
    assert (columns[:, 30:] == columns[:, :10]).all()
    twice = np.asarray(seen.overlay(picture.resize((80, 40)), opacity=0)).astype(int)[:, :, 0]
    # The edge is as wide on a larger picture, so half of it falls between the pixels that are compared.
    for part in (np.s_[2:-2, 12:28], np.s_[:, :11]):
        assert np.array_equal(twice[::2, ::2][part], columns[part])


BLANKS = {
    # What ReLU leaves of a map that only speaks against the target.
    "relu of negative values": ((-1 - torch.rand(1, 4, 4),), "relu", "sum"),
    "zeros": ((torch.zeros(1, 4, 4),), "signed", "sum"),
    "a constant": ((torch.full((1, 4, 4), 0.1),), "abs", "sum"),
    "two layers that cancel": ((torch.arange(16.0).view(1, 4, 4), -torch.arange(16.0).view(1, 4, 4)), "signed", "sum"),
    "one blank factor of a product": ((torch.arange(16.0).view(1, 4, 4), torch.ones(1, 4, 4)), "relu", "product"),
}
WHOLE, CROP = whole((24, 36)), Box(2, 8, 20, 20)


@pytest.mark.parametrize("box", [WHOLE, CROP], ids=["whole", "crop"])
@pytest.mark.parametrize("name", BLANKS)
def test_a_map_without_contrast_is_blank_and_says_so(name: str, box: Box) -> None:
    values, finish, combine = BLANKS[name]
    spot = torch.zeros(1, 4, 4)
    spot[0, 1, 2] = 1e-6
    both = tuple(torch.cat([v, spot]) for v in values)
    found = Attribution(both, (box,) * len(both), (24, 36), torch.zeros(2), "test", finish, combine=combine)  # type: ignore[arg-type]
    # However weak, one place that stands out is a map; two that cancel or a product of it with itself still are maps.
    assert found.blank.tolist() == [True, False]
    with pytest.raises(UsageError, match="the map of image 0 is blank"):
        found.peak(0)
    assert len(found.peak(1)) == 2
    picture = Image.fromarray(np.full((96, 144, 3), 60, dtype=np.uint8))
    # A word stands on the blank one alone; letters are white, maps are not, but the frame of a crop is.
    if box is WHOLE:
        drawn = [np.asarray(found.overlay(picture, index)) for index in (0, 1)]
        assert [bool((each.min(axis=2) > 240).any()) for each in drawn] == [True, False]
    for index, noted in ((0, True), (1, False)):
        with_word, without = (np.asarray(found.overlay(picture, index, note=note)) for note in (True, False))
        assert (with_word != without).any() == noted


def test_a_blank_map_points_nowhere() -> None:
    masks = torch.zeros(2, 5, 6, dtype=torch.bool)
    masks[:, :2, :2] = True
    spot = torch.zeros(5, 6)
    spot[0, 0] = 1
    assert pointing_game(torch.stack([torch.zeros(5, 6), spot]), masks).tolist() == [False, True]
    assert pointing_game(torch.full((2, 5, 6), 3.0), masks).tolist() == [False, False]


def test_the_ramp_runs_from_grey_or_blue_to_the_strongest_colour() -> None:
    unsigned = np.asarray(attribution(torch.zeros(1, 2, 2), (4, 4), "relu").ramp()).astype(int)[0]
    assert np.ptp(unsigned[0]) <= 1
    assert unsigned[-1, 0] > unsigned[-1, 2] + 100
    signed = np.asarray(attribution(torch.zeros(1, 2, 2), (4, 4)).ramp()).astype(int)[0]
    assert signed[0, 2] > signed[0, 0] + 60
    assert signed[-1, 0] > signed[-1, 2] + 60


def test_a_preprocess_like_object_is_enough() -> None:
    squash = SimpleNamespace(size=(8, 8), resized=lambda height, width: (8, 8))
    assert input_box(squash, (20, 30)) == whole((20, 30))


def test_a_large_picture_is_coloured_as_a_small_one_is() -> None:
    values = torch.randn(1, 96, 128, generator=torch.Generator().manual_seed(0))
    one = attribution(values, (96, 128))
    picture = Image.new("RGB", (2000, 1500), (120, 120, 120))
    large = one.overlay(picture)
    assert large.size == (2000, 1500)
    small = one.overlay(picture.resize((1000, 750)))
    apart = np.asarray(large.resize((1000, 750), Image.Resampling.BOX)).astype(int) - np.asarray(small)
    # The filter's width is a share of the picture's side, in either.
    assert np.abs(apart).mean() < 2
    assert np.asarray(small).std() > 10

"""The outlines drawn on photographs: what they say, and the masks that they enclose."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binderclip.errors import DataError, UsageError
from binderclip.train.bundled.data import labelled_photographs, photograph_masks
from binderclip.train.bundled.data.labelled_photographs import LabelledPhotograph, photograph_rows
from binderclip.train.bundled.data.photograph_masks import (
    PhotographMask,
    Ring,
    load_photograph_masks,
    photograph_outlines,
)

PHOTOGRAPH = photograph_rows()[0]
SQUARE: Ring = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def _area(ring: Ring) -> float:
    """Of a simple polygon, by the shoelace formula."""
    x, y = np.array(ring).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _crossings(ring: Ring) -> int:
    """Pairs of edges that properly cross: the ends of each lie on both sides of the other."""
    start = np.array(ring)
    end = np.roll(start, -1, 0)
    edge = end - start

    def side(points: np.ndarray) -> np.ndarray:  # (N edges, N points)
        offset = points[None] - start[:, None]
        return edge[:, None, 0] * offset[..., 1] - edge[:, None, 1] * offset[..., 0]

    apart = side(start) * side(end) < 0
    return int((apart & apart.T).sum()) // 2


def test_a_square_covers_exactly_its_pixels():
    expected = np.zeros((8, 16), bool)
    expected[2:6, 4:12] = True
    np.testing.assert_array_equal(PhotographMask(PHOTOGRAPH, "x", (SQUARE,)).mask(8, 16), expected)


def test_areas_of_known_figures():
    triangle: Ring = ((0.1, 0.9), (0.9, 0.9), (0.5, 0.1))
    turns = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    disc: Ring = tuple((0.5 + 0.4 * float(np.cos(t)), 0.5 + 0.4 * float(np.sin(t))) for t in turns)
    hole: Ring = ((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))
    corner: Ring = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))
    for polygons, holes, area in (
        ((triangle,), (), 0.32),
        ((disc,), (), 0.16 * np.pi),
        ((SQUARE,), (hole,), 0.25 - 0.04),
        ((SQUARE, corner), (), 0.25 + 0.25 - 0.0625),  # a union: what both cover counts once
    ):
        mask = PhotographMask(PHOTOGRAPH, "x", polygons, holes).mask(200, 300)
        assert mask.dtype == bool
        assert mask.mean() == pytest.approx(area, abs=0.003)


def test_a_mask_has_at_least_one_pixel_a_side():
    outline = PhotographMask(PHOTOGRAPH, "x", (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),))
    assert outline.mask(1, 1).tolist() == [[True]]
    with pytest.raises(UsageError, match="size is 0 x 5"):
        outline.mask(0, 5)


def test_the_outlines_are_enough_and_of_the_list():
    outlines = photograph_outlines()
    assert len(outlines) >= 60
    assert len({outline.photograph for outline in outlines}) >= 50
    assert Counter(outline.photograph.split for outline in outlines)["report"] >= 25
    assert len({(outline.photograph, outline.word) for outline in outlines}) == len(outlines)
    for outline in outlines:
        photograph = outline.photograph
        assert photograph.kind == "photograph"  # of a cut-out the alpha channel is the mask already
        assert outline.word in (photograph.label, *photograph.also, *photograph.shows)


def test_the_file_holds_fractions_of_four_decimals():
    entries = json.loads(Path(photograph_masks.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert len(entries) == len(photograph_outlines())
    for entry in entries:
        assert set(entry) == {"package", "file", "member", "word", "polygons", "holes"}
        assert entry["polygons"]
        for ring in entry["polygons"] + entry["holes"]:
            assert len(ring) >= 4
            values = np.array(ring)
            assert values.min() >= 0
            assert values.max() <= 1
            np.testing.assert_array_equal(values, values.round(4))


def test_no_outline_crosses_itself():
    assert _crossings(((0.0, 0.0), (1.0, 1.0), (1.0, 0.0), (0.0, 1.0))) == 1
    for outline in photograph_outlines():
        assert [_crossings(ring) for ring in outline.polygons + outline.holes] == [0] * (
            len(outline.polygons) + len(outline.holes)
        ), (outline.photograph.file, outline.word)


def test_masks_have_the_areas_of_their_outlines():
    side = 120
    for outline in photograph_outlines():
        if len(outline.polygons) == 1 and not outline.holes:
            (ring,) = outline.polygons
            length = float(np.linalg.norm(np.array(ring) - np.roll(ring, -1, 0), axis=1).sum())
            # half a part of a pixel to either side of the outline, and as much again for its corners
            bound = length / (side * photograph_masks.OVERSAMPLING)
            assert outline.mask(side, side).mean() == pytest.approx(_area(ring), abs=bound), outline.word


def test_sizes_from_less_than_a_hundredth_to_more_than_half_of_the_picture():
    areas = np.array([outline.mask(120, 120).mean() for outline in photograph_outlines()])
    assert areas.min() < 0.01
    assert areas.max() > 0.5
    assert (areas < 0.05).sum() >= 12
    assert ((areas >= 0.05) & (areas < 0.2)).sum() >= 20
    assert (areas >= 0.2).sum() >= 20


def test_outlines_come_with_the_files_of_their_photographs(tmp_path, monkeypatch):
    row = LabelledPhotograph("mate-backgrounds", "/usr/share/a.png", "", "leaf", (), (), "photograph", False, "learn")
    other = LabelledPhotograph("kalzium-data", "/usr/share/b.png", "", "bowl", (), (), "photograph", False, "choose")
    monkeypatch.setattr(labelled_photographs, "photograph_rows", lambda: (row, other))
    outlines = (PhotographMask(row, "leaf", (SQUARE,)), PhotographMask(other, "bowl", (SQUARE,)))
    monkeypatch.setattr(photograph_masks, "photograph_outlines", lambda: outlines)
    (tmp_path / "usr/share").mkdir(parents=True)
    Image.new("RGB", (12, 8)).save(tmp_path / "usr/share/a.png")
    (found,) = load_photograph_masks("learn", root=tmp_path)
    assert found.word == "leaf"
    assert found.photograph.path == tmp_path / "usr/share/a.png"
    assert found.photograph.open().size == (12, 8)
    with pytest.raises(DataError, match="apt-get install kalzium-data"):
        load_photograph_masks(root=tmp_path)

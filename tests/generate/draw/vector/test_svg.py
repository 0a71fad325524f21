"""SVG: Chromium shows a drawing as it is rendered here, other programs' paths are read, and the rest is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import DataError
from binderclip.generate import BezierPaths, BezierStrokes, RadialFill
from binderclip.generate.draw.vector.path_data import parse_path
from binderclip.generate.draw.vector.svg import read_svg

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 20 10">'
ROUND = 'fill="none" stroke="#000" stroke-linecap="round" stroke-linejoin="round"'


def shown(browser: Any, document: str, size: tuple[int, int]) -> torch.Tensor:
    """What the browser makes of an SVG document, [3, H, W]."""
    page = browser.new_page(viewport={"width": size[1], "height": size[0]})
    page.set_content(f'<body style="margin:0">{document.replace("<svg", "<svg style=display:block", 1)}</body>')
    return screenshot(page)


def screenshot(page: Any) -> torch.Tensor:
    """What a page shows, [3, H, W]; it is closed."""
    try:
        data = page.screenshot()
    except Exception as error:  # playwright's own kind, which is not there without a browser
        if "Unable to capture screenshot" not in str(error):
            raise
        data = page.screenshot()  # on a busy machine Chromium may have drawn nothing yet
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    page.close()
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255


def strokes() -> BezierStrokes:
    drawing = BezierStrokes.random(60, (64, 80), seed=2, background=(1.0, 0.9, 0.7))
    with torch.no_grad():
        drawing.widths.add_(5 * torch.rand(60, generator=torch.Generator().manual_seed(1)))
    return drawing


def paths() -> BezierPaths:
    g = torch.Generator().manual_seed(4)
    curves, fills = [], []
    for _ in range(6):
        centre = 10 + 44 * torch.rand(2, generator=g)
        angle = torch.arange(12) / 12 * 2 * torch.pi
        curves.append(centre + (6 + 10 * torch.rand(12, 1, generator=g)) * torch.stack([angle.cos(), angle.sin()], 1))
        low, rx, ry, *rest = torch.rand(11, generator=g).tolist()
        stops = (tuple(rest[:4]), tuple(rest[4:]))
        fills.append(RadialFill(tuple(centre.tolist()), (4 + 9 * rx, 4 + 9 * ry), (low / 2, 0.9), stops))
    drawing = BezierPaths(curves, fills, (64, 64), background=(0.8, 0.9, 1.0))
    drawing.add([curves[0] * 0.5], torch.tensor([[0.2, 0.4, 0.6, 0.8]]))
    return drawing


@pytest.mark.parametrize("drawing", [strokes, paths])
def test_chromium_shows_it_as_it_is_rendered(browser: Any, drawing: Any) -> None:
    param = drawing()
    image = param()[0].detach()
    difference = (shown(browser, param.to_svg(), param.size) - image).abs()
    assert float(difference.mean()) < 2 / 255
    assert float((difference > 0.12).float().mean()) < 0.004  # corners and crossings of a curve with itself
    empty = param.background[:, None, None].expand_as(image)
    assert float((empty - image).abs().mean()) > 20 / 255


@pytest.mark.parametrize("drawing", [strokes, paths])
def test_chromium_shows_a_larger_document_as_it_is_rendered_in_that_size(browser: Any, drawing: Any) -> None:
    param, size = drawing(), (160, 200)
    image = param.render(size)[0]
    difference = (shown(browser, param.to_svg(size), size) - image).abs()
    assert float(difference.mean()) < 2 / 255
    assert float((difference > 0.12).float().mean()) < 0.004


def test_chromium_shows_the_page_through_a_drawing_without_background(browser: Any) -> None:
    param = paths()
    document = param.to_svg(transparent=True)
    assert "<rect" not in document
    for level in (0.0, 1.0):
        page = f'<div style="background:rgb({255 * level} {255 * level} {255 * level})">{document}</div>'
        image = param.render(param.size, (level,) * 3)[0]
        assert float((shown(browser, page, param.size) - image).abs().mean()) < 2 / 255


@pytest.mark.parametrize("verb", ["draw", "vectorize"])
def test_chromium_opens_the_file_of_a_verb_as_its_png_shows_it(
    browser: Any, command: Any, tiny_clip: Any, tmp_path: Path, verb: str
) -> None:
    if verb == "draw":
        models = ("--model", tiny_clip(1), "--judge", tiny_clip(2))
        done = command("draw", "a tree", "--steps", 2, "--size", 32, "--strokes", 12, "--out", "made.png", *models)
        place = tmp_path / "made.svg"
    else:
        ramp = np.linspace(0, 255, 90 * 60).reshape(60, 90).astype(np.uint8)
        Image.fromarray(np.stack([ramp, np.full_like(ramp, 90), 255 - ramp], -1)).save("made.png")
        done = command("vectorize", "made.png", "--paths", 6, "--steps", 20, "--out", "out")
        place = tmp_path / "out" / "made.svg"
        assert place.read_text().count("<radialGradient") == 6
    assert done.code == 0, done.err
    picture = Image.open(place.with_suffix(".png")).convert("RGB")
    page = browser.new_page(viewport={"width": picture.width, "height": picture.height})
    page.goto(place.as_uri())
    difference = (screenshot(page) - torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255).abs()
    assert float(difference.mean()) < 2 / 255
    assert float((difference > 0.12).float().mean()) < 0.01
    assert np.asarray(picture).std() > 10


@pytest.mark.parametrize("drawing", [strokes, paths])
def test_a_drawing_is_rendered_alike_at_once_and_in_parts_and_scaled(drawing: Any, monkeypatch: Any) -> None:
    param = drawing()
    torch.testing.assert_close(param.render(param.size), param().detach(), atol=1e-6, rtol=0)
    size = (96, 120)
    whole = param.render(size)
    for module in ("strokes", "paths"):
        monkeypatch.setattr(f"binderclip.generate.draw.vector.{module}.curves_at_once", lambda size: 2)
    torch.testing.assert_close(param.render(size), whole, atol=1e-6, rtol=0)
    scaled = type(param).from_svg(param.to_svg(size))
    assert scaled.size == size
    assert float((scaled()[0].detach() - whole[0]).abs().mean()) < 1 / 255
    # an edge is a pixel wide in both sizes, so that means of pixels agree
    small = torch.nn.functional.interpolate(whole, size=param.size, mode="area")
    assert float((small - param().detach()).abs().mean()) < 0.03


@pytest.mark.parametrize(
    ("data", "same"),
    [
        ("M1 2L4 2L4 8", "M1 2C2 2 3 2 4 2C4 4 4 6 4 8"),
        ("m1,2h3v6", "M1 2L4 2L4 8"),
        ("M1 2 4 2 4 8", "M1 2L4 2L4 8"),
        ("m1 2 3 0 0 6z", "M1 2L4 2L4 8L1 2Z"),
        ("M0 0c1 0 2 1 3 3s1 4 3 3", "M0 0C1 0 2 1 3 3C4 5 4 7 6 6"),
        ("M0 0Q3 6 6 0T12 0", "M0 0C2 4 4 4 6 0C8-4 10-4 12 0"),
        ("M0 0S1 1 2 0", "M0 0C0 0 1 1 2 0"),
        ("M.5.5l-1e0-1", "M0.5 0.5L-0.5 -0.5"),
    ],
)
def test_path_commands_mean_the_cubic_segments_of_the_standard(data: str, same: str) -> None:
    points, closed = parse_path(data)
    other, other_closed = parse_path(same)
    torch.testing.assert_close(points, other)
    assert closed == other_closed


def test_other_programs_paths_are_read() -> None:
    document = (
        f'{HEAD}<title>a</title><rect width="100%" height="100%" style="fill:rgb(50%, 0%, 0%)"/><g fill="blue" '
        'fill-opacity=".5"><path d="M1 1H9V9H1z"/></g></svg>'
    )
    picture = read_svg(document)
    assert picture.size == (10, 20)
    assert picture.background == pytest.approx((0.5, 0, 0), abs=0.003)
    image = BezierPaths.from_svg(document)()
    assert image[0, :, 5, 5].tolist() == pytest.approx([0.25, 0, 0.5], abs=0.003)
    strokes_of = BezierStrokes.from_svg(f'{HEAD}<path {ROUND} stroke-width="2" d="M1 5H19Z"/></svg>')
    assert strokes_of()[0, 0, 5, 10] == 0
    assert strokes_of.segments == [2]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('<circle r="3"/>', "circle"),
        ('<path d="M0 0L1 1" transform="scale(2)"/>', "transform"),
        ('<path d="M0 0A1 1 0 0 0 3 3Z"/>', "arcs"),
        ('<path d="M0 0L1 1L1 0ZM2 2L3 3L3 2Z"/>', "several parts"),
        ('<path d="M0 0L1"/>', "lacks numbers"),
        ('<path d="M0 0"/>', "draws nothing"),
        ('<path d="L1 1"/>', "several parts|lacks|belongs"),
        ('<path d="M0 0L1 1L2 $"/>', "characters"),
        ('<path d="M0 0L1 1L1 0Z" fill="url(#no)"/>', "gradient 'no'"),
        ('<path d="M0 0L1 1L1 0Z" fill="nocolour"/>', "nocolour"),
        ('<path d="M0 0L1 1" fill="none" stroke="red"/>', "round"),
        ('<path d="M0 0L1 1L1 0Z" fill="red" stroke="red"/>', "one of them"),
        ('<radialGradient id="g" cx="5" cy="5" r="2"/>', "user units"),
        ('<rect x="3" width="2" height="2"/>', "background"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(content: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_svg(f"{HEAD}{content}</svg>")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("not xml", "no SVG document"),
        ("<html></html>", "<html>"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg/>', "document type"),
        ('<svg viewBox="5 0 10 10"/>', "viewBox"),
        ('<svg width="0" height="10"/>', "sides"),
        ('<svg width="1e9" height="10"/>', "range"),
    ],
)
def test_documents_that_are_none_are_refused(document: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_svg(document)

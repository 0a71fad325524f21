"""Layer-wise vectorisation (p091, arXiv 2408.15741): flat shapes and a ramp, weights and rates by formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import BezierPaths, vectorize
from binderclip.generate.draw.vectorise import contour_weight, decaying_rate

SIDE = 32


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).square().mean()))


def ramp_disc() -> torch.Tensor:
    """White, with a disc whose colour changes from its centre outwards."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    radius = torch.hypot(x - 16, y - 16) / 10
    inside = torch.stack([0.9 - 0.3 * radius, 0.1 + 0.6 * radius, 0.2 + 0 * radius])
    return torch.where(radius <= 1, inside, torch.ones(()))


def test_a_gradient_needs_one_path_where_a_plain_fill_leaves_the_ramp() -> None:
    image = ramp_disc()
    radial = vectorize(image, 1, steps=60)
    solid = vectorize(image, 1, steps=60, fill="solid")
    assert psnr(radial.image, image) > psnr(solid.image, image) + 1
    assert psnr(radial.image, image) > 18


def test_two_shapes_get_a_path_each_the_larger_error_first_and_old_ones_keep_training() -> None:
    image = torch.ones(3, SIDE, SIDE)
    image[1:, 3:17, 3:17] = 0  # red
    image[:2, 20:28, 20:28] = 0  # blue
    states: list[torch.Tensor] = []

    class First:
        def on_end(self, result: Any) -> None:
            states.append(result.steps)

    drawing = vectorize(image, [1, 1], steps=25, callbacks=[First()])
    param = drawing.param
    assert isinstance(param, BezierPaths)
    assert len(param.layers) == 2
    assert states == [25, 25]
    assert drawing.steps == 50
    centres = [layer.points.detach().mean(0) for layer in param.layers]
    assert float((centres[0] - 10).norm()) < 2
    assert float((centres[1] - 24).norm()) < 2
    assert psnr(drawing.image, image) > psnr(torch.ones_like(image), image) + 6
    assert len(drawing.history["loss"]) == 50
    assert set(drawing.history) >= {"error", "crossing"}


def test_rates_fall_to_two_fifths_a_round_and_weights_with_the_distance_from_the_contour() -> None:
    assert [decaying_rate(age)(p) for age, p in ((0, 0.0), (0, 0.5), (1, 0.0), (2, 1.0))] == pytest.approx(
        [1, 0.7, 0.4, 0.064]
    )
    silhouette = torch.zeros(1, 30)
    silhouette[0, 15:] = 1
    weight = contour_weight(silhouette)[0]
    places = torch.arange(30) + 0.5
    distance = (places - 15).abs().clamp(max=10)  # of centres from the edge between pixels 14 and 15
    torch.testing.assert_close(weight, (10 - distance) / 9.5)
    assert not bool(contour_weight(torch.ones(4, 4)).any())


def test_pictures_without_anything_to_draw_and_thin_ones_behave_and_a_stopped_run_leaves_what_was_done() -> None:
    class Stop:
        def after_step(self, step: int) -> bool:
            return step == 2

    for image in (torch.full((3, 8, 8), 0.4), torch.ones(3, 1, 1), torch.rand(3, 1, 400)):
        drawing = vectorize(image, 1, steps=2)
        assert drawing.image.shape == (1, *image.shape)
        assert bool(drawing.image.isfinite().all())
    plain = vectorize(torch.full((3, 8, 8), 0.4), 1, steps=2)
    torch.testing.assert_close(plain.image[0], torch.full((3, 8, 8), 0.4), atol=0.03, rtol=0)
    stopped = vectorize(ramp_disc(), 4, steps=20, callbacks=[Stop()])
    assert stopped.steps == 2
    assert isinstance(stopped.param, BezierPaths)
    assert len(stopped.param.layers) == 1


def test_opacity_is_over_white() -> None:
    image = torch.cat([torch.zeros(3, 8, 8), torch.full((1, 8, 8), 0.25)])
    assert float(vectorize(image, 1, steps=1).image.mean()) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize(
    ("image", "setting", "text"),
    [
        (torch.rand(2, 8, 8), {}, "image"),
        (torch.full((3, 8, 8), math.nan), {}, "image"),
        (torch.rand(3, 8, 8), {"rounds": 0}, "rounds"),
        (torch.rand(3, 8, 8), {"rounds": []}, "rounds"),
        (torch.rand(3, 8, 8), {"fill": "linear"}, "fill"),
        (torch.rand(3, 8, 8), {"radius": 0.0}, "radius"),
        (torch.rand(3, 8, 8), {"segments": 0}, "segments"),
        (torch.rand(3, 8, 8), {"xing": -1.0}, "xing"),
        (torch.rand(3, 1, 5000), {}, "size"),
    ],
)
def test_bad_pictures_and_settings_are_refused(image: torch.Tensor, setting: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        vectorize(image, **setting)


def test_the_ground_is_the_most_common_colour_of_the_border_or_white_or_the_mean_of_a_segment() -> None:
    image = torch.full((3, SIDE, SIDE), 0.2)
    image[0, 4:-4, 4:-4] = 0.9  # dense: the middle is most of the picture
    image[:, 0, : SIDE // 4] = 0.7  # a few pixels of the border
    image[2] += 0.01 * torch.rand(SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    drawings = {
        name: vectorize(image, 1, steps=1, background=name).param.background.tolist()  # type: ignore[arg-type, union-attr, operator]
        for name in ("border", "white", "segment")
    }
    assert drawings["border"] == pytest.approx([0.2, 0.2, 0.205], abs=0.006)
    assert drawings["white"] == [1, 1, 1]
    released = vectorize(image, 1, steps=1).param.background.tolist()  # type: ignore[union-attr, operator]
    assert drawings["segment"] == released != drawings["border"]
    with pytest.raises(UsageError, match="background"):
        vectorize(image, 1, steps=1, background="pink")  # type: ignore[arg-type]


def test_a_callback_is_given_the_drawing_with_the_new_paths_of_each_round() -> None:
    seen: list[tuple[int, Any]] = []

    class Watch:
        def on_round(self, param: BezierPaths) -> None:
            seen.append((len(param.layers), param))

    drawing = vectorize(ramp_disc(), [1, 2], steps=2, callbacks=[Watch()])
    assert [count for count, _ in seen] == [1, 2]
    assert all(param is drawing.param for _, param in seen)


def test_a_picture_without_a_plain_border_lies_on_its_mean_colour() -> None:
    quarters = torch.tensor([[0.0, 0.0, 0.0], [0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9]])
    image = torch.zeros(3, 16, 16)
    for number, colour in enumerate(quarters):  # the black of one corner is the commonest, if by a pixel
        image[:, 8 * (number // 2) :, 8 * (number % 2) :] = colour[:, None, None]
    image[:, 0, 8] = 0.0
    drawing = vectorize(image, rounds=1, steps=1, background="border").param
    torch.testing.assert_close(drawing.background, image.mean((1, 2)))


def test_a_path_that_starts_as_its_segment_has_its_ellipse_and_the_mean_colour() -> None:
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    ellipse = ((x - 18) / 11).square() + ((y - 13) / 5).square() <= 1
    image = torch.where(ellipse, torch.tensor([0.2, 0.6, 0.1])[:, None, None], torch.ones(()))
    circle, segment = (vectorize(image, 1, steps=1, start=start).image for start in ("circle", "segment"))
    assert psnr(segment, image) > 20 > psnr(circle, image) + 5  # before anything was moved


def test_the_corner_is_mended_too_unless_it_is_the_background() -> None:
    image = torch.full((3, SIDE, SIDE), 0.2)
    image[:, : SIDE // 2] = 0.9  # sky
    drawn = vectorize(image, [1, 1], steps=30, background=(0.55, 0.55, 0.55), start="segment").image
    assert psnr(drawn, image) > 20
    with pytest.raises(UsageError, match="start"):
        vectorize(image, 1, start="square")  # type: ignore[arg-type]

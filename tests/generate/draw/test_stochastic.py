"""Gradients through renderers without any (p042, arXiv 2404.09758): closed forms, autograd, all patterns of signs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import Rendering, estimate_gradient
from binderclip.vision import rasterize

DOUBLE = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_signs(count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Makes the estimator go through all patterns of signs of so many parameters; how many there are."""
    patterns: Iterator[tuple[float, ...]] = iter(list(product((-1.0, 1.0), repeat=count)))
    monkeypatch.setattr(
        "binderclip.generate.draw.stochastic._signs",
        lambda param, _: torch.tensor(next(patterns), dtype=param.dtype).reshape(param.shape),
    )
    return 2**count


def test_a_quadratic_loss_with_a_parameter_for_each_pixel_has_its_exact_gradient_at_any_eps() -> None:
    colours = torch.rand(7, dtype=DOUBLE, generator=generator()).requires_grad_()
    target = torch.rand(7, dtype=DOUBLE, generator=generator(1))

    def loss(image: Tensor) -> Tensor:
        return (3 * image - target).square()

    (reference,) = torch.autograd.grad(loss(colours).sum(), [colours])
    for eps in (0.01, 5.0):
        (gradient,) = estimate_gradient(lambda c: Rendering(c, (torch.arange(7)[:, None],)), [colours], loss, eps)
        torch.testing.assert_close(gradient, reference)
        assert not gradient.requires_grad


def test_over_all_signs_the_mean_is_the_central_difference_smoothed_over_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pixel j shows parameters j and j + 1, not smoothly: the reference sums explicit differences."""
    theta, eps = torch.rand(4, dtype=DOUBLE, generator=generator(2)), 0.3
    shown = torch.stack((torch.arange(3), torch.arange(1, 4)), 1)

    def picture(t: Tensor) -> Tensor:
        return (4 * t[shown]).floor().prod(1) + t[shown].exp().sum(1)

    count = all_signs(4, monkeypatch)
    (mean,) = estimate_gradient(lambda t: Rendering(picture(t), (shown,)), [theta], torch.square, eps, samples=count)
    expected = torch.zeros(4, dtype=DOUBLE)
    for i in range(4):
        for others in product((-1.0, 1.0), repeat=3):
            shift = eps * torch.tensor([*others[:i], 0.0, *others[i:]], dtype=DOUBLE)
            step = eps * torch.eye(4, dtype=DOUBLE)[i]
            high, low = (picture(theta + shift + side * step).square().sum() for side in (1, -1))
            expected[i] += (high - low) / (2 * eps) / 8
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize(("per_pixel", "others"), [(True, 1), (False, 7)])
def test_the_noise_depends_on_what_a_pixel_shows_and_not_on_how_much_there_is(
    per_pixel: bool, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four pixels of two parameters each, linear: E|g - grad|^2 = (contributors - 1) |grad|^2 if slopes are equal."""
    slopes = torch.tensor([3.0, -3.0, 3.0, 3.0, -3.0, 3.0, 3.0, 3.0], dtype=DOUBLE)
    shown = torch.arange(8).reshape(4, 2)
    rows = shown if per_pixel else None
    count = all_signs(8, monkeypatch)
    theta = torch.zeros(8, dtype=DOUBLE)
    error = torch.zeros((), dtype=DOUBLE)
    for _ in range(count):
        (gradient,) = estimate_gradient(
            lambda t: Rendering((slopes * t)[shown].sum(1), (rows,)), [theta], lambda image: image, 0.1
        )
        error += (gradient - slopes).square().sum() / count
    torch.testing.assert_close(error, others * slopes.square().sum())


def soft(vertices: Tensor, colours: Tensor, size: int = 12) -> Tensor:
    """Two half-transparent triangles with soft edges; smooth in everything."""
    ticks = torch.arange(size, dtype=DOUBLE) + 0.5
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    image = torch.zeros(3, size, size, dtype=DOUBLE)
    for corners, colour in zip(vertices.reshape(2, 3, 2), colours, strict=True):
        inside = torch.ones_like(x)
        for k in range(3):
            (ax, ay), (bx, by) = corners[k], corners[(k + 1) % 3]
            inside = inside * torch.sigmoid((bx - ax) * (y - ay) - (by - ay) * (x - ax))
        image = image + inside * (colour[:, None, None] - image)
    return image


def test_the_mean_points_along_autograds_gradient_of_a_smooth_renderer() -> None:
    vertices = torch.tensor([[1.0, 1], [9, 2], [3, 10], [5, 3], [11, 5], [6, 11]], dtype=DOUBLE).requires_grad_()
    colours = torch.rand(2, 3, dtype=DOUBLE, generator=generator()).requires_grad_()
    target = torch.rand(3, 12, 12, dtype=DOUBLE, generator=generator(1))

    def loss(image: Tensor) -> Tensor:
        return (image - target).square().sum(0)

    shown = torch.arange(6).expand(144, 6), torch.arange(2).expand(144, 2)
    reference = torch.autograd.grad(loss(soft(vertices, colours)).sum(), [vertices, colours])
    estimate = estimate_gradient(
        lambda v, c: Rendering(soft(v, c), shown), [vertices, colours], loss, [1e-3, 1e-3], samples=512,
        generator=generator(3),
    )  # fmt: skip
    mine, exact = (torch.cat([part.flatten() for part in parts]) for parts in (estimate, reference))
    assert float(torch.cosine_similarity(mine, exact, dim=0)) > 0.95
    assert 0.9 < float(mine @ exact / exact.square().sum()) < 1.1


def hard(vertices: Tensor, faces: Tensor, colours: Tensor, size: tuple[int, int]) -> Rendering:
    drawn = rasterize(vertices, faces, size)
    covered = drawn.pix_to_face >= 0
    image = colours[drawn.pix_to_face.clamp(min=0)] * covered[..., None]
    rows = torch.where(covered[..., None], faces[drawn.pix_to_face.clamp(min=0)], -1).reshape(-1, 3)
    return Rendering(image, (rows,))


def test_a_hard_triangles_gradient_is_that_of_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    """A white triangle on black with a black target: the loss is its area, with d area / d a = (c - b) turned / 2."""
    vertices = torch.tensor([[6.3, 4.2], [52.1, 11.7], [20.9, 55.3]])
    faces, white = torch.tensor([[0, 1, 2]]), torch.ones(1, 3)

    def square(image: Tensor) -> Tensor:
        return image.square().sum(-1) / 3

    count = all_signs(6, monkeypatch)
    (estimate,) = estimate_gradient(lambda v: hard(v, faces, white, (64, 64)), [vertices], square, 1.0, samples=count)
    opposite = vertices[[2, 0, 1]] - vertices[[1, 2, 0]]
    exact = torch.stack((-opposite[:, 1], opposite[:, 0]), 1) / 2
    assert float((estimate - exact).norm() / exact.norm()) < 0.05


def test_only_what_is_seen_in_one_of_both_pictures_has_a_gradient() -> None:
    """A triangle behind another has none, until a perturbation brings a corner of it into view."""
    front = [[2.0, 2.0, 0.0], [14.0, 2.0, 0.0], [2.0, 14.0, 0.0]]
    back = [[3.0, 3.0, 1.0], [9.0, 3.0, 1.0], [3.0, 9.0, 1.0]]
    faces, colours = torch.arange(6).reshape(2, 3), torch.tensor([[1.0, 0, 0], [0, 1, 0]])

    def gradient(corners: list[list[float]]) -> Tensor:
        vertices = torch.tensor(front + corners)
        return estimate_gradient(
            lambda v: hard(v, faces, colours, (16, 16)), [vertices], lambda image: image[..., 1], 0.25, samples=20,
            generator=generator(),
        )[0]  # fmt: skip

    assert bool((gradient(back) == 0).all())
    # Its right corner ends beside a pixel's centre at (14.5, 3.5), which the other triangle never covers.
    assert bool((gradient([back[0], [14.4, 3.5, 1.0], back[2]])[3:, :2] != 0).any())


def test_a_row_in_both_pictures_is_credited_once_and_the_mean_is_over_its_pixels() -> None:
    theta = torch.zeros(2, dtype=DOUBLE)
    rows = torch.tensor([[0, 0, -1], [0, -1, -1], [1, 0, -1]])  # row 0 has three pixels and row 1 one

    def render(t: Tensor) -> Rendering:
        return Rendering(torch.stack((2 * t[0], 4 * t[0], 9 * t[0] + t[0])), (rows,))

    (total,) = estimate_gradient(render, [theta], lambda image: image, 0.1)
    (mean,) = estimate_gradient(render, [theta], lambda image: image, 0.1, reduction="mean")
    assert float(total[0]) == pytest.approx(2 + 4 + 10)
    assert float(mean[0]) == pytest.approx((2 + 4 + 10) / 3)


def test_it_descends_through_pillow() -> None:
    """A triangle that another library draws moves onto its target."""
    target_corners = np.array([[20.0, 8.0], [52.0, 30.0], [14.0, 50.0]])

    def picture(corners: np.ndarray) -> Tensor:
        image = Image.new("L", (64, 64))
        ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners.tolist()], fill=255)
        return torch.from_numpy(np.asarray(image, dtype=np.float32)) / 255

    target = picture(target_corners)
    vertices = torch.tensor([[12.0, 14.0], [44.0, 22.0], [22.0, 40.0]])
    optimizer = torch.optim.Adam([vertices], lr=0.5)
    first = float((picture(vertices.numpy()) - target).square().mean())
    for step in range(150):
        (vertices.grad,) = estimate_gradient(
            lambda v: Rendering(picture(v.numpy()), (None,)), [vertices], lambda image: (image - target).square(), 1.0,
            samples=4, generator=generator(step),
        )  # fmt: skip
        optimizer.step()
    assert float((picture(vertices.numpy()) - target).square().mean()) < 0.1 * first


def test_refusals() -> None:
    one, rows = torch.ones(3), torch.arange(3)[:, None]

    def estimate(params: list[Tensor] | None = None, eps: float | list[float] = 0.1, **kwargs: object) -> None:
        shown = kwargs.pop("shown", (rows,))
        loss = kwargs.pop("loss", lambda image: image)
        params = [one] if params is None else params
        estimate_gradient(lambda *t: Rendering(t[0], shown), params, loss, eps, **kwargs)  # type: ignore[arg-type]

    estimate()
    for eps in (0.0, -1.0, float("nan"), float("inf"), [0.1, 0.1]):
        with pytest.raises(UsageError, match="eps"):
            estimate(eps=eps)
    for arguments, message in (
        ({"params": []}, "no parameters"),
        ({"params": [torch.ones(3, dtype=torch.long)]}, "floating-point"),
        ({"params": [torch.tensor(1.0)]}, "floating-point"),
        ({"samples": 0}, "samples"),
        ({"reduction": "median"}, "reduction"),
        ({"shown": ()}, "each of 1 parameters"),
        ({"shown": (rows[:2],)}, "3 pixels"),
        ({"shown": (rows + 1,)}, "3 rows"),
        ({"shown": (rows - 2,)}, "3 rows"),
        ({"loss": lambda image: image / 0}, "not finite"),
    ):
        with pytest.raises(UsageError, match=message):
            estimate(**arguments)  # type: ignore[arg-type]

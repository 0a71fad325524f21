"""The renderer against one written pixel by pixel, and what must hold of its weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.vision import GaussianScene, SplatCamera


def scene_of(count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> GaussianScene:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(dtype)

    return GaussianScene(
        uniform(count, 3, low=-1, high=1),
        uniform(count, 3, low=0.03, high=0.3),
        torch.randn(count, 4, generator=generator).to(dtype),
        uniform(count, low=0.2),
        uniform(count, 3),
    )


def camera_of(size: tuple[int, int] = (37, 41), angle: float = 0.4) -> SplatCamera:
    return SplatCamera.looking_at((3 * math.sin(angle), 0.7, 3 * math.cos(angle)), size=size)


def by_hand(scene: GaussianScene, camera: SplatCamera) -> tuple[np.ndarray, np.ndarray]:
    """Colours and alpha, one pixel and one Gaussian after the other, in float64 NumPy by the formulas of the paper."""
    matrix = camera.to_camera.numpy().astype(np.float64)
    height, width = camera.size
    gaussians = []
    for i in range(len(scene)):
        position = matrix[:3, :3] @ scene.means[i].double().numpy() + matrix[:3, 3]
        w, x, y, z = (scene.rotations[i] / scene.rotations[i].norm()).double().tolist()
        rotation = np.array(
            [
                [1 - 2 * y * y - 2 * z * z, 2 * x * y - 2 * w * z, 2 * x * z + 2 * w * y],
                [2 * x * y + 2 * w * z, 1 - 2 * x * x - 2 * z * z, 2 * y * z - 2 * w * x],
                [2 * x * z - 2 * w * y, 2 * y * z + 2 * w * x, 1 - 2 * x * x - 2 * y * y],
            ]
        )
        spread = rotation @ np.diag(scene.scales[i].double().numpy() ** 2) @ rotation.T
        px, py, pz = position
        fx, fy = camera.focal
        jacobian = np.array([[fx / pz, 0, -fx * px / pz**2], [0, fy / pz, -fy * py / pz**2]])
        view = jacobian @ matrix[:3, :3]
        flat = view @ spread @ view.T + 0.3 * np.eye(2)
        centre = np.array([camera.focal[0] * px / pz + width / 2, camera.focal[1] * py / pz + height / 2])
        gaussians.append((pz, np.linalg.inv(flat), centre, np.linalg.eigvalsh(flat)[-1], i))
    gaussians.sort(key=lambda one: one[0])
    image, covered = np.zeros((3, height, width)), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            left = 1.0
            for _, inverse, centre, _, i in gaussians:
                away = np.array([column + 0.5, row + 0.5]) - centre
                alpha = min(0.99, float(scene.opacities[i]) * math.exp(-0.5 * away @ inverse @ away))
                if alpha < 1 / 255:
                    continue
                if left * (1 - alpha) < 1e-4:
                    break
                image[:, row, column] += alpha * left * scene.colours[i].double().numpy()
                covered[row, column] += alpha * left
                left *= 1 - alpha
    return image, covered


def test_a_picture_is_that_of_the_formulas():
    scene, camera = scene_of(25), camera_of((21, 19))
    found = scene.render(camera)
    image, alpha = by_hand(scene, camera)
    # The renderer leaves a Gaussian out beyond three deviations, where the most opaque one has an alpha of 0.011.
    np.testing.assert_allclose(found.image.numpy(), image, atol=0.025)
    assert np.abs(found.image.numpy() - image).mean() < 1e-3
    assert np.abs(found.alpha.numpy() - alpha).mean() < 1e-3


def test_small_gaussians_are_drawn_exactly():
    scene, camera = scene_of(12, seed=3), camera_of((24, 24))
    scene = GaussianScene(
        scene.means, 0.02 + 0 * scene.scales, scene.rotations, 0.3 + 0 * scene.opacities, scene.colours
    )
    image, _ = by_hand(scene, camera)
    # An opacity of 0.3 falls below the least alpha within three deviations, so nothing is left out.
    np.testing.assert_allclose(scene.render(camera).image.numpy(), image, atol=1e-4)


def test_weights_and_what_is_left_sum_to_one_whatever_the_parts(monkeypatch: pytest.MonkeyPatch):
    from binderclip.vision.splats import scene as module

    scene, camera = scene_of(60, seed=1), camera_of()
    whole = torch.zeros(camera.size[0] * camera.size[1], len(scene))
    for tile in scene.blend(camera):
        whole[tile.pixels[:, None], tile.gaussians[None]] = tile.weights
    assert float(whole.min()) >= 0
    assert float(whole.sum(1).max()) <= 1 + 1e-5
    torch.testing.assert_close(whole.sum(1).view(camera.size), scene.render(camera).alpha)
    torch.testing.assert_close((whole @ scene.colours).T.view(3, *camera.size), scene.render(camera).image)
    monkeypatch.setattr(module, "SIDE_BY_SIDE", 7)
    torch.testing.assert_close(scene.render(camera).image, (whole @ scene.colours).T.view(3, *camera.size))


def test_what_is_in_front_hides_what_is_behind():
    means = torch.tensor([[0.0, 0, 1.0], [0, 0, -1.0]])
    scene = GaussianScene(
        means, torch.full((2, 3), 0.6), torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.ones(2),
        torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    )  # fmt: skip
    front, back = (scene.render(SplatCamera.looking_at((0, 0, z), size=(16, 16))).image[:, 8, 8] for z in (4.0, -4.0))
    assert front[0] > 0.9 > 0.1 > front[1]
    assert back[1] > 0.9 > 0.1 > back[0]


def test_right_is_right_and_up_is_up():
    scene = GaussianScene(
        torch.tensor([[0.8, 0.0, 0.0], [0.0, 0.8, 0.0]]), torch.full((2, 3), 0.05),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1), torch.ones(2), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]),
    )  # fmt: skip
    image = scene.render(SplatCamera.looking_at((0, 0, 3), size=(31, 31))).image
    assert image[0].flatten().argmax() % 31 > 20
    assert image[1].flatten().argmax() // 31 < 10


def test_gradients_are_those_of_finite_differences():
    scene, camera = scene_of(6, seed=2, dtype=torch.float64), camera_of((9, 8))
    weights = torch.linspace(-1, 1, 3 * 72, dtype=torch.float64).view(3, 9, 8)

    def value(
        means: torch.Tensor, scales: torch.Tensor, rotations: torch.Tensor, opacities: torch.Tensor
    ) -> torch.Tensor:
        return (GaussianScene(means, scales, rotations, opacities, scene.colours).render(camera).image * weights).sum()

    inputs = [part.clone().requires_grad_() for part in (scene.means, scene.scales, scene.rotations, scene.opacities)]
    assert torch.autograd.gradcheck(value, inputs, eps=1e-6, atol=2e-3, rtol=2e-2)


def test_behind_the_camera_or_of_no_gaussian_there_is_nothing():
    away = SplatCamera.looking_at((0, 0, 3), (0, 0, 9), size=(8, 8))
    assert float(scene_of(9).render(away).alpha.max()) == 0
    assert float(scene_of(0).render(camera_of()).alpha.max()) == 0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SplatCamera.looking_at((0, 0, 0), size=(8, 8)), "cannot look at"),
        (lambda: SplatCamera.looking_at((0, 3, 0), size=(8, 8)), "as up"),
        (lambda: SplatCamera.looking_at((0, 0, 3), size=(8, 8), fov=180), "fov must be"),
        (lambda: SplatCamera(torch.eye(3), (1, 1), (8, 8)), "to_camera must be"),
        (lambda: SplatCamera(torch.eye(4), (0, 1), (8, 8)), "must be positive"),
        (lambda: GaussianScene(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 4), torch.ones(3), torch.ones(2, 3)),
         "opacities must be"),
        (lambda: GaussianScene(torch.ones(1, 3), torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1), torch.ones(1, 3)),
         "scales must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(make, said: str):
    with pytest.raises(UsageError, match=said):
        make()

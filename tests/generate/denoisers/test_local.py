"""The denoiser by patches: arXiv 2412.20292, held against brute force over every patch, and against its two limits."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import LocalMixtureDenoiser, MixtureDenoiser, sample
from binderclip.generate.denoisers import local
from binderclip.generate.denoisers.local import patch_side


def by_loops(x: Tensor, sigma: float, pictures: Tensor, weights: Tensor, reach: int, size: int) -> Tensor:
    """Every place by itself, all its patches one by one, in float64."""
    (_, channels, height, width), half = pictures.shape, size // 2
    made = torch.zeros(channels, height, width, dtype=torch.float64)
    moves = list(itertools.product(range(-reach, reach + 1), repeat=2))
    for r, c in itertools.product(range(height), range(width)):
        rows = torch.arange(max(0, r - half), min(height, r + half + 1))[:, None]
        columns = torch.arange(max(0, c - half), min(width, c + half + 1))[None]
        logits, middles = [], []
        for picture, weight in zip(pictures.double(), weights, strict=True):
            for down, right in moves:
                if 0 <= r + down < height and 0 <= c + right < width:
                    patch = picture[:, (rows + down).clamp(0, height - 1), (columns + right).clamp(0, width - 1)]
                    distance = (x.double()[:, rows, columns] - patch).square().sum()
                    logits.append(weight.double().log() - distance / (2 * sigma**2))
                    middles.append(picture[:, r + down, c + right])
        made[:, r, c] = torch.stack(logits).softmax(0) @ torch.stack(middles)
    return made


@pytest.mark.parametrize(("reach", "size", "memory"), [(0, 3, 99), (1, 3, 2**24), (2, 5, 1), (9, 3, 99), (1, 1, 99)])
def test_every_place_is_the_mean_over_all_patches(
    reach: int, size: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MEMORY", memory)
    torch.manual_seed(3)
    pictures, x = torch.rand(3, 2, 4, 5) * 2 - 1, torch.randn(2, 2, 4, 5)
    weights, levels = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.3, 1.0])
    made = LocalMixtureDenoiser(pictures, weights, reach=reach, patch=lambda sigma: size).denoise(x, levels)
    for row in range(2):
        expected = by_loops(x[row], float(levels[row]), pictures, weights, min(reach, 4), size)
        torch.testing.assert_close(made[row].double(), expected, atol=1e-4, rtol=1e-4)


def test_a_patch_of_the_whole_picture_is_the_optimal_denoiser_of_the_set() -> None:
    torch.manual_seed(0)
    pictures, x = torch.rand(4, 3, 6, 5), torch.randn(6, 3, 6, 5)
    weights = {"a": torch.tensor([1.0, 2, 3, 0]), None: torch.ones(4)}
    whole = MixtureDenoiser(pictures, weights)
    parts = LocalMixtureDenoiser(pictures, weights, patch=lambda sigma: 11)
    t = torch.tensor([10, 300, 900, 40, 300, 999])
    torch.testing.assert_close(parts(x, t, ["a", None]), whole(x, t, ["a", None]), atol=1e-4, rtol=1e-4)
    smaller = LocalMixtureDenoiser(pictures, weights, patch=lambda sigma: 3)
    assert float((smaller(x, t, ["a", None]) - whole(x, t, ["a", None])).abs().max()) > 0.05


def test_samples_are_new_pictures_made_of_patches_of_the_set() -> None:
    """The black and the white picture of the paper's figure 1: every row and column of places is one of both."""
    pictures = torch.cat([torch.ones(1, 1, 8, 8), -torch.ones(1, 1, 8, 8)])
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    made = sample(LocalMixtureDenoiser(pictures, patch=lambda sigma: 3), x, num_inference_steps=40)
    # up to the noise of the schedule's last time
    assert bool(((made.abs() - 1).abs() < 0.02).all())
    mixed = [(picture > 0).float().mean() for picture in made]
    assert all(0 < float(share) < 1 for share in mixed)
    copied = sample(MixtureDenoiser(pictures), x, num_inference_steps=40)
    assert all(float((picture > 0).float().mean()) in (0.0, 1.0) for picture in copied)


def test_what_has_moved_is_seen_within_the_reach_alone() -> None:
    pictures = torch.full((1, 1, 9, 9), -1.0)
    pictures[0, 0, 2, 2] = 1.0
    x = torch.full((1, 1, 9, 9), -1.0)
    x[0, 0, 4, 4] = 1.0
    sigma = torch.tensor([0.1])
    near, far = (LocalMixtureDenoiser(pictures, reach=reach, patch=lambda sigma: 3) for reach in (1, 2))
    assert float(near.denoise(x, sigma)[0, 0, 4, 4]) == pytest.approx(-1)
    torch.testing.assert_close(far.denoise(x, sigma), x)


def test_patches_shrink_with_the_noise() -> None:
    sides = [patch_side(sigma, 64) for sigma in (0.0, 0.01, 0.1, 1.0, 4.0, 16.0, 150.0)]
    assert sides == sorted(sides)
    assert all(side % 2 for side in sides)
    assert (sides[0], patch_side(1.0, 64), sides[-1]) == (3, 17, 127)


def test_what_is_no_set_of_pictures_is_refused() -> None:
    pictures = torch.zeros(2, 1, 4, 4)
    for text, make in {
        "N, C, H, W": lambda: LocalMixtureDenoiser(torch.zeros(2, 4)),
        "empty": lambda: LocalMixtureDenoiser(pictures[:0]),
        "not finite": lambda: LocalMixtureDenoiser(pictures / 0),
        "weights": lambda: LocalMixtureDenoiser(pictures, torch.ones(3)),
        "reach": lambda: LocalMixtureDenoiser(pictures, reach=-1),
    }.items():
        with pytest.raises(UsageError, match=text):
            make()
    denoiser = LocalMixtureDenoiser(pictures, patch=lambda sigma: 4)
    with pytest.raises(UsageError, match="odd"):
        denoiser.denoise(pictures, torch.ones(2))
    with pytest.raises(UsageError, match="shape"):
        denoiser.denoise(torch.zeros(2, 1, 5, 4), torch.ones(2))
    with pytest.raises(UsageError, match="unknown condition 'cat'"):
        denoiser.denoise(pictures, torch.ones(2), ["cat"])
    with pytest.raises(UsageError, match="blocks"):
        denoiser.denoise(pictures[:1], torch.ones(1), [None, None])

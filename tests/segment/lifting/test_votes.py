"""FlashSplat (p101): labels of Gaussians against every possible labelling, a linear program, and sums of votes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from binderclip.errors import UsageError
from binderclip.segment import lift_masks, lifted_mask, mask_votes
from binderclip.vision import GaussianScene, SplatCamera


def scene_of(count: int, seed: int) -> GaussianScene:
    generator = torch.Generator().manual_seed(seed)
    return GaussianScene(
        2 * torch.rand(count, 3, generator=generator) - 1, 0.1 + 0.2 * torch.rand(count, 3, generator=generator),
        torch.randn(count, 4, generator=generator), 0.3 + 0.7 * torch.rand(count, generator=generator),
        torch.rand(count, 3, generator=generator),
    )  # fmt: skip


CAMERAS = [SplatCamera.looking_at((3 * math.sin(a), 0.5, 3 * math.cos(a)), size=(14, 15)) for a in (0.0, 1.3, 2.9)]


def weights_of(scene: GaussianScene) -> np.ndarray:
    """(all pixels of all views, N)."""
    parts = []
    for camera in CAMERAS:
        whole = torch.zeros(camera.size[0] * camera.size[1], len(scene))
        for tile in scene.blend(camera):
            whole[tile.pixels[:, None], tile.gaussians[None]] += tile.weights
        parts.append(whole)
    return torch.cat(parts).double().numpy()


def masks_of(seed: int, labels: int = 2) -> list[torch.Tensor]:
    """Masks that fit no labelling: blobs of noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(labels, (3, 4, 5), generator=generator)
    return [part.repeat_interleave(4, 0).repeat_interleave(3, 1)[:14, :15] for part in coarse]


@pytest.mark.parametrize("seed", range(4))
def test_no_labelling_has_a_smaller_error(seed: int):
    scene, masks = scene_of(9, seed), masks_of(seed)
    weights, truth = weights_of(scene), torch.cat([m.flatten() for m in masks]).double().numpy()

    def error(labels) -> float:
        return float(np.abs(weights @ np.asarray(labels, dtype=float) - truth).sum())

    least = min(error(labels) for labels in itertools.product((0, 1), repeat=len(scene)))
    found = lift_masks(mask_votes(scene, CAMERAS, masks))[1]
    assert error(found.numpy()) == pytest.approx(least, abs=1e-3)
    assert error(~found.numpy()) > least + 1


def test_the_linear_program_finds_the_same_error():
    scene, masks = scene_of(30, 7), masks_of(7)
    weights, truth = weights_of(scene), torch.cat([m.flatten() for m in masks]).double().numpy()
    # |w P - 1| = 1 - w P where the mask is 1, and w P where it is 0, as weights sum to 1 at most.
    cost = weights[truth == 0].sum(0) - weights[truth == 1].sum(0)
    relaxed = linprog(cost, bounds=[(0, 1)] * len(scene)).fun + truth.sum()
    found = lift_masks(mask_votes(scene, CAMERAS, masks))[1].numpy()
    assert np.abs(weights @ found - truth).sum() == pytest.approx(relaxed, abs=1e-3)


def test_votes_are_all_the_weight_there_is_and_unknown_pixels_have_none():
    scene, masks = scene_of(20, 1), masks_of(1, labels=3)
    weights = weights_of(scene)
    votes = mask_votes(scene, CAMERAS, masks)
    assert votes.shape == (3, 20)
    np.testing.assert_allclose(votes.sum(0).numpy(), weights.sum(0), rtol=1e-4, atol=1e-4)
    labels = torch.cat([m.flatten() for m in masks]).numpy()
    for label in range(3):
        np.testing.assert_allclose(votes[label].numpy(), weights[labels == label].sum(0), rtol=1e-4, atol=1e-4)
    unknown = [torch.where(mask == 1, -1, mask) for mask in masks]
    without = mask_votes(scene, CAMERAS, unknown, classes=3)
    torch.testing.assert_close(without[[0, 2]], votes[[0, 2]])
    assert float(without[1].max()) == 0


def test_the_bias_shrinks_and_grows_and_norms_agree_without_it():
    votes = torch.rand(2, 200, generator=torch.Generator().manual_seed(0))
    sizes = [int(lift_masks(votes, bias=bias)[1].sum()) for bias in (-1.0, -0.3, 0.0, 0.3, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 200
    assert sizes[-1] == 0
    assert torch.equal(lift_masks(votes, norm=1), lift_masks(votes, norm=2))
    # Shares (0.3, 0.7) differ by 0.4; of length 1 they are (0.394, 0.919) and differ by 0.525.
    near = torch.tensor([[0.3], [0.7]])
    assert [bool(lift_masks(near, bias=0.45, norm=norm)[1, 0]) for norm in (1, 2)] == [False, True]


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("bias", [-0.6, -0.2, 0.0, 0.2, 0.45, 0.6])
def test_of_two_labels_the_largest_biased_share_is_the_larger_of_the_pair(norm, bias):
    votes = torch.rand(2, 300, generator=torch.Generator().manual_seed(1))
    column = votes.double().numpy() / np.linalg.norm(votes.double().numpy(), norm, axis=0)
    expected = column[1] > column[0] + bias
    assert np.array_equal(lift_masks(votes, bias=bias, norm=norm, exclusive=True)[1].numpy(), expected)
    assert np.array_equal(lift_masks(votes, bias=bias, norm=norm)[1].numpy(), expected)


def test_of_several_objects_a_gaussian_may_have_none_one_or_by_wish_exactly_one():
    votes = torch.tensor([[0.1, 0.4, 0.9, 0.0], [0.8, 0.3, 0.05, 0.0], [0.1, 0.3, 0.05, 0.0]])
    assert lift_masks(votes).tolist() == [
        [False, True, True, True], [True, False, False, False], [False, False, False, False],
    ]  # fmt: skip
    chosen = lift_masks(torch.tensor([[0.2, 0.0], [0.5, 0.0], [0.3, 0.0]]), exclusive=True)
    assert chosen.tolist() == [[False, True], [True, False], [False, False]]
    # A negative bias lets two objects share one.
    assert lift_masks(votes, bias=-0.5)[1:, 1].tolist() == [True, True]


def test_labels_of_three_separate_balls_are_found_and_shown_in_a_new_view():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1.0, 0, 0]])
    label = torch.arange(3).repeat_interleave(40)
    scene = GaussianScene(
        centres[label] + 0.15 * torch.randn(120, 3, generator=generator), torch.full((120, 3), 0.08),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(120, 1), torch.full((120,), 0.9), torch.rand(120, 3, generator=generator),
    )  # fmt: skip
    cameras = [
        SplatCamera.looking_at((4 * math.sin(a), 1.0, 4 * math.cos(a)), size=(40, 60)) for a in (0.1, 0.5, -0.4, 3.3)
    ]
    masks = []
    for camera in cameras:
        shown = torch.stack([scene.coloured((label == k).float()[:, None].expand(-1, 3)).render(camera).image[0]
                             for k in range(3)])  # fmt: skip
        masks.append(torch.where(shown.amax(0) > 0.5, shown.argmax(0), 3))
    votes = mask_votes(scene, cameras, [torch.where(mask == 3, 0, mask + 1) for mask in masks])
    found = lift_masks(votes)
    for k in range(3):
        assert float((found[k + 1] == (label == k)).float().mean()) > 0.95
    new = SplatCamera.looking_at((1.5, 1.5, 3.5), size=(40, 60))
    truth = lifted_mask(scene, label == 1, new)
    shown = lifted_mask(scene, found[2], new)
    assert int(truth.sum()) > 50
    assert int((truth & shown).sum()) / int((truth | shown).sum()) > 0.85


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mask_votes(scene_of(3, 0), CAMERAS, masks_of(0)[:2]), "a mask for each camera"),
        (lambda: mask_votes(scene_of(3, 0), CAMERAS, [m[:-1] for m in masks_of(0)]), "its camera's picture"),
        (lambda: mask_votes(scene_of(3, 0), CAMERAS, [m.float() for m in masks_of(0)]), "must hold labels"),
        (lambda: mask_votes(scene_of(3, 0), CAMERAS, [m + 4 for m in masks_of(0)], classes=3), "hold the label 5"),
        (lambda: lift_masks(torch.ones(1, 4)), "at least two labels"),
        (lambda: lift_masks(-torch.ones(2, 4)), "not negative"),
        (lambda: lift_masks(torch.ones(2, 4), bias=2), "bias must be"),
        (lambda: lift_masks(torch.ones(2, 4), norm=3), "norm 1 or 2"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, said: str):
    with pytest.raises(UsageError, match=said):
        make()


def test_nothing_is_made_on_another_device_than_the_scenes() -> None:
    """A tensor without a device of its own would lie on `meta` here, and meet the others."""
    scene, masks = scene_of(12, 0), masks_of(0)
    expected, image = mask_votes(scene, CAMERAS, masks), scene.render(CAMERAS[0]).image
    with torch.device("meta"):
        votes = mask_votes(scene, CAMERAS, masks)
        lifted = lift_masks(votes)
        seen = lifted_mask(scene, lifted[1], CAMERAS[0])
        assert torch.equal(votes, expected)
        assert torch.equal(lift_masks(votes, exclusive=True), lift_masks(expected, exclusive=True))
        assert torch.equal(scene.render(CAMERAS[0]).image, image)
        assert seen.device == scene.means.device
    assert torch.equal(scene.to("cpu").colours, scene.colours)

"""Attacks on distances (p154, arXiv 2305.08840): the closed form for the Euclidean one, ranks, and transfer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.robust import RankFlip, attack_similarity, rank_flip_rate


def l2(reference: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return (images - reference).square().mean((1, 2, 3))


class Random(nn.Module):
    """A distance of features of a random layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, reference: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return (self.layer(images).tanh() - self.layer(reference).tanh()).square().mean((1, 2, 3))


def triplets(count: int = 4, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    reference = 0.3 + 0.4 * torch.rand(count, 3, side, side, generator=g)
    near = reference + 0.05 * torch.randn(reference.shape, generator=g).clamp(-2, 2)
    far = reference + 0.06 * torch.randn(reference.shape, generator=g).clamp(-2, 2)
    return reference, near.clamp(0, 1), far.clamp(0, 1)


def test_one_step_on_the_euclidean_distance_is_the_closed_form() -> None:
    reference, near, far = triplets()
    found = attack_similarity(l2, reference, near, far * 0, eps=0.02, alpha=0.02, steps=1)
    wanted = ((near - reference).abs() + 0.02).square().mean((1, 2, 3))
    torch.testing.assert_close(found.distance, wanted, rtol=1e-4, atol=1e-6)
    assert not found.flipped.any()
    assert found.rmse.tolist() == pytest.approx([5.1] * 4, abs=0.01)
    assert found.changed[:, 4].tolist() == [1.0] * 4  # by more than 0.015
    assert found.changed[:, 5].tolist() == [0.0] * 4


@pytest.mark.parametrize("swapped", [False, True])
def test_ranks_flip_and_each_image_stops_there(swapped: bool) -> None:
    reference, near, far = triplets()
    pair = (far, near) if swapped else (near, far)
    found = attack_similarity(l2, reference, *pair, steps=100, eps=0.03)
    assert found.first.tolist() == [not swapped] * 4
    assert found.flipped.all()
    assert (found.distance > found.bound).all()
    # One step earlier none was flipped: the distance is less than one step of the gradient above the bound.
    step = 2 * 0.0005 * (near - reference).abs().add(0.03).mean((1, 2, 3))
    assert (found.distance - found.bound < step).all()
    assert ((found.images - near).abs() <= 0.03 + 1e-6).all()
    again = RankFlip(l2, reference, far).judge((found.images * 255).round() / 255)[1]
    assert torch.equal(found.flipped_8bit, again)


def test_without_a_radius_nothing_flips() -> None:
    reference, near, far = triplets()
    found = attack_similarity(l2, reference, near, far, eps=0.0)
    assert not found.flipped.any()
    assert torch.equal(found.images, near)


def test_the_farther_one_comes_closer() -> None:
    reference, near, far = triplets()
    found = attack_similarity(l2, reference, near, far, closer=True, eps=0.05, steps=50)
    assert not found.first.any()
    assert found.flipped.all()
    torch.testing.assert_close(found.bound, l2(reference, near))
    assert (l2(reference, found.images) < l2(reference, near)).all()


def test_the_shortest_of_twenty_steps_is_taken() -> None:
    reference, near, far = triplets()
    found = attack_similarity(l2, reference, near, far, method="fgsm", eps=0.04)
    assert found.flipped.all()
    length = (found.images - near).abs().amax((1, 2, 3))
    bound = l2(reference, far)
    for row in range(4):
        grid = [0.002 * k for k in range(1, 21)]
        moved = [((near[row] - reference[row]).abs() + e).square().mean() > bound[row] for e in grid]
        assert float(length[row]) == pytest.approx(grid[moved.index(True)], abs=1e-5)


@pytest.mark.parametrize("method", ["spatial", "spatial+pgd"])
def test_spatial_attacks_flip_a_learned_distance(method: str) -> None:
    reference, near, far = triplets(2)
    distance = Random()
    clean = distance(reference, near) < distance(reference, far)
    near, far = (torch.where(clean[:, None, None, None], a, b) for a, b in ((near, far), (far, near)))
    found = attack_similarity(distance, reference, near, far, method=method, eps=0.05, steps=100)
    assert found.flipped.all()
    change = (found.images - near).abs().amax((1, 2, 3))
    assert (change <= 0.05 + 1e-6).all() == (method == "spatial+pgd")
    assert all(p.requires_grad and p.grad is None for p in distance.parameters())


def test_one_pixel_reaches_what_a_pixel_can() -> None:
    reference = torch.full((1, 3, 4, 4), 0.5)
    found = attack_similarity(
        l2, reference, reference + 0.1, reference + 0.11, method="one-pixel", population=50, generations=20
    )
    assert found.flipped.all()
    assert int(((found.images - reference - 0.1).abs().amax(1) > 1e-6).sum()) == 1


def test_the_flip_rate_counts_pairs_that_agreed_before() -> None:
    reference = torch.zeros(4, 3, 1, 1)
    of = lambda *values: torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 3, 1, 1)  # noqa: E731
    clean, attacked, other = of(0.1, 0.1, 0.1, 0.5), of(0.3, 0.15, 0.1, 0.9), of(0.2, 0.2, 0.2, 0.2)
    assert rank_flip_rate(l2, reference, clean, attacked, other) == pytest.approx(1 / 3)
    assert rank_flip_rate(l2, reference, clean, clean, other) == 0.0
    assert torch.isnan(torch.tensor(rank_flip_rate(l2, reference, other, attacked, clean * 0)))


def test_wrong_input_is_refused() -> None:
    reference, near, far = triplets()
    with pytest.raises(UsageError, match="spatial\\+pgd"):
        attack_similarity(l2, reference, near, far, method="newton")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="one shape"):
        attack_similarity(l2, reference, near[:2], far)
    with pytest.raises(UsageError, match="OnePixel"):
        attack_similarity(l2, reference, near, far, method="one-pixel", speed=3)
    with pytest.raises(UsageError, match="method 'pgd' has no option 'iterations'"):
        attack_similarity(l2, reference, near, far, iterations=3)
    for method in ("pgd", "spatial", "one-pixel"):
        for place, name in enumerate(("reference", "first", "second")):
            images = [reference, near, far]
            images[place] = 2 * images[place] - 1
            with pytest.raises(UsageError, match=f"{name} run from"):
                attack_similarity(l2, *images, method=method)  # type: ignore[arg-type]


def test_bound_and_ranking_are_those_of_a_distance_at_rest() -> None:
    class Noisy(Random):
        """Drops half of its features while it is trained."""

        def forward(self, reference: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
            kept = nn.functional.dropout(torch.ones(8, 1, 1), training=self.training)
            gaps = (self.layer(images).tanh() - self.layer(reference).tanh()).square()
            return (kept * gaps).mean((1, 2, 3))

    reference, near, far = triplets()
    training, resting = Noisy().train(), Noisy().eval()
    found, wanted = (attack_similarity(each, reference, near, far) for each in (training, resting))
    assert torch.equal(found.first, wanted.first)
    assert torch.equal(found.bound, wanted.bound)
    assert torch.equal(found.images, wanted.images)
    assert training.training
    assert torch.equal(RankFlip(training, reference, far).bound, resting(reference, far))
    rates = [rank_flip_rate(each, reference, near, wanted.images, far) for each in (training, resting)]
    assert rates[0] == rates[1]

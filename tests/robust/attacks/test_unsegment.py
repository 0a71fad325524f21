"""Unsegment anything (p123, arXiv 2404.02585): the spline against SciPy's, objectives by hand, what is reached."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.robust import UAD, EncoderMaps, FeatureAttack, FeatureTarget, Linf, MaskRemoval, Sign, attack, warp
from binderclip.robust.attacks.unsegment import polyharmonic_flow
from binderclip.segment.promptable import PromptModel, PromptNetwork, Prompts

SHORT: dict[str, Any] = {"epochs": 3, "inner": 2, "steps": 6, "warps": 2, "split": 3}


class Maps(nn.Module):
    """Two layers of random features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 8, 3, stride=2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        first = self.one(images).tanh()
        return [first, self.two(first)]


def pictures(count: int = 2, side: int = 24) -> torch.Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(side, side), mode="bilinear")


def points(warps: int = 2, count: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    source = 20 * torch.rand(warps, count, 2, generator=g, dtype=torch.float64)
    return source, source + torch.randn(source.shape, generator=g, dtype=torch.float64)


def test_the_spline_is_scipys() -> None:
    source, destination = points()
    flow = polyharmonic_flow(source, destination, (20, 17))
    grid = np.stack(np.meshgrid(np.arange(20), np.arange(17), indexing="ij"), -1).reshape(-1, 2)
    for number in range(2):
        moved = (destination - source)[number].numpy()
        peer = RBFInterpolator(destination[number].numpy(), moved, kernel="linear", degree=1)
        wanted = peer(grid).reshape(20, 17, 2).transpose(2, 0, 1)
        np.testing.assert_allclose(flow[number].numpy(), wanted, atol=1e-4)


def test_no_displacement_and_a_common_one() -> None:
    source, destination = points()
    torch.testing.assert_close(polyharmonic_flow(source, source, (9, 8)), torch.zeros(2, 2, 9, 8, dtype=torch.float64))
    shifted = polyharmonic_flow(source, source + torch.tensor([2.0, -3.0]), (9, 8))
    wanted = torch.tensor([2.0, -3.0], dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 9, 8)
    torch.testing.assert_close(shifted, wanted, atol=1e-8, rtol=0)
    # What is moved down by two rows comes from two rows above.
    image = torch.rand(1, 3, 9, 8, dtype=torch.float64)
    moved = warp(image, -shifted[:1], padding="reflection")
    torch.testing.assert_close(moved[:, :, 2:, :5], image[:, :, :7, 3:])
    inside = [destination.clone().requires_grad_(), source.clone().requires_grad_()]
    polyharmonic_flow(inside[1], inside[0], (9, 8)).square().sum().backward()
    assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in inside)


def test_warps_are_mixed_by_the_brightest_and_the_darkest() -> None:
    image = pictures(1).double()
    source, destination = points()
    attack_ = UAD(features=Maps().double(), **SHORT)
    flow = polyharmonic_flow(source, destination, (24, 24))
    copies = torch.cat([warp(image, -flow[n : n + 1], padding="reflection") for n in range(2)])
    mask = torch.rand(1, 1, 24, 24, dtype=torch.float64)
    found = attack_.deformed(image, source, destination, mask)
    torch.testing.assert_close(found, copies.max(0)[0] * mask + copies.min(0)[0] * (1 - mask))
    # Of one warp the mask says nothing.
    one = attack_.deformed(image, source[:1], destination[:1], mask)
    torch.testing.assert_close(one, copies[:1])


def test_objectives_are_their_formulas() -> None:
    net, images, others = Maps(), pictures(), pictures().flip(3)
    maps, toward, away = net(images), net(others), net(images * 0.5)
    cosine = lambda a, b: (a * b).flatten(1).sum(1) / (a.flatten(1).norm(dim=1) * b.flatten(1).norm(dim=1))  # noqa: E731
    wanted = sum(cosine(maps[k], toward[k]) - cosine(maps[k], away[k]) for k in range(2)) / 2
    torch.testing.assert_close(FeatureTarget(net, toward, away)(images), wanted)
    roots = [
        (a.sign() * a.abs().sqrt() - b.sign() * b.abs().sqrt()).flatten(1) for a, b in zip(maps, toward, strict=True)
    ]
    far = torch.cat(roots, 1).norm(dim=1)
    blurred = F.avg_pool2d((images - others) / 0.226, 3).abs().sum((1, 2, 3))
    torch.testing.assert_close(FeatureAttack(net, others)(images), far - 0.01 * blurred, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("couple", [True, False])
def test_it_stays_in_the_ball_and_reaches_what_it_simulates(couple: bool) -> None:
    net, images = Maps(), pictures()
    found = UAD(features=net, eps=0.05, alpha=0.02, couple=couple, **SHORT)(images)
    assert (found.perturbation.abs() <= 0.05 + 1e-6).all()
    assert ((found.images >= 0) & (found.images <= 1)).all()
    # At the clean image the objective is the cosine with the target less one: every image has come nearer.
    assert (found.history[-1] > found.history[0] + 0.01).all()
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    again = UAD(features=net, eps=0.05, alpha=0.02, couple=couple, **SHORT)(images)
    assert torch.equal(again.images, found.images)
    other = UAD(features=net, eps=0.05, alpha=0.02, couple=not couple, lr=200.0, **SHORT)(images)
    assert not torch.equal(other.images, found.images)
    held = UAD(features=net, eps=0.0, **SHORT)(images)
    assert torch.equal(held.images, images)


def test_a_bundled_segmenters_maps_and_masks_can_be_attacked() -> None:
    torch.manual_seed(0)
    network = PromptNetwork(side=32, width=16, heads=2, blocks=1, layers=1)
    model = PromptModel(network).eval()
    images = pictures(1, 32)
    levels = network.encode(model.preprocess(images))
    for one, two in zip(EncoderMaps(model)(images), (levels.coarse, levels.middle, levels.fine), strict=True):
        torch.testing.assert_close(one, two)
    prompts = Prompts(points=torch.tensor([[[8.0, 8.0]], [[20.0, 12.0]]]), labels=torch.ones(2, 1).long())
    objective = MaskRemoval(model, prompts, bound=-1.0)
    low = model.predict(model.encode(images[0]), prompts, multimask=False).low_res
    wanted = -(low.detach() + 1).clamp(min=0).square().mean()
    torch.testing.assert_close(objective(images)[0], wanted, rtol=1e-3, atol=1e-4)
    found = attack(objective, images, param=Linf(0.05), step=Sign(0.02), steps=4, start="clean")
    assert float(found.objective) > float(wanted)
    with pytest.raises(UsageError, match="one by one"):
        objective(pictures(2, 32))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"split": 1}, {"eps": -1.0}, {"alpha": 0.0}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        UAD(features=Maps(), **wrong)


def test_weights_in_their_limits_and_the_cells_of_the_board(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = Maps(), pictures(1)

    def made(**settings: Any) -> torch.Tensor:
        return UAD(features=net, eps=0.05, alpha=0.02, lr=200.0, **SHORT, **settings)(images).images

    # Without the weight on what was reached nothing couples the two.
    assert torch.equal(made(fidelity=0.0), made(couple=False))
    assert not torch.equal(made(fidelity=1.0), made(couple=False))
    attack_, still = UAD(features=net, **SHORT), points()[0]
    board = attack_._mask(images, still, still, 5)
    rows, columns = np.indices((24, 24)) // 5
    np.testing.assert_allclose(board[0, 0].numpy(), (rows + columns) % 2, atol=1e-4)
    cells: list[int] = []
    mask = UAD._mask

    def noted(self: UAD, image: torch.Tensor, one: torch.Tensor, other: torch.Tensor, cell: int) -> torch.Tensor:
        cells.append(cell)
        return mask(self, image, one, other, cell)

    monkeypatch.setattr(UAD, "_mask", noted)
    made(cell=128)
    made()
    assert cells == [3, 7]  # 128 and 300 of 1,024 pixels, on 24


def test_control_points_that_meet_are_named_and_kept_apart() -> None:
    source = torch.tensor([[[1.0, 1.0], [1.0, 9.0], [9.0, 1.0], [9.0, 9.0]]])
    for place, to in ((1, [1.0, 1.0]), (1, [1.0, 1.0 + 1e-6])):
        destination = source.clone()
        destination[0, place] = torch.tensor(to)
        with pytest.raises(UsageError, match="no two in one place"):
            polyharmonic_flow(source, destination, (10, 10))
    line = torch.tensor([[[1.0, 1.0], [3.0, 2.0], [5.0, 3.0], [9.0, 5.0]]])
    with pytest.raises(UsageError, match="not all on a line"):
        polyharmonic_flow(source, line, (10, 10))
    with pytest.raises(UsageError, match="three at least"):
        polyharmonic_flow(source[:, :2], source[:, :2], (10, 10))
    # Steps as long as the image drive all points into its corners.
    found = UAD(features=Maps(), eps=0.05, alpha=0.02, lr=1e4, epochs=6, inner=1, steps=3, warps=2, split=3)(
        pictures(1)
    )
    assert found.images.isfinite().all()
    assert (found.perturbation.abs() <= 0.05 + 1e-6).all()
    assert float(found.perturbation.abs().max()) > 0.01
    with pytest.raises(UsageError, match="meet at the start in an image of 2 x 2 pixels"):
        UAD(features=lambda x: [x], epochs=1, spread=50.0)(pictures(1)[:, :, :2, :2])


def test_the_clean_features_of_an_attack_are_those_of_a_network_at_rest() -> None:
    class Dropped(Maps):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [F.dropout(each, 0.5, self.training) for each in super().forward(images)]

    net, images = Dropped().train(), pictures()
    objective, wanted = FeatureAttack(net, images), FeatureAttack(Maps(), images)
    assert net.training
    net.eval()
    assert torch.equal(objective(images), wanted(images))

"""Edge maps of whole pictures (p063, p110): windows, odd sizes, folders and checkpoints, Canny and Sobel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from binderclip.errors import CheckpointError, UsageError
from binderclip.vision import (
    BoundaryAttention,
    DexiNed,
    EdgeNetwork,
    canny_levels,
    load_edge_network,
    save_edge_network,
    sobel_map,
)

SMALL = {"width": 4, "patch": 5, "sides": (3, 5), "blocks": 1, "iterations": 1, "attention": 3, "size_token": 4,
         "feed_forward": 4, "mixer": 4}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> EdgeNetwork:
    torch.manual_seed(0)
    return EdgeNetwork(DexiNed(2, between=2).eval())


@pytest.fixture(scope="module")
def junctions() -> EdgeNetwork:
    torch.manual_seed(0)
    return EdgeNetwork(BoundaryAttention(**SMALL).eval())


def picture(height: int, width: int) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height + width))


@torch.no_grad()
def test_one_window_is_the_network_and_several_are_their_weighted_mean(network: EdgeNetwork) -> None:
    whole = picture(40, 64)
    assert isinstance(network.network, DexiNed)
    torch.testing.assert_close(network(whole, window=64), network.network.probability(whole[None])[0])
    large = picture(70, 100)
    total, weights = torch.zeros(70, 100), torch.zeros(70, 100)
    for top in (0, 6):
        for left in (0, 32, 36):
            part = network.network.probability(large[None, :, top : top + 64, left : left + 64])[0]
            for y in range(64):
                for x in range(64):
                    # Pixels from the window's border, counted from 1, up to the overlap of 32 in both directions.
                    weight = min(y + 1, 64 - y, 32) * min(x + 1, 64 - x, 32)
                    total[top + y, left + x] += weight * part[y, x]
                    weights[top + y, left + x] += weight
    torch.testing.assert_close(network(large, window=64), total / weights)


@pytest.mark.parametrize("kind", ["network", "junctions"])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 50)])
def test_odd_sizes_have_maps_of_their_size(kind: str, size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    probability = request.getfixturevalue(kind)(picture(*size), window=128)
    assert probability.shape == size
    assert bool(((probability >= 0) & (probability <= 1)).all())


def test_one_colour_has_no_edge(network: EdgeNetwork, junctions: EdgeNetwork) -> None:
    flat = torch.tensor([0.1, 0.7, 0.4])[:, None, None].expand(3, 30, 90)
    for detector in (network, junctions, canny_levels, sobel_map):
        assert not bool(detector(flat).any())


def test_a_folder_gives_the_same_maps_again(network: EdgeNetwork, junctions: EdgeNetwork, tmp_path: Path) -> None:
    for number, detector in enumerate((network, junctions)):
        folder = save_edge_network(detector.network, tmp_path / str(number), threshold=0.3, card={"limits": "few"})
        again = load_edge_network(folder)
        assert (again.threshold, again.card["limits"]) == (0.3, "few")
        assert type(again.network) is type(detector.network)
        assert not again.network.training
        torch.testing.assert_close(again(picture(20, 30)), detector(picture(20, 30)))


def test_a_released_checkpoint_opens_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("binderclip.vision.edges.dexined.DexiNed", lambda: DexiNed(2))
    torch.manual_seed(3)
    state = DexiNed(2).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "10_model.pth")
    torch.testing.assert_close(load_edge_network(tmp_path / "10_model.pth").network.state_dict(), state)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError):
        load_edge_network(tmp_path / "text.pth")


def test_mistakes_are_said(network: EdgeNetwork, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of an edge network, and no checkpoint, 'nothing'"):
        load_edge_network("nothing")
    with pytest.raises(CheckpointError, match="no model of this format"):
        load_edge_network(tmp_path)
    folder = save_edge_network(network.network, tmp_path / "one")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"dexined"', '"unknown"'))
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_edge_network(folder)
    with pytest.raises(UsageError, match="must be a DexiNed or a BoundaryAttention, not a Linear"):
        save_edge_network(torch.nn.Linear(1, 1), tmp_path / "two")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threshold"):
        EdgeNetwork(network.network, threshold=1.0)
    with pytest.raises(UsageError, match=r"picture must be float \(3, H, W\)"):
        network(torch.rand(1, 20, 20))
    with pytest.raises(UsageError, match="window must be a whole number of at least 32"):
        network(picture(40, 40), window=8)


def test_canny_is_scikit_image_at_each_threshold_and_sobel_is_scipy() -> None:
    feature = pytest.importorskip("skimage.feature")
    shapes = torch.zeros(3, 40, 50)
    shapes[:, 8:30, 10:35] = 0.5
    shapes[0, 20:35, 25:45] += 0.2
    levels = canny_levels(shapes, sigma=1.0)
    grey = (shapes.double() * torch.tensor([0.2126, 0.7152, 0.0722], dtype=torch.float64)[:, None, None]).sum(0)
    highs = [0.05 * 40 ** (k / 11) for k in range(12)]
    edges = [feature.canny(grey.numpy(), sigma=1.0, low_threshold=t / 2, high_threshold=t) for t in highs]
    for number, at in enumerate(edges):
        assert np.array_equal(levels.numpy() * 12 > number + 0.5, at)
    assert 0 < edges[8].sum() < edges[0].sum()
    blurred = ndimage.gaussian_filter(shapes.numpy(), (0, 1.5, 1.5), mode="nearest")
    slopes = [np.hypot(*(ndimage.sobel(one, axis, mode="nearest") / 8 for axis in (0, 1))) for one in blurred]
    np.testing.assert_allclose(sobel_map(shapes, sigma=1.5).numpy(), 2 * np.max(slopes, axis=0), atol=1e-5)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="sigma"):
            sobel_map(shapes, sigma=wrong)
        with pytest.raises(UsageError, match="sigma"):
            canny_levels(shapes, sigma=wrong)

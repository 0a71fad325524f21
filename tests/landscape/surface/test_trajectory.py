"""p133 (arXiv 1712.09913): the plane of a training's checkpoints, against scikit-learn's PCA."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.landscape import loss_surface, trajectory_pca

F64 = torch.float64


def training(steps=7):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    x, y = torch.randn(40, 4, dtype=F64), torch.randint(0, 2, (40,))
    checkpoints = []
    for _ in range(steps):
        checkpoints.append({name: p.detach().clone() for name, p in net.named_parameters()})
        loss = nn.functional.cross_entropy(net(x), y)
        for p, grad in zip(net.parameters(), torch.autograd.grad(loss, list(net.parameters())), strict=True):
            p.data -= 0.5 * grad
    return net, checkpoints, [(x, y)]


def flat(tensors):
    return np.concatenate([tensor.detach().numpy().ravel() for tensor in tensors.values()])


def test_directions_are_the_components_of_scikit_learn():
    from sklearn.decomposition import PCA

    _, checkpoints, _ = training()
    rows = np.stack([flat(each) - flat(checkpoints[-1]) for each in checkpoints])
    pca = PCA(n_components=2).fit(rows)
    plane = trajectory_pca(checkpoints)
    for number, direction in enumerate(plane.directions):
        own = flat(direction)
        assert abs(own @ pca.components_[number]) == pytest.approx(1, abs=1e-8)
        assert np.linalg.norm(own) == pytest.approx(1, abs=1e-8)
        np.testing.assert_allclose(plane.coordinates[:, number].numpy(), rows @ own, atol=1e-10)
    assert plane.explained == pytest.approx(tuple(pca.explained_variance_ratio_), abs=1e-8)
    assert plane.coordinates[-1].tolist() == [0, 0]


def test_without_centring_they_are_the_right_singular_vectors():
    _, checkpoints, _ = training()
    rows = np.stack([flat(each) - flat(checkpoints[-1]) for each in checkpoints[:-1]])
    _, values, vectors = np.linalg.svd(rows, full_matrices=False)
    plane = trajectory_pca(checkpoints, center=False)
    for number, direction in enumerate(plane.directions):
        assert abs(flat(direction) @ vectors[number]) == pytest.approx(1, abs=1e-6)
    assert plane.explained == pytest.approx(tuple(values[:2] ** 2 / (values**2).sum()), abs=1e-8)


def test_a_way_in_a_plane_is_kept_whole_and_is_drawn_over_its_surface(tmp_path):
    net = nn.Linear(3, 2)
    origin = {name: p.detach().clone() for name, p in net.named_parameters()}
    first, second = torch.zeros(2, 3), torch.zeros(2, 3)
    first[0, 0], second[1, 2] = 1, 1
    places = torch.tensor([[3.0, 1.0], [2.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    checkpoints = [origin | {"weight": origin["weight"] + a * first + b * second} for a, b in places.tolist()]
    plane = trajectory_pca(checkpoints)
    assert sum(plane.explained) == pytest.approx(1)
    torch.testing.assert_close(torch.cdist(plane.coordinates, plane.coordinates).float(), torch.cdist(places, places))
    surface = loss_surface(net, [(torch.randn(8, 3), torch.randint(0, 2, (8,)))], plane.directions, alphas=[-1.0, 1.0])
    plane.plot(surface).savefig(tmp_path / "way.png")


def test_biases_can_be_left_out():
    _, checkpoints, _ = training()
    plane = trajectory_pca(checkpoints, ignore="bias_bn")
    assert set(plane.directions[0]) == {"0.weight", "2.weight"}


def test_what_spans_no_plane_is_refused():
    _, checkpoints, _ = training()
    line = [{"weight": torch.ones(2, 2) * step} for step in (1.0, 2.0, 4.0)]
    for words, given in {
        "three checkpoints": checkpoints[:2],
        "on one line": line,
        "NaN or infinity": [*checkpoints[:3], {name: t * torch.nan for name, t in checkpoints[3].items()}],
        "differ in architecture": [*checkpoints[:3], {"weight": torch.ones(2)}],
        "holds no weight": [{}] * 3,
    }.items():
        with pytest.raises(errors.UsageError, match=words):
            trajectory_pca(given)

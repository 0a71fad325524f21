"""p023: codes against scikit-learn, a search over all supports and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import sparse_encode
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.vision import SparseCoding, prox
from binderclip.vision.sparse.penalties import PENALTIES, Penalty


def patches(count: int = 20, features: int = 12, seed: int = 0) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_l1_codes_are_those_of_the_lasso() -> None:
    model = SparseCoding(12, 24, "l1", lam=0.4, tolerance=1e-9, iterations=200_000)
    ours = model.encode(patches())
    theirs = sparse_encode(
        patches().numpy(), model.dictionary.double().numpy().T, algorithm="lasso_cd", alpha=0.4, max_iter=100_000
    )
    assert ours.converged
    assert np.allclose(ours.codes.numpy(), theirs, atol=1e-4)
    assert 0 < ours.active < 0.7


@pytest.mark.parametrize("penalty", PENALTIES)
def test_codes_of_an_orthonormal_dictionary_are_thresholded_once(penalty: Penalty) -> None:
    model = SparseCoding(12, 12, penalty, lam=0.5, tolerance=1e-12, iterations=100_000, step=0.9)
    basis = torch.linalg.qr(patches(12)).Q
    model.dictionary = basis
    coefficients = patches() @ basis
    codes = model.encode(patches()).codes
    if penalty == "l1":
        assert torch.allclose(codes, prox("l1", coefficients, 1.0, 0.5), atol=1e-8)
    if penalty == "l0":  # where a coefficient may stay, it stays whole
        assert torch.allclose(codes, torch.where(codes != 0, coefficients, torch.zeros(()).double()), atol=1e-8)
        assert bool((coefficients[codes != 0].abs() >= (2 * 0.9 * 0.5) ** 0.5 * 0.99).all())
    kept = coefficients.abs() > 1.6  # above every threshold
    assert bool((codes[kept] != 0).all())
    assert bool((codes[coefficients.abs() < 0.4] == 0).all())


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_energy_never_rises(penalty: Penalty) -> None:
    data, energies = patches(30), []
    for iterations in (1, 2, 3, 5, 8, 20, 100):
        model = SparseCoding(12, 20, penalty, lam=0.3, tolerance=1e-15, iterations=iterations)
        energies.append(model.energy(data, model.encode(data).codes).double())
    for before, after in itertools.pairwise(energies):
        assert bool((after <= before + 1e-5).all())


def test_cel0_codes_come_near_the_best_support() -> None:
    """On problems small enough to try all supports; l1's supports cost more at the weight of l0."""
    lam, count = 0.15, 12
    generator = torch.Generator().manual_seed(3)
    truth = torch.zeros(count, 8, dtype=torch.float64)
    truth[:, :2] = 1.5 + torch.rand(count, 2, generator=generator, dtype=torch.float64)
    energy: dict[str, Tensor] = {}
    models = {name: SparseCoding(8, 8, name, lam=lam, tolerance=1e-10, iterations=50_000, seed=1) for name in PENALTIES}
    phi = models["l0"].dictionary.double()
    data = truth @ phi.T
    best = torch.full((count,), torch.inf, dtype=torch.float64)
    for support in itertools.chain.from_iterable(itertools.combinations(range(8), k) for k in range(5)):
        part = phi[:, list(support)]
        error = data - data @ torch.linalg.pinv(part).T @ part.T if support else data
        best = torch.minimum(best, 0.5 * error.square().sum(1) + lam * len(support))
    for name, model in models.items():
        codes = model.encode(data).codes
        energy[name] = 0.5 * (data - codes @ phi.T).square().sum(1) + lam * (codes.abs() > 1e-6).sum(1)
        assert bool((energy[name] >= best - 1e-9).all())
    assert float(energy["cel0"].mean()) <= float(best.mean()) * 1.5
    assert float(energy["l1"].mean()) > float(energy["cel0"].mean())


def test_a_dictionary_that_made_the_patches_is_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(16, 16, generator=generator), dim=0)
    codes = (torch.rand(4000, 16, generator=generator) < 0.12) * torch.randn(4000, 16, generator=generator)
    data = codes @ truth.T
    model = SparseCoding(16, 16, "l1", lam=0.05, seed=5)

    def agreement() -> float:
        return float((truth.T @ model.dictionary).abs().amax(1).mean())

    before = agreement()
    model.fit(list(data.split(200)) * 6, rate=1e-1)
    assert torch.allclose(model.dictionary.norm(dim=0), torch.ones(16), atol=1e-5)
    assert agreement() > max(0.9, before + 0.2)


def test_a_dictionary_learns_one_step_behind_the_settled_codes() -> None:
    """The loop of the released code, in NumPy: r until it settles, one more step, then Phi."""
    lam, tolerance, rate = 0.3, 0.2, 0.05
    model = SparseCoding(12, 20, "l1", lam=lam, tolerance=tolerance, step=0.05, seed=2)
    phi, data = model.dictionary.double().numpy(), patches().numpy()

    def stepped(r: np.ndarray) -> np.ndarray:
        z = r + 0.05 * (data - r @ phi.T) @ phi
        return np.sign(z) * np.maximum(np.abs(z) - 0.05 * lam, 0)

    r, change = np.zeros((20, 20)), np.inf
    while change >= tolerance:
        before, r = r, stepped(r)
        change = np.linalg.norm(r - before) / np.linalg.norm(r)
    r = stepped(r)
    learned = phi + rate * (data - r @ phi.T).T @ r
    learned /= np.linalg.norm(learned, axis=0)
    assert np.allclose(model.fit([patches()], rate=rate).dictionary.numpy(), learned, atol=1e-6)


def test_black_patches_have_empty_codes() -> None:
    model = SparseCoding(12, 24)
    coded = model.encode(torch.zeros(3, 12))
    assert coded.active == 0
    assert coded.converged
    assert torch.equal(model.decode(coded.codes), torch.zeros(3, 12))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"penalty": "huber"}, "penalty"),
        ({"lam": float("inf")}, "lam"),
        ({"step": 1.5}, "step"),
        ({"units": 0}, "units"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SparseCoding(**({"features": 12, "units": 24} | settings))


def test_data_that_cannot_be_coded_are_refused() -> None:
    model = SparseCoding(12, 24)
    with pytest.raises(UsageError, match=r"\(batch, 12\)"):
        model.encode(torch.zeros(3, 11))
    with pytest.raises(UsageError, match="at least one"):
        model.encode(torch.zeros(0, 12))
    with pytest.raises(UsageError, match="finite"):
        model.encode(torch.full((3, 12), float("nan")))
    with pytest.raises(UsageError, match=r"at most 1 / \|Phi\|\^2"):
        SparseCoding(12, 24, step=0.9).encode(torch.ones(3, 12))
    with pytest.raises(UsageError, match="at least one batch"):
        model.fit([])
    with pytest.raises(NotSupported, match="none of 1 batches"):
        SparseCoding(12, 24, iterations=1).fit([patches().float()])

"""Caches: the grouped search against the plain product, and the trained keys against a loop by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.adapt import TipAdapter, TipAdapterF, blend_search
from binderclip.adapt.few_shot.tip_adapter import CacheSearch
from binderclip.errors import UsageError


def toy(seed: int = 0, n: int = 5, d: int = 8) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, d))
    x = np.repeat(centres, n, axis=0) + 0.8 * rng.normal(size=(3 * n, d))
    text = centres + 0.8 * rng.normal(size=(3, d))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit, np.repeat(["ant", "bee", "cat"], n), dict(zip(["ant", "bee", "cat"], text, strict=True))


def test_grouped_votes_equal_the_product_with_one_hot_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    owner = torch.tensor([2, 0, 2, 1, 2, 0])
    cosines = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    weights = torch.rand(6, 3, generator=generator, dtype=torch.float64)
    search = CacheSearch(cosines, owner, 3)
    for beta in (0.0, 1.5, 40.0):
        closeness = torch.exp(-beta * (1 - cosines))
        one_hot = F.one_hot(owner, 3).double()
        torch.testing.assert_close(search(beta)[0], closeness @ one_hot)
        for column, votes in enumerate(search(beta, weights)):
            torch.testing.assert_close(votes, closeness @ (one_hot * weights[:, column, None]))


def test_the_search_finds_what_a_double_loop_finds() -> None:
    x, y, prior = toy()
    held, asked, _ = toy(seed=1)
    alphas, betas = (0.1, 1.0, 8.0, 60.0), (0.5, 4.0, 30.0)
    head = TipAdapter(prior, scale=5.0, alphas=alphas, betas=betas).fit(x, y, held, asked)
    by_hand = [
        (TipAdapter(prior, scale=5.0, alpha=a, beta=b).fit(x, y).score(held, asked), a, b)
        for a in alphas
        for b in betas
    ]
    best = max(by_hand, key=lambda row: row[0])
    assert len({row[0] for row in by_hand}) > 2
    assert (head.alpha_, head.beta_) == best[1:]
    assert head.score(held, asked) == best[0]


def test_a_function_may_leave_mere_weights_to_the_search() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = torch.randn(3, 400, 5, generator=generator)
    targets = torch.randint(0, 5, (400,), generator=generator)
    # A grid large enough to be cut in pieces, with the function's own parameter between the weights.
    grid = {"one": np.linspace(0, 2, 30).tolist(), "power": [1.0, 2.0, 3.0], "two": np.linspace(-1, 1, 20).tolist()}
    found = blend_search(lambda power: {"base": a, "one": b.sign() * b.abs() ** power, "two": c}, targets, grid)
    plain = blend_search(lambda one, power, two: a + one * b.sign() * b.abs() ** power + two * c, targets, grid)
    assert [point for point, _ in found.table] == [point for point, _ in plain.table]
    np.testing.assert_allclose([v for _, v in found.table], [v for _, v in plain.table], atol=1 / 400 + 1e-9)
    assert found.accuracy == max(v for _, v in found.table)
    assert found.best == next(point for point, v in found.table if v == found.accuracy)
    with pytest.raises(UsageError, match="grid names three; the terms are base"):
        blend_search(lambda power: {"base": a}, targets, {"power": [1.0], "three": [1.0]})


def test_trained_keys_equal_a_loop_by_hand() -> None:
    x, y, prior = toy()
    views = np.stack([x, toy(seed=2)[0]], axis=1)
    head = TipAdapterF(prior, alpha=2.0, beta=3.0, lr=0.05, epochs=4).fit(views, y)
    v, targets = torch.tensor(views).float(), torch.arange(3).repeat_interleave(5)
    text = F.normalize(torch.tensor(np.stack(list(prior.values()))), dim=-1).float()
    keys = F.normalize(torch.tensor(views).mean(dim=1), dim=-1).float().requires_grad_()
    optimizer = torch.optim.AdamW([keys], lr=0.05, eps=1e-4)
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 4))
        batch = v[:, step % 2]
        affinity = ((-1) * (3.0 - 3.0 * batch @ keys.T)).exp() @ F.one_hot(targets, 3).float()
        optimizer.zero_grad()
        F.cross_entropy(100.0 * batch @ text.T + 2.0 * affinity, targets).backward()
        optimizer.step()
    torch.testing.assert_close(head.keys_.float(), keys.detach(), atol=1e-5, rtol=1e-4)
    assert head.n_trainable_ == 15 * 8
    untrained = TipAdapterF(prior, alpha=2.0, beta=3.0, epochs=0).fit(x, y)
    plain = TipAdapter(prior, alpha=2.0, beta=3.0).fit(x, y)
    np.testing.assert_allclose(untrained.decision_function(x), plain.decision_function(x), atol=1e-5)

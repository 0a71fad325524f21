"""APE and APE-T of p176 (arXiv 2304.01195): loops over pairs and examples, Tip-Adapter as limit, its update."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.adapt import APE, APETuned, TipAdapter, channel_scores
from binderclip.errors import UsageError

NAMES = ["ant", "bee", "cat"]


def toy(seed: int = 0, counts: tuple[int, ...] = (4, 4, 4), d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(3, d))
    x = np.repeat(centres, counts, axis=0) + 0.9 * rng.normal(size=(sum(counts), d))
    return x / np.linalg.norm(x, axis=1, keepdims=True), np.repeat(NAMES, counts)


def texts(d: int = 8) -> np.ndarray:
    rng = np.random.default_rng(99)
    rows = rng.normal(size=(3, d)) + 0.7 * np.random.default_rng(5).normal(size=(3, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


PRIOR = dict(zip(NAMES, texts(), strict=True))


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 1, 1), (3, 3, 3), (1, 2, 3)])
def test_channel_scores_equal_the_loop_over_all_pairs(counts: tuple[int, ...]) -> None:
    text = texts(5)
    x = np.random.default_rng(1).normal(size=(sum(counts), 5))
    owner = np.repeat([0, 1, 2], counts)
    samples = [[text[c], *x[owner == c]] for c in range(3)]
    products = [a * b for i, j in product(range(3), repeat=2) if i != j for a in samples[i] for b in samples[j]]
    variance = np.var(text, axis=0, ddof=1)
    expected = -0.6 * np.mean(products, axis=0) + 0.4 * variance
    examples = (torch.tensor(x), torch.tensor(owner)) if len(x) else (None, None)
    found = channel_scores(torch.tensor(text), *examples, weights=(0.6, 0.4))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_the_logits_equal_a_loop_over_examples() -> None:
    x, y = toy()
    queries, _ = toy(seed=3)
    head = APE(PRIOR, channels=3, alpha=1.5, beta=2.0, gamma=0.4, scale=20.0).fit(x, y)
    text, owner = texts(), np.repeat([0, 1, 2], 4)
    scores = channel_scores(torch.tensor(text), torch.tensor(x), torch.tensor(owner)).numpy()
    chosen = np.argsort(-scores)[:3]
    assert sorted(chosen) == head.channels_.tolist()

    def short(v: np.ndarray) -> np.ndarray:
        return v[chosen] / np.linalg.norm(v[chosen])

    expected = 20.0 * queries @ text.T
    for row, query in enumerate(queries):
        for key, c in zip(x, owner, strict=True):
            answer = np.exp([short(key) @ short(t) for t in text])
            surprise = -math.log2(answer[c] / answer.sum())
            expected[row, c] += 1.5 * math.exp(-2.0 * (1 - short(query) @ short(key))) * math.exp(0.4 * surprise)
    # The authors' 1e-6 inside the logarithm and the other classes' share of the divergence are below this.
    np.testing.assert_allclose(head.decision_function(queries), expected, rtol=1e-4)


def test_with_all_channels_and_no_weights_it_is_tip_adapter() -> None:
    x, y = toy(counts=(1, 3, 5))
    ape = APE(PRIOR, channels=1.0, alpha=2.0, beta=4.0, gamma=0.0).fit(x, y)
    tip = TipAdapter(PRIOR, alpha=2.0, beta=4.0).fit(x, y)
    np.testing.assert_allclose(ape.decision_function(x), tip.decision_function(x), atol=1e-9)
    pruned = APE(PRIOR, channels=0.5, alpha=2.0, beta=4.0, gamma=0.0).fit(x, y)
    assert np.abs(pruned.decision_function(x) - tip.decision_function(x)).max() > 0.01


def test_the_limits_of_beta() -> None:
    x, y = toy()
    flat = APE(PRIOR, alpha=3.0, beta=0.0, gamma=0.2).fit(x, y)
    weights = torch.exp(0.2 * flat.divergence_)
    each = torch.stack([weights[flat.owner_ == c].sum() for c in range(3)])
    torch.testing.assert_close(flat.terms(x)["cache"], (3.0 * each).expand(12, 3))
    sharp = APE(PRIOR, alpha=3.0, beta=1e6, gamma=0.2).fit(x, y)
    own = torch.zeros(12, 3, dtype=torch.float64)
    own[torch.arange(12), sharp.owner_] = 3.0 * weights
    torch.testing.assert_close(sharp.terms(x)["cache"], own)


def test_the_grid_equals_fitting_every_point() -> None:
    x, y = toy(counts=(2, 3, 4))
    held, asked = toy(seed=8)
    alphas, betas, gammas = (0.5, 4.0, 30.0), (0.2, 6.0), (0.0, 0.8)
    head = APE(PRIOR, scale=3.0, alphas=alphas, betas=betas, gammas=gammas).fit(x, y, held, asked)
    best, accuracy = None, -1.0
    seen = set()
    for beta, alpha, gamma in product(betas, alphas, gammas):
        score = APE(PRIOR, scale=3.0, alpha=alpha, beta=beta, gamma=gamma).fit(x, y).score(held, asked)
        seen.add(score)
        if score > accuracy:
            best, accuracy = (beta, alpha, gamma), score
    assert len(seen) > 1
    assert (head.beta_, head.alpha_, head.gamma_) == best
    assert head.score(held, asked) == accuracy


def test_the_tuned_head_starts_as_tip_adapter_and_trains_as_published() -> None:
    x, y = toy()
    tip = TipAdapter(PRIOR, alpha=2.0, beta=4.0).fit(x, y)
    start = APETuned(PRIOR, alpha=2.0, beta=4.0, epochs=0).fit(x, y)
    np.testing.assert_allclose(start.decision_function(x), tip.decision_function(x), atol=1e-5)
    head = APETuned(PRIOR, alpha=2.0, beta=4.0, epochs=3, lr=0.05, channels=5).fit(x, y)
    assert head.n_trainable_ == 3 * 5 + 12
    # The published update, on copies of keys and texts, with one more module than is needed.
    text, keys, owner = torch.tensor(texts()).float(), torch.tensor(x).float(), torch.arange(3).repeat_interleave(4)
    chosen = channel_scores(torch.tensor(texts()), weights=(0.2, 0.8)).topk(5).indices
    res, weight = torch.zeros(3, 5, requires_grad=True), torch.ones(12, 1, requires_grad=True)
    optimizer = torch.optim.AdamW([res, weight], lr=0.05, eps=1e-3, weight_decay=0.1)
    for step in range(4):
        new_keys, new_text = keys.clone(), text.clone()
        new_keys[:, chosen] = new_keys[:, chosen] + res.repeat_interleave(4, dim=0)
        new_text[:, chosen] = new_text[:, chosen] + res
        values = F.one_hot(owner, 3).float() * weight
        logits = 100 * keys @ new_text.T + 2.0 * (-1 * (4.0 - 4.0 * keys @ new_keys.T)).exp() @ values
        if step == 3:
            break
        optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.zero_grad()
        F.cross_entropy(logits, owner).backward()
        optimizer.step()
    np.testing.assert_allclose(head.decision_function(x), logits.detach().numpy(), atol=2e-3)
    assert np.abs(head.decision_function(x) - start.decision_function(x)).max() > 0.1


def test_the_best_epoch_is_the_end_of_a_shorter_training() -> None:
    x, y = toy()
    # Held pictures labelled by the head after its first of 40 epochs: none that follows agrees as well.
    settings = {"alphas": (1.0,), "betas": (1.0,), "lr": 0.3}
    held = toy(seed=4, counts=(30, 30, 30))[0]
    last = APETuned(PRIOR, epochs=40, keep_best=False, **settings).fit(x, y, held, np.repeat(NAMES, 30))
    watched: list[np.ndarray] = []
    for epochs in range(1, 4):
        head = APETuned(PRIOR, epochs=epochs, keep_best=False, **settings).fit(x, y)
        watched.append(head.predict(held))
    best = APETuned(PRIOR, epochs=40, **settings).fit(x, y, held, watched[0])
    assert best.score(held, watched[0]) > last.score(held, watched[0])


def test_bad_settings_are_named() -> None:
    x, y = toy()
    for head, words in [
        (APE(PRIOR, gamma=-1.0), "gamma must be at least 0, not -1.0"),
        (APE(PRIOR, channels=9), "a number from 1 to 8, not 9"),
        (APE(PRIOR, channels=-0.5), "a share in"),
        (APETuned(PRIOR, beta=-1.0), "beta must be at least 0"),
        (APETuned(PRIOR, channels=0), "a number from 1 to 8, not 0"),
    ]:
        with pytest.raises(UsageError, match=words):
            head.fit(x, y)
    with pytest.raises(UsageError, match="go together"):
        channel_scores(torch.tensor(texts()), torch.tensor(x))

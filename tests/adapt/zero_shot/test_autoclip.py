"""AutoPool of p115 (AutoCLIP, arXiv 2309.16414): weights against autograd, SciPy and limiting cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from scipy.stats import entropy

from binderclip.adapt import AutoPool, MeanPool, autoclip_scores, autoclip_weights
from binderclip.errors import UsageError


def cosines(n: int = 9, c: int = 5, k: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.05 * torch.randn(n, c, k, generator=generator, dtype=torch.float64)


def slope(sims: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """The gradient of logsumexp_c(sum_k softmax(rho)_k cos_ck) with respect to rho at 0, by autograd."""
    rho = torch.zeros(len(sims), sims.shape[-1], dtype=sims.dtype, requires_grad=True)
    scores = scale * (sims * rho.softmax(-1)[:, None]).sum(-1)
    return torch.autograd.grad(scores.logsumexp(-1).sum(), rho)[0]


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("share", [0.85, 0.4])
def test_weights_are_one_step_of_autograd_of_the_length_that_brentq_finds(scale: float, share: float) -> None:
    sims = cosines()
    want = []
    for g in slope(sims, scale).numpy():
        gap = lambda log_a, g=g: entropy(softmax(np.exp(log_a) * g), base=2) - share * 3  # noqa: E731  # log2(8) = 3
        want.append(softmax(np.exp(brentq(gap, -10, 30, xtol=1e-12)) * g))
    got = autoclip_weights(sims, share, scale=scale)
    np.testing.assert_allclose(got.numpy(), want, atol=1e-8)
    scores = np.einsum("nck,nk->nc", sims.numpy(), np.array(want))
    np.testing.assert_allclose(autoclip_scores(sims, share, scale=scale).numpy(), scores, atol=1e-9)
    assert not np.allclose(scores, sims.mean(-1))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.85, 0.999])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("gradient", ["post", "pre"])
def test_the_entropy_is_the_one_asked_for_at_any_size_of_the_cosines(share: float, size: float, gradient: str) -> None:
    sims = size * cosines(k=13)
    weights = autoclip_weights(sims, share, gradient=gradient, scale=1 / size).numpy()
    np.testing.assert_allclose(entropy(weights, axis=-1) / np.log(13), share, atol=1e-5)
    single = autoclip_weights(sims.float(), share, gradient=gradient, scale=1 / size).numpy()
    np.testing.assert_allclose(single, weights, atol=2e-3)


def test_pre_is_a_softmax_of_the_mean_similarity() -> None:
    sims = cosines()
    weights = autoclip_weights(sims, gradient="pre")
    # The logarithm of a softmax of a * m is a straight line in m.
    for w, m in zip(weights.log(), sims.mean(1), strict=True):
        assert np.corrcoef(w, m)[0, 1] == pytest.approx(1, abs=1e-9)
    assert not torch.allclose(weights, autoclip_weights(sims, scale=50.0), atol=1e-3)


def test_limits() -> None:
    sims = cosines()
    assert torch.allclose(autoclip_scores(sims, 1.0), MeanPool()(sims), atol=1e-12)
    best = slope(sims).argmax(-1)
    alone = sims.gather(-1, best[:, None, None].expand(-1, 5, 1)).squeeze(-1)
    torch.testing.assert_close(autoclip_scores(sims, 0.0), alone)
    torch.testing.assert_close(autoclip_scores(sims[..., :1], 0.5), sims[..., 0])
    # Equal descriptors cannot be told apart, whatever entropy is asked for.
    same = sims[..., :1].expand(-1, -1, 6)
    assert torch.allclose(autoclip_weights(same, 0.3), torch.full((9, 6), 1 / 6, dtype=torch.float64), atol=1e-12)
    torch.testing.assert_close(autoclip_weights(same.float() + 0.1, 0.3), torch.full((9, 6), 1 / 6))
    # Two copies of the best descriptor share the weight when less than one bit is asked for.
    twin = torch.cat([sims, alone.unsqueeze(-1)], dim=-1)
    weights = autoclip_weights(twin, 0.05)
    assert torch.allclose(weights[:, -1], torch.full((9,), 0.5, dtype=torch.float64), atol=1e-6)


def test_symmetries() -> None:
    sims = cosines()
    weights = autoclip_weights(sims)
    shifted = sims + torch.linspace(-1, 1, 9, dtype=sims.dtype)[:, None, None]
    torch.testing.assert_close(autoclip_weights(shifted), weights)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(autoclip_weights(sims[..., order]), weights[:, order])
    classes = torch.tensor([2, 0, 1, 4, 3])
    torch.testing.assert_close(autoclip_weights(sims[:, classes]), weights)
    torch.testing.assert_close(autoclip_weights(sims[3:4]), weights[3:4])


def test_missing_descriptors_are_left_out_of_gradient_and_score() -> None:
    sims = cosines()
    mask = torch.ones(5, 8, dtype=torch.bool)
    torch.testing.assert_close(autoclip_scores(sims, mask=mask), autoclip_scores(sims))
    mask[1, 5:] = mask[4, 0] = False
    filled = sims.masked_fill(~mask, 1e6)
    rho = torch.zeros(9, 8, dtype=sims.dtype, requires_grad=True)
    inside = rho.softmax(-1)[:, None] * mask
    mean = (sims * inside).sum(-1) / inside.sum(-1)
    g = torch.autograd.grad(mean.logsumexp(-1).sum(), rho)[0]
    weights = autoclip_weights(filled, mask=mask)
    # Weights are a softmax of a multiple of the gradient: logarithms are proportional to it.
    for w, line in zip(weights.log(), g, strict=True):
        assert np.corrcoef(w, line)[0, 1] == pytest.approx(1, abs=1e-9)
    want = (sims * mask * weights[:, None]).sum(-1) / (weights[:, None] * mask).sum(-1)
    torch.testing.assert_close(autoclip_scores(filled, mask=mask), want)


def test_gradients_pass_at_fixed_weights() -> None:
    sims = cosines(2, 3, 4).requires_grad_()
    pool = AutoPool(entropy=0.6)
    grad = torch.autograd.grad(pool(sims, scale=3.0)[:, 1].sum(), sims)[0]
    torch.testing.assert_close(grad[:, 1], 3 * pool.weights(sims.detach()))
    assert not grad[:, 0].any()


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match=r"entropy is a share .* not 1.5"):
        autoclip_scores(cosines(), 1.5)
    with pytest.raises(UsageError, match="'post' or 'pre'"):
        AutoPool(gradient="both")(cosines())
    with pytest.raises(UsageError, match=r"mask \(C, K\), not \(9, 5, 8\) and \(8, 5\)"):
        autoclip_scores(cosines(), mask=torch.ones(8, 5, dtype=torch.bool))

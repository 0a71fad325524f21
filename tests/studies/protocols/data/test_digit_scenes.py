"""Pictures of four digits: the denoiser of captions against the gradient of its density, written out."""

from __future__ import annotations

import torch
from torch import Tensor

from binderclip.studies.protocols.data.digit_scenes import CELL, ScenesDenoiser, apart, digits, scenes, together


def test_the_noise_and_the_attention_are_those_of_the_density() -> None:
    """eps = -s grad log p(x_t | word), p a mean over the cell that the word is about of products over cells."""
    images, labels = digits()
    denoiser = ScenesDenoiser(images[:600], labels[:600]).double()
    word, t = 3, torch.tensor([80, 300, 700])
    x = torch.randn(3, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    abar = denoiser.schedule.alphas_cumprod[t]
    root, s = abar.sqrt(), (1 - abar).sqrt()
    parts = []
    for label in range(10):
        rows = images[:600][labels[:600] == label].double()
        covariance = rows.T.cov(correction=0) + 0.01 * torch.eye(64, dtype=torch.float64)
        mean, scatter = root[:, None] * rows.mean(0), abar[:, None, None] * covariance
        noisy = scatter + s.square()[:, None, None] * torch.eye(64, dtype=torch.float64)
        normal = torch.distributions.MultivariateNormal(mean[:, None], noisy[:, None])
        parts.append(normal.log_prob(apart(x)))  # [3, 4]
    each = torch.stack(parts, -1)
    whatever = each.logsumexp(-1) - torch.tensor(10.0).log()  # log p(cell)
    about = torch.stack([each[:, k, word] + whatever.sum(1) - whatever[:, k] for k in range(4)], 1)
    (gradient,) = torch.autograd.grad(about.logsumexp(1).sum(), x)
    with torch.no_grad():
        eps = denoiser(x, t, (word,))
        # The parts are kept in the pictures' float32.
        torch.testing.assert_close(eps, -s[:, None, None, None] * gradient, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(denoiser.attention(x, t, word), about.softmax(1), atol=1e-3, rtol=1e-3)
        two = denoiser(torch.cat([x, x]), t.repeat(2), (word, 5))  # blocks of one condition each
        torch.testing.assert_close(two[:3], eps)
        torch.testing.assert_close(two[3:], denoiser(x, t, (5,)))


def test_one_digit_of_the_source_stands_among_three_unlike_the_target() -> None:
    images, labels = digits()
    denoiser = ScenesDenoiser(images, labels)
    x, true = scenes(denoiser, images, labels, (5, 9), 6, torch.Generator().manual_seed(0))
    distances = torch.cdist(denoiser.mean[9][None], denoiser.mean)[0]
    near = {label for label in range(10) if label != 5 and int((distances > distances[label]).sum()) >= 4}
    for picture, cell in zip(apart(x), true.tolist(), strict=True):
        for place, row in enumerate(picture):
            matches: Tensor = (images == row).all(1)
            kinds = set(labels[matches].tolist())
            assert (5 in kinds) == (place == cell)
            assert place == cell or not kinds & near
    assert torch.equal(together(apart(x)), x)
    assert torch.equal(x[0].flatten()[CELL == 2], apart(x)[0, 2])

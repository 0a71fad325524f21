"""p057 (arXiv 2207.07874): MACL against its definition with constants in the place of detached factors."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import AlignmentScale, ContrastiveLoss, LogitScale, Pair, SameKey, info_nce, macl
from binderclip.losses.contrastive.blockwise import reweighted


def by_definition(logits_of, cosine, tau0, alpha, a0):
    """Equations 7 and 9 on the whole matrix: tau and V are numbers, so nothing flows through them."""
    tau = tau0 * (1 + alpha * (float(cosine.diagonal().mean()) - a0))
    total = 0.0
    for logits in (logits_of(tau), logits_of(tau).T):
        p = logits.softmax(1).diagonal()
        v = (1 / (1 - p)).detach()
        total = total + (-v * p.log()).mean() / 2
    return total, tau


@pytest.mark.parametrize("chunk", [5, 100])
@pytest.mark.parametrize(("tau0", "alpha", "a0"), [(0.1, 0.5, 0.0), (0.3, 1.0, 0.2), (0.2, 0.0, 0.5)])
def test_value_and_gradients_follow_the_definition(features, chunk, tau0, alpha, a0):
    image, text = features()
    output = macl(tau0=tau0, alpha=alpha, a0=a0, chunk=chunk)(image, text)
    cosine = F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
    expected, tau = by_definition(lambda t: cosine / t, cosine, tau0, alpha, a0)
    assert float(output.total) == pytest.approx(float(expected), rel=1e-6)
    assert float(output.metrics["scale"]) == pytest.approx(1 / tau, rel=1e-6)
    mine, theirs = (torch.autograd.grad(value, [image, text]) for value in (output.total, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("chunk", [5, 100])
def test_the_pull_on_each_positive_is_one_over_tau(chunk):
    generator = torch.Generator().manual_seed(0)
    # an orthonormal basis of images: cosines with texts are the texts' own coordinates
    image = torch.eye(9, dtype=torch.float64)
    text = F.normalize(image + 0.3 * torch.randn(9, 9, generator=generator, dtype=torch.float64), dim=1)
    text.requires_grad_()
    loss = ContrastiveLoss(
        (Pair(symmetric=False),),
        similarity="inner",
        scales=LogitScale(5.0),
        link="reweighted-softmax",
        chunk=chunk,
    )
    (grad,) = torch.autograd.grad(loss(image, text).total, [text])
    by_logit = grad.T  # d loss / d cosine_ij, as cosine_ij = text_j[i]
    torch.testing.assert_close(by_logit.diagonal(), torch.full((9,), -5.0 / 9, dtype=torch.float64), rtol=0, atol=1e-6)
    pushes = by_logit.masked_fill(torch.eye(9, dtype=torch.bool), 0).sum(1)
    torch.testing.assert_close(pushes, torch.full((9,), 5.0 / 9, dtype=torch.float64), rtol=0, atol=1e-6)
    # InfoNCE's pull is smaller by 1 - P
    logits = 5.0 * image @ text.detach().T
    (plain,) = torch.autograd.grad(F.cross_entropy(5.0 * image @ text.T, torch.arange(9)), [text])
    torch.testing.assert_close(
        plain.T.diagonal() / by_logit.diagonal(), 1 - logits.softmax(1).diagonal(), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("chunk", [5, 100])
def test_without_its_two_parts_it_is_info_nce(features, chunk):
    image, text = features()
    plain = macl(tau0=0.2, alpha=0.0, reweight=False, chunk=chunk)(image, text).total
    assert float(plain) == pytest.approx(float(info_nce(image, text, 5.0)), abs=1e-6)
    adapted = macl(tau0=0.2, alpha=0.5, reweight=False, chunk=chunk)(image, text)
    alignment = float(F.cosine_similarity(image, text, dim=1).mean())
    assert float(adapted.total) == pytest.approx(float(info_nce(image, text, 5 / (1 + 0.5 * alignment))), abs=1e-6)


def test_one_negative_has_a_closed_form():
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    text = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    d = (0.8 - 0.6) / 0.5
    expected = (1 + math.exp(d)) * math.log(1 + math.exp(-d))
    assert float(macl(tau0=0.5, alpha=0.0)(image, text).total) == pytest.approx(expected, abs=1e-6)


def test_a_row_that_is_won_by_far_is_worth_one():
    far = torch.tensor([50.0, 200.0, 1e30], dtype=torch.float32, requires_grad=True)
    assert reweighted(far).tolist() == [1.0, 1.0, 1.0]
    near = torch.tensor([29.9999, 30.0001], dtype=torch.float64)
    assert float(reweighted(near).diff()) == pytest.approx(0.0, abs=1e-12)
    low = torch.tensor([-60.0], dtype=torch.float64)
    assert float(reweighted(low)) == pytest.approx(60.0, abs=1e-9)


@pytest.mark.parametrize("chunk", [3, 100])
def test_identical_pairs_in_float32_stay_finite(chunk):
    image = torch.eye(8).requires_grad_()
    output = macl(tau0=0.01, alpha=0.0, chunk=chunk)(image, image.detach())
    assert float(output.total) == pytest.approx(1.0)
    output.backward()
    assert bool(image.grad.isfinite().all())


@pytest.mark.parametrize("chunk", [2, 100])
def test_a_row_without_negatives_stays_finite(chunk):
    image = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = macl(targets=SameKey("ignore"), chunk=chunk)
    output = loss(image, image.detach().flip(1), keys=["a", "a", "a", "a"])
    assert float(output.total) == pytest.approx(1.0)
    output.backward()
    assert bool(image.grad.isfinite().all())


def test_two_views_have_every_other_view_as_a_negative(features):
    one, other = features(rows=7)
    loss = macl(pairs=(Pair("image", "view", same_view_negatives=True),), chunk=4)
    both = F.normalize(torch.cat([one, other]), dim=1)
    tau = 0.1 * (1 + 0.5 * float((both[:7] * both[7:]).sum(1).mean()))
    logits = (both @ both.T / tau).fill_diagonal_(-math.inf)
    p = logits.softmax(1)[torch.arange(14), torch.arange(14).roll(7)]
    expected = (-(1 / (1 - p)).detach() * p.log()).mean()
    found = loss(one, view=other).total
    assert float(found) == pytest.approx(float(expected), rel=1e-6)
    mine, theirs = (torch.autograd.grad(value, [one, other]) for value in (found, expected))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_learned_scale_gets_its_gradient_and_alignment_none(features):
    image, text = features()
    loss = macl(learnable=True, tau0=0.2).double()
    (grad,) = torch.autograd.grad(loss(image, text).total, [loss.scale.logit_scale])
    cosine = (F.normalize(image, dim=1) @ F.normalize(text, dim=1).T).detach()
    log = torch.tensor(math.log(5.0), dtype=torch.float64, requires_grad=True)
    relative = 1 + 0.5 * float(cosine.diagonal().mean())
    expected, _ = by_definition(lambda _: cosine * log.exp() / relative, cosine, 0.2, 0.5, 0.0)
    (wanted,) = torch.autograd.grad(expected, [log])
    assert float(grad) == pytest.approx(float(wanted), rel=1e-6)
    assert not AlignmentScale().relative_tau(torch.tensor(0.3, requires_grad=True)).requires_grad


def test_the_temperature_never_reaches_zero():
    scale = AlignmentScale(0.1, 1.0, 0.8)
    assert float(scale.relative_tau(torch.tensor(-0.9))) == pytest.approx(0.01)
    assert float(scale.relative_tau(torch.tensor(0.8))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: macl(tau0=0.0), "tau0 must be above 0"),
        (lambda: macl(alpha=1.5), "must lie in"),
        (lambda: macl(a0=-0.1), "must lie in"),
        (lambda: macl()(torch.ones(1, 3), torch.ones(1, 3)), "at least 2"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(errors.UsageError, match=message):
        make()

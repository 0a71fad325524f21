"""TextSpan (p085, arXiv 2310.05916) against the N x M algorithm written out, principal components, and limits."""

from __future__ import annotations

import pytest
import torch

from binderclip.data.moments import Moments
from binderclip.errors import UsageError
from binderclip.explain import Span, TextSpan


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def written_out(outputs: torch.Tensor, texts: torch.Tensor, k: int, rank: int) -> tuple[list[int], list[float]]:
    """The card's steps, with N x M products; the residual variance after each."""
    directions = torch.linalg.svd(outputs, full_matrices=False)[2][:rank]
    texts = texts @ directions.T @ directions
    left = outputs - outputs.mean(0)
    whole = left.square().sum()
    chosen, explained = [], []
    for _ in range(k):
        best = int((left @ texts.T).std(0).argmax())
        direction = texts[best].clone()
        length = direction @ direction
        left = left - torch.outer(left @ direction / length, direction)
        texts = texts - torch.outer(texts @ direction / length, direction)
        chosen.append(best)
        explained.append(float(1 - left.square().sum() / whole))
    return chosen, explained


@pytest.mark.parametrize(("rank", "shift"), [(16, 0.0), (7, 3.0), (80, 1.0)])
def test_the_covariance_form_chooses_what_the_written_out_algorithm_chooses(rank: int, shift: float) -> None:
    outputs = random(200, 16) * torch.linspace(2, 0.3, 16, dtype=torch.float64) + shift
    texts = random(120, 16, seed=1)
    chosen, explained = written_out(outputs, texts, 6, rank)
    found = TextSpan(6, rank)(outputs, texts)
    assert list(found.index) == chosen
    torch.testing.assert_close(found.explained, torch.tensor(explained, dtype=torch.float64))
    moments = Moments(16).update(outputs[:90]).update(outputs[90:])
    assert TextSpan(6, rank)(moments, texts).index == found.index


def test_an_uncentred_span_is_another_one_than_the_centred() -> None:
    """A large mean is a direction of the span, though it carries no variance."""
    outputs = 0.1 * random(100, 6)
    outputs[:, 0] += 50
    outputs[:, 1] *= 5
    texts = torch.eye(6, dtype=torch.float64)
    # Rank 1 holds the mean alone: what varies along it is next to nothing.
    assert float(TextSpan(1, 1)(outputs, texts).explained[-1]) < 0.1
    assert TextSpan(1, 2)(outputs, texts).index == (1,)


def test_with_orthonormal_texts_columns_are_picked_by_their_variance() -> None:
    outputs = random(300, 8) @ random(8, 8, seed=3)
    basis = torch.linalg.qr(random(8, 8, seed=4))[0].T
    found = TextSpan(8)(outputs, basis, [f"text {i}" for i in range(8)])
    variances = (outputs @ basis.T).var(0, correction=0)
    order = variances.argsort(descending=True)
    assert list(found.index) == order.tolist()
    assert found.texts == tuple(f"text {i}" for i in order.tolist())
    torch.testing.assert_close(found.explained, variances[order].cumsum(0) / variances.sum())
    # In the basis of the principal components the bound is reached.
    axes = torch.linalg.eigh(torch.cov(outputs.T))[1].T
    principal = TextSpan(8)(outputs, axes)
    torch.testing.assert_close(principal.explained, principal.bound)
    assert bool((found.explained <= found.bound + 1e-9).all())


def test_residuals_never_grow_and_end_at_nothing() -> None:
    outputs, texts = random(100, 10) + 2, random(40, 10, seed=5)
    found = TextSpan(30)(outputs, texts)
    assert len(found) == 10
    assert bool((found.gains >= -1e-12).all())
    torch.testing.assert_close(found.explained[-1], torch.tensor(1.0, dtype=torch.float64))
    torch.testing.assert_close(found.reconstruct(outputs), outputs)
    left = outputs - found.reconstruct(outputs, 4)
    share = 1 - left.square().sum() / (outputs - outputs.mean(0)).square().sum()
    torch.testing.assert_close(share, found.explained[3])
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(10, dtype=torch.float64))


def test_repeated_texts_and_constant_outputs_end_the_choice() -> None:
    outputs = random(50, 6)
    twice = random(1, 6, seed=7).repeat(5, 1)
    assert len(TextSpan(5)(outputs, twice)) == 1
    nothing = TextSpan(5)(torch.ones(9, 6), twice)
    assert isinstance(nothing, Span)
    assert nothing.texts == ()
    assert nothing.variance == 0


def test_a_longer_text_is_chosen_before_a_short_one_in_the_same_direction() -> None:
    outputs = random(50, 4)
    texts = torch.eye(4, dtype=torch.float64)
    texts[2] *= 10
    assert TextSpan(1)(outputs, texts).index == (2,)


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match="k=0"):
        TextSpan(0)
    with pytest.raises(UsageError, match=r"texts must be \(M, 4\)"):
        TextSpan()(random(9, 4), random(5, 3))
    with pytest.raises(UsageError, match="2 names for 5 texts"):
        TextSpan()(random(9, 4), random(5, 4), ["a", "b"])
    with pytest.raises(UsageError, match="at least two rows"):
        TextSpan()(random(1, 4), random(5, 4))
    with pytest.raises(UsageError, match="full moments"):
        TextSpan()(Moments(4, diagonal=True).update(random(9, 4)), random(5, 4))

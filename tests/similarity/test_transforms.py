"""Gap removal (p096) and whitening (p111) against NumPy, SciPy and scikit-learn, and what every transform keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import mahalanobis
from sklearn.decomposition import PCA

from binderclip.errors import UsageError
from binderclip.evaluate import (
    EmbeddingSet,
    GapRemoval,
    MeanShift,
    Whitening,
    embedding_log_likelihood,
    normality_report,
)


def cloud(count: int = 400, width: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + 3


def rotation(width: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


def test_gap_removal_centres_unit_vectors_and_makes_them_unit_again():
    x = cloud()
    removal = GapRemoval().fit(
        EmbeddingSet(x, "image"), EmbeddingSet(-2 * x, "text"), EmbeddingSet(x + 1, "text", "query")
    )
    unit = (x / x.norm(dim=1, keepdim=True)).numpy()
    centred = unit - unit.mean(0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(removal.transform(x, "image").numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(removal.transform(-2 * x, "text").numpy(), -expected, atol=1e-12)
    assert removal.counts == {("image", "document"): 400, ("text", "document"): 400, ("text", "query"): 400}
    with pytest.raises(UsageError, match="cannot be undone"):
        removal.inverse(x, "image")


def test_documents_of_both_sides_are_mixed_with_the_mixed_mean():
    text, image = cloud(seed=1), cloud(seed=2)
    removal = GapRemoval().fit(EmbeddingSet(text, "text"), EmbeddingSet(image, "image"))
    found = removal.mixed(text[:5], image[:5], 0.3).numpy()
    t, i = ((p / p.norm(dim=1, keepdim=True)).numpy() for p in (text, image))
    raw = 0.3 * t[:5] + 0.7 * i[:5] - (0.3 * t.mean(0) + 0.7 * i.mean(0))
    np.testing.assert_allclose(found, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-12)
    torch.testing.assert_close(removal.mixed(text, image, 1.0), removal.transform(text, "text"))
    torch.testing.assert_close(removal.mixed(text, image, 0.0), removal.transform(image, "image"))
    each = torch.linspace(0, 1, len(text))
    rows = [removal.mixed(text[k : k + 1], image[k : k + 1], float(each[k])) for k in range(len(text))]
    torch.testing.assert_close(removal.mixed(text, image, each), torch.cat(rows))
    with pytest.raises(UsageError, match=r"share must be in \[0, 1\]"):
        removal.mixed(text, image, each + 0.5)


@pytest.mark.parametrize("make", [GapRemoval, MeanShift, Whitening])
def test_scores_do_not_depend_on_the_axes_and_state_can_be_saved(make):
    x, turn = cloud(), rotation()
    one, other = make().fit(EmbeddingSet(x, "image")), make().fit(EmbeddingSet(x @ turn, "image"))
    a, b = one.transform(x, "image"), other.transform(x @ turn, "image")
    torch.testing.assert_close(a @ a.T, b @ b.T)
    again = make()
    again.load_state_dict(one.state_dict())
    torch.testing.assert_close(again.transform(x, "image"), a)
    assert one.transform(x.float(), "image").dtype == torch.float32


def test_mean_shift_can_be_undone():
    x = cloud()
    shift = MeanShift(0.4).fit(EmbeddingSet(x, "image"))
    torch.testing.assert_close(shift.transform(x, "image"), x - 0.4 * x.mean(0))
    torch.testing.assert_close(shift.inverse(shift.transform(x, "image"), "image"), x)


def test_whitened_vectors_are_those_of_pca_and_their_lengths_mahalanobis_distances():
    x = cloud()
    whitening = Whitening().fit(EmbeddingSet(x, "image"))
    y = whitening.transform(x, "image")
    np.testing.assert_allclose(np.cov(y.numpy().T), np.eye(6), atol=1e-8)
    np.testing.assert_allclose(y.mean(0).numpy(), 0, atol=1e-8)
    peer = PCA(whiten=True).fit_transform(x.numpy())
    signs = np.sign((peer * y.numpy()).sum(0))
    np.testing.assert_allclose(y.numpy() * signs, peer, atol=1e-8)
    covariance = np.cov(x.numpy().T)
    inverse = np.linalg.inv(covariance)
    distances = [mahalanobis(row, x.numpy().mean(0), inverse) for row in x[:20].numpy()]
    np.testing.assert_allclose(y[:20].norm(dim=1).numpy(), distances, rtol=1e-8)
    peer = stats.multivariate_normal(x.numpy().mean(0), covariance).logpdf(x.numpy())
    peer = peer + 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(whitening.log_likelihood(x, "image").numpy(), peer, rtol=1e-8)
    torch.testing.assert_close(whitening.inverse(y, "image"), x)
    assert whitening.condition("image") == pytest.approx(np.linalg.cond(covariance), rel=1e-6)


def test_a_feature_that_repeats_another_is_dropped_replaced_or_ridged():
    x = cloud()
    doubled = torch.cat([x, x[:, :1] + 1e-3 * cloud(seed=5)[:, :1], 1e-3 * cloud(seed=6)[:, :1] - x[:, 1:2]], 1)
    data = EmbeddingSet(doubled, "image")
    dropped = Whitening().fit(data)
    assert dropped.transform(doubled, "image").shape == (400, 7)  # the mirrored one is no positive correlation
    with pytest.raises(UsageError, match="cannot be given back"):
        dropped.inverse(dropped.transform(doubled, "image"), "image")
    for choice in ("noise", "keep"):
        exact = torch.cat([x, x[:, :1]], 1)
        if choice == "keep":
            with pytest.raises(UsageError, match="is singular"):
                Whitening(redundant="keep").fit(EmbeddingSet(exact, "image"))
        else:
            noisy = Whitening(redundant="noise").fit(EmbeddingSet(exact, "image"))
            assert noisy.transform(exact, "image").shape == (400, 7)
            again = Whitening(redundant="noise").fit(EmbeddingSet(exact, "image"))
            torch.testing.assert_close(again.transform(exact, "image"), noisy.transform(exact, "image"))
    ridged = Whitening(redundant="ridge").fit(EmbeddingSet(torch.cat([x, x[:, :1]], 1), "image"))
    y = ridged.transform(torch.cat([x, x[:, :1]], 1), "image")
    assert float(y.var(0).min()) < 0.5
    torch.testing.assert_close(ridged.inverse(y, "image")[:, :6], x)


def test_of_gaussian_data_the_squared_length_is_chi_squared_and_the_report_says_normal():
    known, new = cloud(20_000, seed=3), cloud(20_000, seed=3)[10_000:]
    y = Whitening().fit(EmbeddingSet(known[:10_000], "image")).transform(new, "image")
    assert stats.kstest(y.square().sum(1).numpy(), stats.chi2(6).cdf).pvalue > 0.01
    report = normality_report(y)
    assert report.anderson >= 0.8
    assert report.pearson >= 0.8
    assert report.norm_mean == pytest.approx(stats.chi(6).mean(), rel=0.02)
    assert report.expected == pytest.approx(stats.chi(6).mean(), rel=1e-9)
    assert report.square == pytest.approx(1, abs=0.03)
    assert report.correlation < 0.03
    flat = normality_report(torch.rand(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5)
    assert flat.anderson == flat.pearson == 0
    torch.testing.assert_close(
        embedding_log_likelihood(y[:4]), torch.tensor(stats.norm.logpdf(y[:4].numpy()).sum(1)), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: EmbeddingSet(torch.zeros(0, 3), "image"), r"must be \(n, d\)"),
        (lambda: EmbeddingSet(torch.tensor([[1.0], [float("nan")]]), "image"), "embedding 1 is not finite"),
        (lambda: GapRemoval().transform(cloud(), "image"), "is not fitted"),
        (lambda: GapRemoval().fit(), "one set for each"),
        (lambda: GapRemoval().fit(cloud(), EmbeddingSet(cloud(), "a")), "must say its modality"),
        (lambda: GapRemoval().fit(EmbeddingSet(cloud(), "a"), EmbeddingSet(cloud(), "a")), "one set for each"),
        (lambda: GapRemoval().fit(EmbeddingSet(cloud(), "a"), EmbeddingSet(cloud(width=5), "b")), "have one width"),
        (
            lambda: GapRemoval().fit(EmbeddingSet(cloud(), "a")).transform(cloud(), "b"),
            "fitted on a document, not on b",
        ),
        (lambda: GapRemoval().fit(EmbeddingSet(cloud(), "a")).transform(cloud(width=5), "a"), r"must be \(n, 6\)"),
        (lambda: Whitening().fit(EmbeddingSet(cloud(11), "a")), "are too few"),
        (lambda: Whitening(redundant="other"), "redundant must be"),
        (lambda: Whitening(threshold=0), "threshold must be"),
        (lambda: normality_report(cloud(10)), "too few"),
    ],
)
def test_what_cannot_be_is_refused(act, said: str):
    with pytest.raises(UsageError, match=said):
        act()


def test_few_vectors_by_wish():
    x = cloud(9)
    y = Whitening(force=True).fit(EmbeddingSet(x, "image")).transform(x, "image")
    # In the sample the mean squared length is (n - 1) / n times the number of dimensions.
    assert float(y.square().sum(1).mean()) == pytest.approx(6 * 8 / 9)


def test_embeddings_of_a_subspace_are_whitened_in_it():
    x = cloud(width=4) @ torch.randn(4, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    whitening = Whitening(threshold=1.0).fit(EmbeddingSet(x.float(), "image"))
    y = whitening.transform(x, "image")
    assert y.shape == (400, 4)
    np.testing.assert_allclose(np.cov(y.numpy().T), np.eye(4), atol=1e-5)
    # The lengths are those of the coordinates in the subspace, whitened.
    inside = PCA(4, whiten=True).fit_transform(x.numpy())
    np.testing.assert_allclose(y.norm(dim=1).numpy(), np.linalg.norm(inside, axis=1), rtol=1e-4)
    torch.testing.assert_close(whitening.inverse(y, "image"), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transform", [GapRemoval(), MeanShift(), Whitening(), Whitening(mode="zca")])
def test_what_is_said_of_lengths_is_true(transform: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(80, 6, generator=generator) + 0.3
    transform.fit(EmbeddingSet(rows, "image"))
    longer = torch.nn.functional.normalize(transform.transform(3 * rows, "image"), dim=1)
    plain = torch.nn.functional.normalize(transform.transform(rows, "image"), dim=1)
    assert transform.reads_lengths is not torch.allclose(longer, plain, atol=1e-5)


def test_noise_ridge_and_threshold_do_what_they_say_to_the_covariance():
    x = cloud()
    exact = torch.cat([x, x[:, :1]], 1)

    def covariance(**settings: Any) -> np.ndarray:
        backward = Whitening(**settings).fit(EmbeddingSet(exact, "image")).fitted("image")["backward"]
        return (backward.T @ backward).numpy()

    own = np.cov(exact.numpy().T)
    np.testing.assert_allclose(
        covariance(redundant="ridge", eps=0.2) - own, 0.2 * np.diag(own).mean() * np.eye(7), atol=1e-8
    )
    noisy, other = (covariance(redundant="noise", seed=seed) for seed in (0, 1))
    np.testing.assert_allclose(noisy[:6, :6], own[:6, :6], atol=1e-8)
    # The variance of 400 numbers of standard deviation 0.1: 0.01, give or take four of its own deviations.
    assert noisy[6, 6] == pytest.approx(0.01, abs=4 * 0.01 * (2 / 400) ** 0.5)
    assert abs(noisy[6, 6] - other[6, 6]) > 1e-6
    generator = torch.Generator().manual_seed(2)
    parts = torch.randn(4000, 3, generator=generator, dtype=torch.float64)
    pair = torch.stack([parts[:, 0], 0.7 * parts[:, 0] + 0.51**0.5 * parts[:, 1], parts[:, 2]], 1)  # correlation 0.7
    for threshold, left in ((0.6, 2), (0.8, 3)):
        fitted = Whitening(threshold=threshold).fit(EmbeddingSet(pair, "image"))
        assert fitted.transform(pair, "image").shape[1] == left

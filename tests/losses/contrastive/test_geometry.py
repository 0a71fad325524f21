"""p153 (arXiv 2409.13079): geometries against SciPy, closed forms and limits, and every one through the same loss."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import cdist
from torch.nn import functional as F

from binderclip import errors
from binderclip.losses import (
    SIMILARITIES,
    ArcLength,
    ContrastiveLoss,
    Cosine,
    Euclidean,
    Inner,
    LogitScale,
    Lorentz,
    LorentzInner,
    Similarity,
    SquaredEuclidean,
    SquaredLorentz,
    contrastive_step,
)

ROWS = torch.arange(23)


def pairwise(geometry: Similarity, image, text):
    return geometry(geometry.embed(image, "image"), geometry.embed(text, "text"))


def minkowski(x, c):
    """Point of the hyperboloid by the exponential map at its origin, written with NumPy's functions."""
    x = x.numpy()
    length = (x**2).sum(1, keepdims=True) ** 0.5
    import numpy as np

    return np.sinh(c**0.5 * length) / (c**0.5 * length) * x


@pytest.mark.parametrize(
    ("geometry", "metric", "sign", "shift"),
    [
        (Cosine(), "cosine", -1.0, 1.0),
        (Euclidean(1.0), "euclidean", -1.0, 0.0),
        (SquaredEuclidean(1.0), "sqeuclidean", -1.0, 0.0),
    ],
)
def test_similarities_are_scipys_distances(features, geometry, metric, sign, shift):
    image, text = (x.detach() for x in features())
    expected = torch.as_tensor(sign * cdist(image.numpy(), text.numpy(), metric) + shift)
    torch.testing.assert_close(pairwise(geometry, image, text), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        geometry.paired(geometry.embed(image), geometry.embed(text, "text")), expected.diagonal(), rtol=0, atol=1e-9
    )


def test_flat_features_are_divided_by_the_root_of_their_width(features):
    image, text = (x.detach() for x in features())
    raw = cdist(image.numpy(), text.numpy(), "sqeuclidean") / 8
    torch.testing.assert_close(pairwise(SquaredEuclidean(), image, text), torch.as_tensor(-raw), rtol=0, atol=1e-9)
    torch.testing.assert_close(pairwise(Inner(None), image, text), image @ text.T / 8, rtol=0, atol=1e-12)
    torch.testing.assert_close(pairwise(Inner(), image, text), image @ text.T, rtol=0, atol=1e-12)


def test_the_arc_is_the_angle(features):
    image, text = (x.detach() for x in features())
    expected = -torch.arccos(F.normalize(image, dim=1) @ F.normalize(text, dim=1).T)
    torch.testing.assert_close(pairwise(ArcLength(), image, text), expected, rtol=0, atol=1e-9)
    quarter = pairwise(ArcLength(), torch.eye(2), torch.eye(2))
    assert float(quarter[0, 1]) == pytest.approx(-math.pi / 2, abs=1e-6)
    assert float(quarter[0, 0]) == pytest.approx(0.0, abs=2e-3)


@pytest.mark.parametrize("c", [0.3, 1.0, 4.0])
def test_lorentz_geometries_follow_their_definition(features, c):
    image, text = (x.detach() for x in features())
    scale = 8**-0.5
    x, y = minkowski(image * scale, c), minkowski(text * scale, c)
    x_time, y_time = (((1 / c) + (p**2).sum(1)) ** 0.5 for p in (x, y))
    inner = torch.as_tensor(x @ y.T - x_time[:, None] * y_time[None])
    distance = torch.arccosh(-c * inner) / math.sqrt(c)
    for geometry, expected in (
        (Lorentz(c), -distance),
        (SquaredLorentz(c), -(distance**2)),
        (LorentzInner(c), inner),
    ):
        torch.testing.assert_close(pairwise(geometry.double(), image, text), expected, rtol=1e-6, atol=1e-6)


def test_distances_on_the_hyperboloid_are_distances():
    points = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = -pairwise(Lorentz(2.0).double(), points, points).detach()
    torch.testing.assert_close(distances, distances.T, rtol=0, atol=1e-6)
    assert float(distances.diagonal().abs().max()) < 1e-6
    through = (distances[:, :, None] + distances[None]).amin(1)
    assert bool((distances <= through + 1e-6).all())


def test_a_tangent_vector_is_as_long_as_the_distance_to_its_point():
    for c in (0.5, 1.0, 3.0):
        tangent = torch.tensor([[3.0, 0.0, -4.0, 0.0]], dtype=torch.float64)
        origin = torch.zeros(1, 4, dtype=torch.float64)
        found = -pairwise(Lorentz(c).double(), tangent, origin)
        # the scale of a modality starts at 1 / sqrt(4)
        assert float(found) == pytest.approx(2.5, rel=1e-5)


def test_without_curvature_the_hyperboloid_is_flat(features):
    image, text = (x.detach() for x in features())
    flat = pairwise(SquaredEuclidean(), image, text)
    gaps = []
    for c in (1e-2, 1e-3, 1e-4):
        gaps.append(float((pairwise(SquaredLorentz(c).double(), image, text) - flat).abs().max().detach()))
    assert gaps[2] < 1e-2
    assert gaps[0] / gaps[1] == pytest.approx(10.0, rel=0.1)  # first order in c
    assert gaps[1] / gaps[2] == pytest.approx(10.0, rel=0.1)


def test_on_unit_vectors_squared_distances_are_cosines_at_twice_the_scale(features):
    image, text = (F.normalize(x.detach(), dim=1) for x in features())
    squared = ContrastiveLoss(similarity=SquaredEuclidean(1.0), scales=LogitScale(5.0))(image, text).total
    cosine = ContrastiveLoss(scales=LogitScale(10.0))(image, text).total
    assert float(squared) == pytest.approx(float(cosine), abs=1e-6)


def test_rows_of_images_do_not_see_how_long_the_image_is(features):
    image, text = (x.detach() for x in features())
    torch.testing.assert_close(
        pairwise(SquaredEuclidean(), image, text).softmax(1),
        (2 * image @ text.T / 8 - text.square().sum(1) / 8).softmax(1),
        rtol=0,
        atol=1e-9,
    )


def dense(geometry, image, text, scale):
    logits = scale * pairwise(geometry, image, text)
    return (F.cross_entropy(logits, ROWS) + F.cross_entropy(logits.T, ROWS)) / 2


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("chunk", [5, 100])
def test_the_loss_in_blocks_is_cross_entropy_on_the_whole_matrix(features, name, chunk):
    image, text = features()
    loss = ContrastiveLoss(similarity=name, scales=LogitScale(3.0), chunk=chunk).double()
    value = loss(image, text).total
    inputs = [image, text, *loss.similarity.parameters()]
    expected = dense(loss.similarity, image, text, 3.0)
    assert float(value) == pytest.approx(float(expected), abs=1e-6)
    mine, theirs = (torch.autograd.grad(each, inputs, allow_unused=True) for each in (value, expected))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
        assert one.abs().sum() > 0


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("link", ["softmax", "sigmoid", "reweighted-softmax"])
def test_blocks_equal_the_dense_way_in_value_gradients_and_metrics(features, name, link):
    image, text = features(noise=2.0)
    found = []
    for chunk in (5, 100):
        loss = ContrastiveLoss(similarity=name, link=link, scales=LogitScale(2.0, bias=-1.0), chunk=chunk).double()
        output = loss(image, text)
        wanted = [
            image,
            text,
            *(p for p in loss.parameters() if link == "sigmoid" or p.ndim or p is not loss.scale.logit_bias),
        ]
        grads = torch.autograd.grad(output.total, wanted)
        found.append((output.total, *output.metrics.values(), *grads))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_metrics_are_means_over_the_whole_matrix(features, name):
    image, text = features(noise=2.0)
    loss = ContrastiveLoss(similarity=name, chunk=5).double()
    metrics = loss(image, text).metrics
    similar = pairwise(loss.similarity, image, text).detach()
    assert float(metrics["similarity_positive"]) == pytest.approx(float(similar.diagonal().mean()), abs=1e-8)
    others = similar[~torch.eye(23, dtype=torch.bool)]
    assert float(metrics["similarity_negative"]) == pytest.approx(float(others.mean()), abs=1e-8)
    assert float(metrics["accuracy_a_to_b"]) == pytest.approx(float((similar.argmax(1) == ROWS).double().mean()))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_gradients_of_the_geometry_by_finite_differences(features, name):
    image, text = features(rows=5, width=3)
    loss = ContrastiveLoss(similarity=name, chunk=2, scales=LogitScale(2.0)).double()
    parameters = list(loss.similarity.parameters())
    value = loss(image, text).total
    grads = torch.autograd.grad(value, parameters) if parameters else ()
    for parameter, grad in zip(parameters, grads, strict=True):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                parameter.add_(step)
                ends.append(float(loss(image, text).total))
                parameter.sub_(step)
        assert float(grad) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y).total, (image, text))


@pytest.mark.parametrize("name", SIMILARITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parallel_equal_and_zero_features_give_finite_gradients(name, dtype):
    image = torch.ones(6, 4, dtype=dtype)
    image[3] = 0
    image.requires_grad_()
    text = image.detach().clone().requires_grad_()
    for chunk in (2, 100):
        image.grad = text.grad = None
        loss = ContrastiveLoss(similarity=name, chunk=chunk)
        loss(image, text).backward()
        for found in (image.grad, text.grad, *(p.grad for p in loss.parameters())):
            assert bool(found.isfinite().all())


def test_very_long_features_do_not_overflow_the_hyperboloid():
    image = (1e4 * torch.randn(8, 6, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = ContrastiveLoss(similarity="lorentz")
    loss(image, image.detach().flip(1)).backward()
    assert bool(image.grad.isfinite().all())


def test_curvature_stays_within_a_factor_of_ten_and_can_come_back():
    geometry = Lorentz(2.0)
    with torch.no_grad():
        geometry.log_curvature.fill_(9.0)
    assert float(geometry.curvature()) == pytest.approx(20.0, rel=1e-5)
    (down,) = torch.autograd.grad(geometry.curvature(), [geometry.log_curvature])
    (up,) = torch.autograd.grad(-geometry.curvature(), [geometry.log_curvature])
    assert float(down) > 0
    assert float(up) == 0
    with torch.no_grad():
        geometry.log_curvature.fill_(-9.0)
    assert float(geometry.curvature()) == pytest.approx(0.2, rel=1e-5)
    (up,) = torch.autograd.grad(-geometry.curvature(), [geometry.log_curvature])
    assert float(up) < 0


def test_gradcache_reaches_the_parameters_of_the_geometry(features):
    image, text = (x.detach() for x in features())
    tower = torch.nn.Linear(8, 6).double()
    found = []
    for micro in (4, None):
        loss = ContrastiveLoss(similarity="lorentz", chunk=6).double()
        tower.zero_grad()
        contrastive_step({"image": tower, "text": tower}, {"image": image, "text": text}, loss, micro)
        found.append([p.grad.clone() for p in (*loss.parameters(), *tower.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Euclidean(0.0), "scale must be positive"),
        (lambda: Lorentz(-1.0), "curvature must be positive"),
        (lambda: SquaredLorentz(math.inf), "curvature must be positive"),
    ],
)
def test_wrong_settings(make, message):
    with pytest.raises(errors.UsageError, match=message):
        make()

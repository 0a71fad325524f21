"""p153's and MERU's entailment cones: angles where they are known, and the term in the loss."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip import errors
from binderclip.losses import (
    ContrastiveLoss,
    Cosine,
    EntailmentCone,
    Inner,
    Lorentz,
    SquaredEuclidean,
    euclip,
    meru,
)


def rows(*points):
    return torch.tensor(points, dtype=torch.float64)


@pytest.mark.parametrize(
    ("image", "angle"),
    [((4.0, 0.0), 0.0), ((0.0, 0.0), math.pi), ((2.0, 5.0), math.pi / 2), ((3.0, 1.0), math.pi / 4)],
)
def test_euclidean_angles_at_the_apex(image, angle):
    found, half = SquaredEuclidean(1.0).cone_angles(rows((2.0, 0.0)), rows(image), 0.1)
    assert float(found) == pytest.approx(angle, abs=1e-6)
    assert float(half) == pytest.approx(math.asin(0.05), abs=1e-9)


def test_near_the_origin_the_cone_is_a_half_space():
    _, half = Inner().cone_angles(rows((0.05, 0.0)), rows((1.0, 0.0)), 0.1)
    assert float(half) == pytest.approx(math.pi / 2, abs=1e-6)


@pytest.mark.parametrize("c", [0.5, 1.0, 2.0])
def test_hyperbolic_angles_on_a_geodesic_through_the_origin(c):
    geometry = Lorentz(c).double()
    apex, further, origin = (geometry.embed(rows((x, 0.0)), "image") for x in (1.0, 3.0, 0.0))
    along, half = geometry.cone_angles(apex, further, 0.1)
    back, _ = geometry.cone_angles(apex, origin, 0.1)
    assert float(along) == pytest.approx(0.0, abs=1e-3)
    assert float(back) == pytest.approx(math.pi, abs=1e-3)
    # the scale of a modality starts at 1 / sqrt(2), and sqrt(c) |x_s| is sinh(sqrt(c) times the distance)
    assert float(half) == pytest.approx(math.asin(0.2 / math.sinh(math.sqrt(c / 2))), rel=1e-6)


def test_hyperbolic_angle_by_the_law_of_cosines():
    c = 1.3
    geometry = Lorentz(c).double()
    x, y = (geometry.embed(rows(p), "image") for p in ((0.9, 0.4), (1.5, -0.7)))
    origin = torch.zeros_like(x)
    a, b, side = (math.sqrt(c) * -float(geometry.paired(p, q)) for p, q in ((x, origin), (x, y), (y, origin)))
    at_x = math.acos((math.cosh(a) * math.cosh(b) - math.cosh(side)) / (math.sinh(a) * math.sinh(b)))
    found, _ = geometry.cone_angles(x, y, 0.1)
    assert float(found) == pytest.approx(math.pi - at_x, abs=1e-6)


def test_flat_cones_are_those_of_a_weakly_curved_space():
    flat, bent = SquaredEuclidean(1.0), Lorentz(1e-6).double()
    apex, point = rows((0.8, 0.3)), rows((1.1, -0.2))
    one, _ = flat.cone_angles(apex, point, 0.1)
    other, _ = bent.cone_angles(apex, point, 0.1)
    assert float(one) == pytest.approx(float(other), abs=1e-4)


@pytest.mark.parametrize("make", [euclip, meru])
@pytest.mark.parametrize("chunk", [5, 100])
def test_the_term_is_the_mean_violation(features, make, chunk):
    image, text = features()
    loss = make(entailment=0.2, radius=0.3, chunk=chunk).double()
    output = loss(image, text)
    geometry = loss.similarity
    angle, half = geometry.cone_angles(geometry.embed(text, "text"), geometry.embed(image, "image"), 0.3)
    assert float(output.terms["entailment"]) == pytest.approx(0.2 * float((angle - half).relu().mean()), abs=1e-9)
    assert output.terms["entailment"] > 0
    assert float(output.total) == pytest.approx(float(sum(output.terms.values())), abs=1e-9)


def test_minimising_it_puts_images_outside_of_their_texts():
    torch.manual_seed(0)
    image, text = (torch.randn(40, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = ContrastiveLoss((), similarity="squared-euclidean", terms=[EntailmentCone(1.0)])
    optimizer = torch.optim.Adam([image, text], lr=0.05)
    first = float(loss(image, text).total)
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(image, text).total
        value.backward()
        optimizer.step()
    assert float(value) < 0.05 * first
    assert float(text.norm(dim=1).mean()) < float(image.norm(dim=1).mean())


def test_presets_are_the_papers(features):
    image, text = features()
    assert set(euclip()(image, text).terms) == {"contrastive"}
    assert float(euclip().scale.value) == pytest.approx(1.0)
    assert float(euclip(entailment=0.1).scale.value) == pytest.approx(math.exp(-1))
    loss = meru()
    (term,) = loss.terms
    assert (term.weight, term.radius) == (0.2, 0.1)
    assert float(loss.scale.value) == pytest.approx(1 / 0.07)
    assert not any(p.requires_grad for p in meru(learnable=False).parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EntailmentCone(radius=0.0), "radius must be positive"),
        (lambda: euclip(entailment=-0.1), "weight of entailment"),
        (lambda: ContrastiveLoss((), terms=[EntailmentCone()])(torch.ones(2, 3), torch.ones(2, 3)), "no entailment"),
        (lambda: Cosine().cone_angles(torch.ones(1, 2), torch.ones(1, 2), 0.1), "Cosine has no entailment cones"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(errors.UsageError, match=message):
        call()


def test_which_side_is_the_apex_is_the_callers(features):
    image, text = features()

    def violation(term, one, other):
        loss = ContrastiveLoss((), similarity="squared-euclidean", terms=[term])
        return float(loss(one, other).total.detach())

    assert violation(EntailmentCone(1.0, apex="image", point="text"), image, text) == pytest.approx(
        violation(EntailmentCone(1.0), text, image), abs=1e-12
    )
    assert violation(EntailmentCone(1.0), image, text) != pytest.approx(violation(EntailmentCone(1.0), text, image))

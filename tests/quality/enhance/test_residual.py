"""The residual vector of RAVE (p050, arXiv 2404.01889): nearest centroids, closed forms, projections, mistakes."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestCentroid
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import ResidualVector


def sets(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shift = torch.zeros(6)
    shift[0] = 1.0
    return tuple(torch.randn(40, 6, generator=generator) + sign * shift for sign in (1, -1))  # type: ignore[return-value]


def test_the_side_of_the_direction_is_the_nearer_centroid() -> None:
    bright, dark = sets()
    residual = ResidualVector.between(bright, dark)
    means = [F.normalize(F.normalize(x, dim=1).mean(0), dim=0) for x in (bright, dark)]
    rule = NearestCentroid().fit(torch.stack(means).numpy(), [1, 0])
    x = F.normalize(torch.randn(200, 6, generator=torch.Generator().manual_seed(5)), dim=1)
    middle = (means[0] + means[1]) @ residual.direction / 2
    assert (rule.predict(x.numpy()) == (x @ residual.direction > middle).numpy()).all()
    assert float(residual.theta) == pytest.approx(float(means[0] @ residual.direction), abs=1e-6)
    assert float(residual.along(means[0])) == pytest.approx(0, abs=1e-6)
    turned = ResidualVector.between(dark, bright)
    assert torch.allclose(turned.direction, -residual.direction, atol=1e-6)
    assert float(turned.theta) == pytest.approx(float(means[1] @ turned.direction), abs=1e-6)


def test_the_loss_is_a_squared_distance_that_brighter_than_bright_raises_again() -> None:
    residual = ResidualVector.between(*sets())
    r, theta = residual.direction.double(), float(residual.theta)
    across = torch.zeros(6).double()
    across[1] = 1.0
    across = F.normalize(across - r * (r @ across), dim=0)

    def at(along: float) -> Tensor:
        return (along * r + float(1 - along**2) ** 0.5 * across).float()[None]

    for along in (theta - 0.3, theta, (1 + theta) / 2):
        assert float(residual.loss(at(along))) == pytest.approx(1920 * (along - theta) ** 2, abs=1e-3)
    x = (1.7 * at(0.1)).double().requires_grad_(True)
    residual.double()
    residual.loss(x).backward()
    unit, length = F.normalize(x.detach()[0], dim=0), x.detach()[0].norm()
    slope = 1920 * 2 * (unit @ r - theta) * (r - unit * (unit @ r)) / length  # on the tangent of the sphere
    assert torch.allclose(x.grad[0], slope, rtol=1e-3, atol=1e-2)  # type: ignore[index]


def test_words_are_ranked_by_cosine_and_content_is_projected_away(vit: ImageTextModel) -> None:
    generator = torch.Generator().manual_seed(1)
    bright, dark = torch.randn(5, 24, generator=generator), torch.randn(5, 24, generator=generator)
    residual = ResidualVector.between(bright, dark)
    words = ["cat", "dog", "tree", "lamp", "night", "sun"]
    ranked = residual.words(vit, words)
    with torch.no_grad():
        texts = vit.encode_text(words).float()
        for word, found in ranked:
            wanted = F.cosine_similarity(texts[words.index(word)], residual.direction, dim=0)
            assert found == pytest.approx(float(wanted), abs=1e-5)
    assert [c for _, c in ranked] == sorted((c for _, c in ranked), reverse=True)
    # By hand: the mean of texts times cosines, of the two highest and the two lowest words.
    cosine = dict(ranked)
    order = [word for word, _ in ranked]

    def end(chosen: list[str]) -> Tensor:
        return F.normalize(torch.stack([cosine[w] * texts[words.index(w)] for w in chosen]).mean(0), dim=0)

    away = F.normalize(end(order[:2]) + end(order[-2:]), dim=0)
    left = residual.without(texts, n=2)
    assert float(left.direction @ away) == pytest.approx(0, abs=1e-5)
    wanted = F.normalize(residual.direction - away * (away @ residual.direction), dim=0)
    assert torch.allclose(left.direction, wanted, atol=1e-5)
    assert float(left.theta) == pytest.approx(float(residual.mean @ left.direction), abs=1e-6)


def test_mistakes_are_named() -> None:
    same = torch.eye(3)
    with pytest.raises(DataError, match="same mean"):
        ResidualVector.between(same, same)
    with pytest.raises(UsageError, match="0 well-lit and 3 backlit pictures"):
        ResidualVector.between(same[:0], same)
    residual = ResidualVector.between(*sets())
    with pytest.raises(UsageError, match="asks for at least 4 texts, got 3"):
        residual.without(torch.rand(3, 6), n=2)

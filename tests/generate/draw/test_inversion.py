"""Inversion of embeddings (p059, arXiv 2505.23161): targets by SciPy, means of embeddings by hand, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor
from torch.nn import functional as F

from binderclip import load
from binderclip.errors import UsageError
from binderclip.generate import (
    CLIPInversion,
    ColourShear,
    ImageOptimisation,
    ImplicitImage,
    InversionTarget,
    MeanEmbeddingDistance,
    clip_prompt,
)
from binderclip.models import ImageTextModel


@pytest.fixture(scope="module")
def model(tiny_clip: Any) -> ImageTextModel:
    return load(tiny_clip(1))


def rows(count: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def inversion(model: ImageTextModel, count: int = 40, **settings: Any) -> CLIPInversion:
    return CLIPInversion(model, rows(count, model.embed_dim, 0), rows(count, model.embed_dim, 1), **settings)


def test_the_target_is_the_prompt_turned_as_its_neighbours_and_their_mean(model: ImageTextModel) -> None:
    width = model.embed_dim
    bank = inversion(model, 3 * width, neighbours=2 * width, rho=0.0, temperature=0.2)
    query = rows(1, width, 2)[0]
    target = bank.target(3 * query)  # length does not matter
    similar = (rows(3 * width, width, 0) @ query).double().numpy()
    nearest = np.argsort(-similar)[: 2 * width]
    texts, images = (rows(3 * width, width, seed).double().numpy()[nearest] for seed in (0, 1))
    rotation, _ = orthogonal_procrustes(texts, images)
    turned = query.double().numpy() @ rotation
    np.testing.assert_allclose(target.embedding.numpy(), turned / np.linalg.norm(turned), atol=1e-4)
    weights = np.exp(similar[nearest] / 0.2)
    mean = weights @ images
    np.testing.assert_allclose(target.blend.numpy(), mean / np.linalg.norm(mean), atol=1e-5)
    assert target.neighbours == nearest.tolist()


def test_a_bank_turned_by_one_rotation_takes_the_prompt_through_it(model: ImageTextModel) -> None:
    width = model.embed_dim
    rotation = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(3))).Q
    texts = rows(2 * width, width, 0)
    bank = CLIPInversion(model, texts, texts @ rotation.T, neighbours=2 * width, rho=0.0)
    query = rows(1, width, 4)[0]
    torch.testing.assert_close(bank.target(query).embedding, rotation @ query, rtol=0, atol=1e-4)
    plain = CLIPInversion(model, texts, texts @ rotation.T, align=False).target(query)
    torch.testing.assert_close(plain.embedding, query)


def test_embeddings_are_averaged_and_not_distances(model: ImageTextModel) -> None:
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    targets = rows(2, model.embed_dim, 5)
    with torch.no_grad():
        features = model.encode_image(images).double()
        value = float(MeanEmbeddingDistance(model, targets, (1.0, 0.2))(images))
    unit = features / features.norm(dim=1, keepdim=True)
    mean = unit.mean(0) / unit.mean(0).norm()
    cosines = (targets.double() @ mean).tolist()
    assert value == pytest.approx((1 - cosines[0]) + 0.2 * (1 - cosines[1]), abs=1e-5)
    of_distances = float((1 - unit @ targets[0].double()).mean() + 0.2 * (1 - unit @ targets[1].double()).mean())
    assert abs(value - of_distances) > 1e-6


def test_one_view_no_rotation_and_no_blend_is_plain_inversion(model: ImageTextModel) -> None:
    query = rows(1, model.embed_dim, 6)[0]
    param = ImplicitImage((32, 32), width=8, lr=1e-2)
    bank = inversion(model, align=False, blend=0.0, transforms=None)
    before = param().detach()
    run = bank.run(query, param, steps=4)
    plain = ImageOptimisation(
        ImplicitImage((32, 32), width=8, lr=1e-2), {"distance": clip_prompt(model, query, distance="cosine")}
    ).run(4)
    torch.testing.assert_close(run.image, plain.image, rtol=0, atol=1e-4)
    assert run.history["loss"] == pytest.approx(1 + plain.history["loss"], abs=1e-4)
    assert run.history["loss"][-1] < run.history["loss"][0]
    assert torch.equal(param(), before), "the start is copied"


def test_it_takes_words_and_targets_of_ones_own(model: ImageTextModel) -> None:
    bank, param = inversion(model), ImplicitImage((32, 32), width=8)
    words = bank.run("a red house", param, steps=1)
    assert torch.equal(words.image, bank.run(bank.target("a red house"), param, steps=1).image)
    features = model.encode_image(torch.rand(1, 3, 32, 32))[0].detach()
    own = InversionTarget(F.normalize(features, dim=0), F.normalize(features, dim=0), [])
    assert bank.run(own, param, steps=1).image.shape == (1, 3, 32, 32)


def test_views_change_colours_size_and_shear() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(1)
    still = ColourShear(3, colour=0.0, scale=(1.0, 1.0), shear=0.0)(image, g)
    torch.testing.assert_close(still, image.expand(3, -1, -1, -1), rtol=0, atol=1e-5)
    grey = ColourShear(200, colour=0.3, scale=(1.0, 1.0), shear=0.0)(torch.full((1, 3, 4, 4), 0.5), g)
    assert float((grey - 0.5).abs().max()) == pytest.approx(0.3, abs=0.01)
    assert bool((grey == grey[..., :1, :1]).all())
    # At half the size a view is the picture's middle, twice as large: of a ramp half of the range is left.
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    middle = ColourShear(1, colour=0.0, scale=(0.5, 0.5), shear=0.0)(ramp, g)
    assert float(middle.max() - middle.min()) == pytest.approx(0.5, abs=0.02)
    slanted = ColourShear(20, colour=0.0, scale=(1.0, 1.0), shear=0.3, fill=0.0)(ramp, g)
    slope = slanted[:, 0, 40, 32] - slanted[:, 0, 24, 32]  # x moves with y
    assert 0.02 < float(slope.abs().max()) < 0.3 * 16 / 64 + 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"texts": torch.ones(3, 2)}, "pairs of features"),
        ({"images": torch.ones(3, 2)}, "pairs of features"),
        ({"neighbours": 0}, "neighbours"),
        ({"rho": -1.0}, "rho"),
        ({"blend": float("nan")}, "blend"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_refusals(model: ImageTextModel, settings: dict[str, Any], message: str) -> None:
    parts = {"texts": rows(4, model.embed_dim, 0), "images": rows(4, model.embed_dim, 1)}
    with pytest.raises(UsageError, match=message):
        CLIPInversion(model, **{**parts, **settings})
    for prompt in ("", "  ", torch.ones(3), torch.zeros(model.embed_dim), torch.full((model.embed_dim,), float("inf"))):
        with pytest.raises(UsageError, match="prompt"):
            inversion(model).target(prompt)
    for arguments in ({"count": 0}, {"colour": 2.0}, {"scale": (1.0, 0.5)}, {"shear": -1.0}, {"fill": float("nan")}):
        with pytest.raises(UsageError):
            ColourShear(**arguments)  # type: ignore[arg-type]

"""Transforms in front of a similarity, kept in a file, and behind a whole model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.similarity import (
    TRANSFORMS,
    EmbeddingSet,
    GapRemoval,
    Lorentz,
    MeanShift,
    SquaredEuclidean,
    Transformed,
    Whitening,
    load_transform,
    save_transform,
    transform_named,
)

WIDTH = 5


def clouds(count: int = 200) -> tuple[EmbeddingSet, EmbeddingSet, EmbeddingSet]:
    generator = torch.Generator().manual_seed(4)
    mix = torch.randn(2, WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    rows = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    image, text = rows @ mix[0] + 3, rows @ mix[1] - 2
    return EmbeddingSet(image, "image"), EmbeddingSet(text, "text"), EmbeddingSet(text + 1, "text", "query")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_similarities_are_those_of_mapped_embeddings(name: str) -> None:
    image, text, query = clouds()
    transform = transform_named(name).fit(image, text, query)
    for base in (None, SquaredEuclidean(1.0)):
        similarity = Transformed(transform, base)
        found = similarity(similarity.embed(image.features), similarity.embed(query.features, "query"))
        a = transform.transform(image.features, "image").numpy()
        b = transform.transform(query.features, "text", "query").numpy()
        if base is None:
            a, b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (a, b))
            expected = a @ b.T
        else:
            expected = -((a[:, None] - b[None]) ** 2).sum(-1)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
        diagonal = similarity.paired(similarity.embed(image.features), similarity.embed(query.features, "query"))
        np.testing.assert_allclose(diagonal.numpy(), np.diag(expected), atol=1e-8)


def test_texts_that_ask_are_texts_where_no_queries_were_fitted() -> None:
    image, text, _ = clouds()
    similarity = Transformed(GapRemoval().fit(image, text))
    torch.testing.assert_close(similarity.embed(text.features, "query"), similarity.embed(text.features, "text"))


def test_zca_whitens_to_the_nearest_of_all_whitened_clouds_and_back() -> None:
    """Of all maps to covariance 1, ZCA moves the embeddings least: any further rotation moves them more."""
    image, text, _ = clouds()
    zca = Whitening(mode="zca", redundant="keep").fit(image, text)
    y = zca.transform(image.features, "image")
    np.testing.assert_allclose(np.cov(y.numpy().T), np.eye(WIDTH), atol=1e-8)
    torch.testing.assert_close(zca.inverse(y, "image"), image.features)
    centred = image.features - image.features.mean(0)
    moved = float((centred - y).square().sum())
    for seed in range(20):
        turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)).double()).Q
        assert float((centred - y @ turn).square().sum()) > moved
    pca = Whitening(redundant="keep").fit(image, text)
    for dropped in ("keep", "drop"):
        own = Whitening(mode="zca", redundant=dropped).fit(image, text)
        torch.testing.assert_close(
            own.log_likelihood(image.features, "image"), pca.log_likelihood(image.features, "image")
        )


def test_zca_keeps_the_width_of_a_subspace() -> None:
    """A doubled feature is 0 afterwards, a flat direction stays flat, and both modalities have one width."""
    image, text, _ = clouds()
    doubled = torch.cat([image.features, image.features[:, :1]], 1)
    other = torch.cat([text.features[:, :1], text.features], 1)
    zca = Whitening(mode="zca").fit(EmbeddingSet(doubled, "image"), EmbeddingSet(other, "text"))
    y, z = zca.transform(doubled, "image"), zca.transform(other, "text")
    assert y.shape[1] == z.shape[1] == WIDTH + 1
    assert float(y[:, -1].abs().max()) == 0.0
    assert float(z[:, 1].abs().max()) == 0.0
    alone = Whitening(mode="zca", redundant="keep").fit(image, text)
    torch.testing.assert_close(y[:, :-1], alone.transform(image.features, "image"))
    torch.testing.assert_close(zca.log_likelihood(doubled, "image"), alone.log_likelihood(image.features, "image"))


def test_gradients_pass_through_and_are_those_of_finite_differences() -> None:
    image, text, _ = clouds()
    similarity = Transformed(GapRemoval().fit(image, text))
    rows = image.features[:3].clone().requires_grad_()
    points = similarity.embed(text.features[:2], "text")
    assert torch.autograd.gradcheck(lambda x: similarity(similarity.embed(x), points), (rows,))


def test_documents_of_both_sides_lie_between_their_mapped_sides() -> None:
    image, text, _ = clouds()
    shift = MeanShift().fit(image, text)
    a, b = (shift.transform(part.features, part.modality).numpy() for part in (text, image))
    a, b = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (a, b))
    both = 0.25 * a + 0.75 * b
    found = shift.mixed(text.features, image.features, 0.25)
    np.testing.assert_allclose(found.numpy(), both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-9)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_file_keeps_the_transform(name: str, tmp_path: Path) -> None:
    image, text, query = clouds()
    transform = transform_named(name).fit(image, text, query)
    again = load_transform(save_transform(transform, tmp_path / "map.safetensors"))
    assert type(again) is type(transform)
    assert again.settings() == transform.settings()
    assert again.counts == transform.counts
    assert again.width == WIDTH
    assert Transformed(again).signature() == Transformed(transform).signature()
    assert Transformed(again).signature() != Transformed(again, Lorentz()).signature()
    other = transform_named(name).fit(EmbeddingSet(image.features + 1, "image"), text, query)
    assert Transformed(other).signature() != Transformed(again).signature()


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    image, text, _ = clouds()
    with pytest.raises(UsageError, match="mode='zca'"):
        Transformed(Whitening().fit(image, text))
    with pytest.raises(UsageError, match="not on text document"):
        Transformed(GapRemoval().fit(image))
    with pytest.raises(UsageError, match="not fitted"):
        Transformed(GapRemoval())
    with pytest.raises(UsageError, match="one of gap-removal"):
        transform_named("gap")
    with pytest.raises(UsageError, match="mode must be one of pca, zca"):
        Whitening(mode="svd")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can be kept, not GapRemoval"):
        save_transform(GapRemoval(), tmp_path / "a")
    for content in (b"", b"nothing"):
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(CheckpointError, match="holds no transform"):
            load_transform(tmp_path / "a")
    save_file({"image/document/mean": torch.zeros(3)}, tmp_path / "b", metadata={"binderclip": '{"kind": "Other"}'})
    for path in (tmp_path / "b", tmp_path / "c"):
        with pytest.raises(CheckpointError, match="holds no transform"):
            load_transform(path)

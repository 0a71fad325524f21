"""Models that were trained in another geometry than the cosine: kept on disk, and compared as their loss does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.evaluate import retrieval, zero_shot_accuracy
from binderclip.losses import SIMILARITIES, ContrastiveLoss, LogitScale, Lorentz, Similarity, siglip
from binderclip.models import ImageTextModel, load
from binderclip.similarity import EmbeddingSet, GapRemoval, frozen_similarity

OTHERS = [name for name in SIMILARITIES if name != "cosine"]


def learned(name: str, seed: int = 0) -> Similarity:
    """A geometry whose parameters are none of its initial ones."""
    geometry = SIMILARITIES[name]()
    generator = torch.Generator().manual_seed(seed)
    for parameter in geometry.parameters():
        parameter.data += 0.3 * torch.randn((), generator=generator)
    return geometry


@pytest.fixture
def model(clip_folder: Path) -> ImageTextModel:
    return load(clip_folder)


def features(model: ImageTextModel) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 3, *model.preprocess.size, generator=generator)
    with torch.no_grad():
        return model.encode_image(image), model.encode_text(["cat", "dog", "red car", "a tree"])


@pytest.mark.parametrize("kind", ["clip_folder", "hf_clip_folder"])
@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_keeps_the_geometry_and_what_it_learned(
    name: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    model = load(request.getfixturevalue(kind))
    plain = model.fingerprint
    image, text = features(model)
    model.geometry = frozen_similarity(learned(name))
    model.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert type(again.geometry) is SIMILARITIES[name]
    assert again.fingerprint == model.fingerprint != plain
    torch.testing.assert_close(again.similarity(image, text), model.similarity(image, text), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in again.geometry.parameters())
    again.geometry = None
    again.save(tmp_path / "a")
    assert load(tmp_path / "a").fingerprint == plain


@pytest.mark.parametrize("name", OTHERS)
def test_classify_and_retrieval_agree_with_the_loss(model: ImageTextModel, name: str) -> None:
    geometry = learned(name)
    loss = ContrastiveLoss(similarity=geometry, scales=LogitScale(10.0))
    loss.scale.take(model.backbone)
    model.geometry = frozen_similarity(geometry)
    image, text = features(model)
    with torch.no_grad():
        found = loss(image, text)
        bank = model.text_bank(["cat", "dog", "red car", "a tree"])
        logits = model.classify_features(image, bank).logits
    expected = model.scale() * model.similarity(image, text)
    torch.testing.assert_close(logits, expected.detach())
    torch.testing.assert_close(model.predictor(bank).from_features(image), expected.detach())
    rows = torch.arange(4)
    # The loss goes another way to its logits: left and right sides, factor and f in the link.
    both = (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2
    torch.testing.assert_close(both, found.total)
    hits = float((logits.argmax(1) == rows).double().mean())
    assert zero_shot_accuracy(image, bank, rows)["accuracy"] == hits
    assert retrieval(image, text, similarity=model.geometry)["image_to_text/R@1"] == hits
    assert float(found.metrics["accuracy_a_to_b"]) == pytest.approx(hits)


def test_a_bias_is_part_of_the_logits(siglip_folder: Path) -> None:
    model = load(siglip_folder)
    geometry = learned("lorentz")
    loss = siglip(similarity=geometry)
    loss.scale.take(model.backbone)
    model.geometry = frozen_similarity(geometry)
    image, text = features(model)
    with torch.no_grad():
        total = loss(image, text).total
        logits = model.classify_features(image, model.text_bank(["cat", "dog", "red car", "a tree"])).logits
    signs = 2 * torch.eye(4) - 1
    torch.testing.assert_close(-F.logsigmoid(signs * logits).sum() / 4, total)


def test_sentences_of_a_class_are_averaged_as_the_geometry_wants(model: ImageTextModel) -> None:
    image, text = features(model)
    model.geometry = frozen_similarity(learned("squared-euclidean"))
    bank = model.text_bank({"pet": ["cat", "dog"], "car": ["red car"]})
    mean = torch.stack([text[:2].mean(0), text[2]])
    expected = -torch.cdist(image.double(), mean.double()).square() / image.shape[1]
    torch.testing.assert_close(bank.similarities(image).double(), expected, rtol=1e-4, atol=1e-5)
    each = -torch.cdist(image.double(), text[:2].double()).square() / image.shape[1]
    torch.testing.assert_close(bank.similarities(image, "mean")[:, 0].double(), each.mean(1), rtol=1e-4, atol=1e-5)


def test_what_works_by_cosines_refuses_another_geometry(model: ImageTextModel) -> None:
    bank = model.text_bank(["cat", "dog"])
    assert bank.prototypes().shape == (2, model.embed_dim)
    model.need_cosines("segment")
    model.geometry = Lorentz()
    bank = model.text_bank(["cat", "dog"])
    for call in (bank.prototypes, lambda: bank.prototypes("mean-raw-unit"), lambda: bank.unit, bank.padded):
        with pytest.raises(NotSupported, match="by cosines of texts, and the model compares by Lorentz"):
            call()
    with pytest.raises(NotSupported, match=r"segment works by cosines, and .* compares by Lorentz"):
        model.need_cosines("segment")


def test_a_geometry_of_ones_own_has_no_name_to_be_kept_by(model: ImageTextModel, tmp_path: Path) -> None:
    class Own(Similarity):
        pass

    model.geometry = Own()
    with pytest.raises(NotSupported, match="Own has none"):
        model.save(tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda record: record.update(geometry="spherical"), "'spherical' is unknown: one of cosine"),
        (lambda record: record["learned"].pop("log_curvature"), "has learned"),
        (lambda record: record["learned"].update(log_curvature="high"), "high"),
        (lambda record: record["settings"].update(curvature=-1), "curvature must be positive"),
        (lambda record: record["settings"].update(radius=1), "radius"),
        (lambda record: record.update(learned=3), "'learned' in .* must be an object"),
        (lambda record: record.clear(), "geometry"),
    ],
)
def test_a_damaged_record_is_named(model: ImageTextModel, tmp_path: Path, change, said: str) -> None:
    model.geometry = Lorentz()
    path = model.save(tmp_path / "a") / "similarity.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / "a")


def test_a_model_with_a_transform_shares_its_weights_and_maps_its_features(model: ImageTextModel) -> None:
    image, text = features(model)
    removal = GapRemoval().fit(EmbeddingSet(image, "image"), EmbeddingSet(text, "text"))
    other = model.with_transform(removal)
    assert isinstance(other, ImageTextModel)
    assert other.backbone is model.backbone
    assert model.geometry is None
    assert other.fingerprint != model.fingerprint
    a, b = removal.transform(image, "image"), removal.transform(text, "text")
    torch.testing.assert_close(other.similarity(image, text), a @ b.T, rtol=0, atol=1e-5)
    logits = other.classify_features(image, other.text_bank(["cat", "dog", "red car", "a tree"])).logits
    torch.testing.assert_close(logits, model.scale().detach() * a @ b.T, rtol=0, atol=1e-4)
    plain = model.classify_features(image, model.text_bank(["cat", "dog", "red car", "a tree"])).logits
    assert not torch.allclose(plain, logits, atol=1e-2)
    with pytest.raises(UsageError, match="of width 5"):
        model.with_transform(GapRemoval().fit(EmbeddingSet(torch.eye(5), "image"), EmbeddingSet(torch.eye(5), "text")))

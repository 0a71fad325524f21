"""CLIP-IQA and CLIP-IQA+ (p012, arXiv 2207.12396): closed forms, the published prompt layout, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.models import ImageTextModel
from binderclip.quality import CLIPIQA, ENSEMBLE, METHODS, CLIPIQAPlus, create_metric


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_a_pair_is_the_sigmoid_of_the_scaled_difference_of_cosines(resnet: ImageTextModel) -> None:
    images = made(3, 3, 70, 90)
    # The feature, written out: pooling of the last map without positions.
    tower = resnet.dense_tower
    maps = tower.feature_map(resnet.preprocess.normalize(images))  # type: ignore[attr-defined]
    image = F.normalize(tower.attend(maps, positions=False), dim=-1)  # type: ignore[attr-defined]
    good, bad = resnet.encode_text(["Good photo.", "Bad photo."], normalize=True)
    metric = CLIPIQA(resnet)
    assert torch.allclose(metric(images), torch.sigmoid(float(resnet.scale()) * (image @ (good - bad))), atol=1e-6)
    assert torch.allclose(CLIPIQA(resnet, [("Bad photo.", "Good photo.")])(images), 1 - metric(images), atol=1e-6)
    assert torch.allclose(CLIPIQA(resnet, [("x", "x")])(images), torch.full((3,), 0.5))
    # The scale of the model, and one of one's own.
    assert float(metric.scale) == pytest.approx(float(resnet.scale()))
    warm = CLIPIQA(resnet, scale=100)(images)
    assert torch.allclose(warm, torch.sigmoid(100 * (image @ (good - bad))), atol=1e-5)


@torch.no_grad()
def test_by_name_it_averages_the_five_pairs_of_pyiqa(vit: ImageTextModel) -> None:
    images = made(2, 3, 48, 48)
    metric = create_metric("clipiqa", model=vit)
    assert metric.lower_better is False
    assert len(ENSEMBLE) == 5
    alone = torch.stack([CLIPIQA(vit, [pair])(images) for pair in ENSEMBLE])
    assert torch.allclose(metric(images), alone.mean(0), atol=1e-6)
    assert torch.allclose(create_metric("clipiqa", model=vit, prompts="quality")(images), CLIPIQA(vit)(images))
    assert create_metric("cmmd").lower_better is True
    assert {"clipiqa", "clipiqa+", "cmmd", "frechet"} <= set(METHODS)


def test_names_and_settings_that_are_wrong_are_named(vit: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="metric 'nonsense' is unknown: one of blind, clipiqa"):
        create_metric("nonsense")
    with pytest.raises(UsageError, match=r"'clipiqa'.*sharpest"):
        create_metric("clipiqa", model=vit, sharpest=True)
    for kind in (CLIPIQA, CLIPIQAPlus):
        with pytest.raises(UsageError, match="pairs of texts"):
            kind(vit, [("good", "average", "bad")])


def test_the_phrase_stands_in_the_middle_of_the_context(vit: ImageTextModel) -> None:
    metric = CLIPIQAPlus(vit, n_ctx=4)
    start, *_ = vit.tokenize(["Good photo."]).ids[0].tolist()
    good, photo, dots = vit.tokenize(["Good photo.."]).ids[0, 1:4].tolist()
    end = int(vit.tokenize([""]).ids[0, 1])
    ids = metric.context.ids.ids[0].tolist()
    hold = ids[1]
    # CLIP's tokenizer has one token for the phrase's full stop and the sentence's own.
    assert ids[:9] == [start, hold, hold, good, photo, dots, hold, hold, end]
    table, words = vit.text_tower.embed_tokens(metric.context.ids.ids), metric.context.words()[0]
    assert torch.allclose(words[0, 3:6], table[0, 3:6])
    assert torch.allclose(words[0, [1, 2, 6, 7]], metric.context.context[0])
    assert torch.equal(words[0, [1, 2, 6, 7]], words[1, [1, 2, 6, 7]])


@torch.no_grad()
def test_a_context_of_words_is_the_encoded_sentence(vit: ImageTextModel) -> None:
    metric = CLIPIQAPlus(vit, n_ctx=2)
    x = vit.tokenize(["x"]).ids[0, 1:2]
    vectors = vit.text_tower.embed_tokens(x[None])[0].float()
    metric.context.load(vectors.expand(1, 2, -1))
    wanted = vit.encode_text(["x Good photo.. x", "x Bad photo.. x"], normalize=True)
    # The same tokens but for the full stop that "x" would end with.
    assert torch.allclose(metric.text[0], wanted, atol=1e-5)


def test_training_lowers_the_error_by_the_context_alone(vit: ImageTextModel) -> None:
    features = F.normalize(torch.randn(500, 24, generator=torch.Generator().manual_seed(3)), dim=1)
    direction = F.normalize(torch.randn(24, generator=torch.Generator().manual_seed(4)), dim=0)
    targets = torch.sigmoid(6 * features @ direction)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    metric = CLIPIQAPlus(vit, n_ctx=4, scale=20.0)
    with pytest.raises(UsageError, match="not fitted"):
        metric.total(features)
    vit.zero_grad(set_to_none=True)
    start = metric.context.weight.detach().clone()
    result = metric.fit_features(features[:400], targets[:400], steps=80, lr=0.05, optimizer="adamw", batch_size=400)
    losses = result.history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    assert not torch.equal(metric.context.weight, start)
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vit.parameters())
    # A random direction is found again on rows that were held out.
    held = metric.total(features[400:]).detach()
    assert torch.corrcoef(torch.stack([held, targets[400:]]))[0, 1] > 0.3


def test_several_pairs_go_through_a_perceptron(vit: ImageTextModel) -> None:
    metric = CLIPIQAPlus(vit, ["quality", "sharpness"], n_ctx=2)
    features = F.normalize(torch.randn(12, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    metric.fit_features(features, torch.linspace(0, 1, 12), steps=3)
    assert metric.head is not None
    assert [tuple(p.shape) for p in metric.head.parameters() if p.ndim == 2] == [(128, 2), (128, 128), (1, 128)]
    x = metric.each(features)
    first, second, third = (part for part in metric.head if isinstance(part, torch.nn.Linear))
    for layer in (first, second):
        x = x @ layer.weight.T + layer.bias
        x = torch.where(x > 0, x, 0.1 * x)
    assert torch.allclose(metric.total(features), (x @ third.weight.T + third.bias)[:, 0], atol=1e-6)


def test_pictures_are_learned_with_their_mirrors(vit: ImageTextModel) -> None:
    images = made(4, 3, 40, 40)
    targets = [0.0, 0.3, 0.6, 1.0]
    direct, views = CLIPIQAPlus(vit, n_ctx=2), CLIPIQAPlus(vit, n_ctx=2)
    direct.fit(images, targets, steps=3, lr=0.1)
    with torch.no_grad():
        stacked = torch.stack([views.embed(images), views.embed(images.flip(-1))], 1)
    views.fit_features(stacked, targets, steps=3, lr=0.1)
    assert torch.allclose(direct.context.weight, views.context.weight, atol=1e-6)
    assert torch.allclose(direct(images), views(images), atol=1e-5)


def test_weights_are_kept_and_refused_where_they_do_not_belong(
    vit: ImageTextModel, resnet: ImageTextModel, tmp_path: Path
) -> None:
    metric = CLIPIQAPlus(vit, ["quality", ("Sharp.", "Blurry.")], n_ctx=2, scale=30.0)
    with pytest.raises(UsageError, match="nothing to save"):
        metric.save_weights(tmp_path / "w.safetensors")
    features = F.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(1)), dim=1)
    metric.fit_features(features, torch.linspace(0, 1, 6), steps=2)
    path = metric.save_weights(tmp_path / "w.safetensors")
    again = CLIPIQAPlus.from_weights(path, vit)
    assert (again.sets, again.scale, again.n_ctx) == (metric.sets, 30.0, 2)
    assert torch.equal(again.total(features), metric.total(features))
    with pytest.raises(CheckpointError, match="fitted to the model 'vit', not to 'resnet'"):
        CLIPIQAPlus.from_weights(path, resnet)
    (tmp_path / "bad").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        CLIPIQAPlus.from_weights(tmp_path / "bad", vit)


@pytest.mark.parametrize("scores", [[0.1, 0.2], [0.1, 0.2, 1.5], [0.1, 0.2, float("nan")]])
def test_opinions_that_do_not_fit_are_refused(vit: ImageTextModel, scores: list[float]) -> None:
    with pytest.raises(UsageError, match="scores must"):
        CLIPIQAPlus(vit, n_ctx=2).fit_features(torch.eye(3, 24), scores, steps=1)


@torch.no_grad()
def test_the_authors_context_is_read_from_their_checkpoint(vit: ImageTextModel, tmp_path: Path) -> None:
    context = 0.02 * made(16, 32, seed=5)
    name = "generator.clipmodel_0.prompt_learner"
    beside = {f"{name}.token_prefix": torch.zeros(2, 1, 32), f"{name}.clip_model.logit_scale": torch.zeros(())}
    torch.save({"meta": {"iter": 80000}, "state_dict": {f"{name}.ctx": context, **beside}}, tmp_path / "iter.pth")
    metric = CLIPIQAPlus.from_released(tmp_path / "iter.pth", vit)
    torch.testing.assert_close(metric.context.context[0], context)
    own = CLIPIQAPlus(vit)
    own.context.load(context[None])
    own.fitted = True
    images = made(2, 3, 48, 48)
    torch.testing.assert_close(metric(images), own(images))
    again = CLIPIQAPlus.from_weights(metric.save_weights(tmp_path / "ours.safetensors"), vit)
    assert torch.equal(again(images), metric(images))
    torch.save({"ctx": torch.zeros(2, 16, 32)}, tmp_path / "each.pth")
    with pytest.raises(CheckpointError, match="holds a context for each text"):
        CLIPIQAPlus.from_released(tmp_path / "each.pth", vit)

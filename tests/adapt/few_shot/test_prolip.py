"""ProLIP of p043 (arXiv 2410.05270): the model with its projection changed, loops, finite differences, limits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from binderclip.adapt import ProLIP, VisualProjection, affine_map, features_for, pre_projection_texts
from binderclip.errors import NotSupported, UsageError
from binderclip.models import build, load
from binderclip.models.towers import open_image_tower, open_text_tower

NAMES = ["ant", "bee", "cat"]
TINY = {
    "embed_dim": 12,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


def toy(shots: int = 4, views: int = 1) -> tuple[Tensor, np.ndarray, Tensor, tuple[Tensor, Tensor]]:
    """Pre-projection features (N, V, 6), labels, unit texts (3, 4), and a projection 6 -> 4 with a bias."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    projection, bias = draw(6, 4), 0.3 * draw(4)
    centres = draw(3, 6)
    h = centres.repeat_interleave(shots, dim=0)[:, None] + 0.8 * draw(3 * shots, views, 6)
    text = F.normalize(centres @ projection + 0.8 * draw(3, 4), dim=-1)
    return h, np.repeat(NAMES, shots), text, (projection, bias)


@pytest.fixture(scope="module")
def tiny() -> object:
    torch.manual_seed(0)
    return build(TINY, name="tiny").eval()


def test_the_matrix_of_every_kind_of_tower_is_its_projection(tiny: object) -> None:
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    text = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "max_position_embeddings": 8}
    vision = {"image_size": 16, "patch_size": 8, "hidden_size": 16, "intermediate_size": 16}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    small = load("small")
    nn.init.normal_(siglip.text_model.head.bias)
    towers = [tiny.image_tower, tiny.text_tower, small.image_tower, small.text_tower]
    towers += [open(model) for model in (clip, siglip) for open in (open_image_tower, open_text_tower)]
    for tower in towers:
        matrix, bias = affine_map(tower)
        x = torch.randn(3, tower.width)
        expected = tower.project(x)
        torch.testing.assert_close(x @ matrix + (0 if bias is None else bias), expected, atol=1e-5, rtol=1e-4)
    assert bias is not None
    with pytest.raises(NotSupported, match="odd tower is not a matrix"):
        affine_map(SimpleNamespace(affine_projection=False, kind="odd"))


def test_the_model_with_the_fitted_projection_gives_the_heads_logits(tiny: object) -> None:
    torch.manual_seed(0)
    pictures = list(torch.rand(6, 3, 16, 16))
    bank = tiny.text_bank(NAMES)
    head = ProLIP(bank, projection=tiny, lr=0.05, steps=20)
    x = features_for(head, tiny, pictures)
    head.fit(x, np.repeat(NAMES, 2))
    before = F.normalize(tiny.encode_image(torch.stack(pictures)), dim=-1) @ bank.prototypes("mean-unit").T
    projection = tiny.backbone.visual.proj
    kept = projection.detach().clone()
    with torch.no_grad():
        projection.copy_(head.projection_)
        after = F.normalize(tiny.encode_image(torch.stack(pictures)), dim=-1) @ bank.prototypes("mean-unit").T
        projection.copy_(kept)
    scale = float(tiny.scale().detach())
    np.testing.assert_allclose(head.decision_function(x), scale * after.detach().numpy(), atol=1e-3)
    assert np.abs(head.decision_function(x) - scale * before.detach().numpy()).max() > 0.1
    # Behind the model, from pixels, it is the same classifier.
    through = head.predictor(tiny)(torch.stack(pictures))
    np.testing.assert_allclose(through.detach().numpy(), head.decision_function(x), atol=1e-3)


def test_training_equals_a_loop_by_hand() -> None:
    h, y, text, (p0, bias) = toy(views=2)
    head = ProLIP(text, classes=NAMES, projection=(p0, bias), lr=0.02, steps=6).fit(h, y)
    assert head.penalty_ == pytest.approx(1 / 4)
    weight, targets = p0.clone().requires_grad_(), torch.arange(3).repeat_interleave(4)
    optimizer = torch.optim.Adam([weight], lr=0.02, eps=1e-4)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * step / 6))
        z = F.normalize(h[:, step % 2] @ weight + bias, dim=-1)
        loss = F.cross_entropy(100 * z @ text.T, targets) + 0.25 * ((weight - p0) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(head.projection_, weight.detach(), atol=1e-5, rtol=1e-4)
    assert head.n_trainable_ == 24


def test_no_step_no_rate_or_an_endless_penalty_is_zero_shot() -> None:
    h, y, text, (p0, bias) = toy()
    zero_shot = 100 * F.normalize(h[:, 0] @ p0 + bias, dim=-1) @ text.T
    for settings in ({"steps": 0}, {"lr": 0.0, "steps": 5}):
        head = ProLIP(text, classes=NAMES, projection=(p0, bias), **settings).fit(h, y)
        np.testing.assert_allclose(head.decision_function(h), zero_shot.numpy(), atol=1e-4)
    moved = []
    for penalty in (0.0, 1.0, 1e3, 1e6):
        head = ProLIP(text, classes=NAMES, projection=(p0, bias), penalty=penalty, lr=0.01).fit(h, y)
        moved.append(float((head.projection_ - p0).norm()))
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.1
    assert moved[-1] < 1e-3
    assert head.predict(h).tolist() == [NAMES[i] for i in zero_shot.argmax(dim=1)]


def test_gradients_by_finite_differences_and_the_penaltys_closed_form() -> None:
    h, _, text, (p0, bias) = toy(shots=1)
    x, targets = h[:, 0].double(), torch.arange(3)
    module = VisualProjection(p0.double(), text.double(), bias=bias.double(), scale=5.0, penalty=0.7)
    moved = (p0.double() + 0.1 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()

    def loss(weight: Tensor) -> Tensor:
        task = F.cross_entropy(module.logits_with(weight, x), targets)
        return task + module.penalty * (weight - module.start).square().sum()

    assert torch.autograd.gradcheck(loss, (moved,))
    with torch.no_grad():
        module.weight.copy_(moved)
    losses = module.losses(x, targets, targets)
    torch.testing.assert_close(losses["task"] + losses["penalty"], loss(moved))
    (gradient,) = torch.autograd.grad(losses["penalty"], module.weight)
    torch.testing.assert_close(gradient, 2 * 0.7 * (moved - p0.double()).detach())


def test_the_adapter_is_a_projection_times_its_map() -> None:
    h, y, text, (p0, _) = toy()
    adapter = VisualProjection(p0, text, side="adapter", penalty=1.0)
    change = torch.eye(4) + 0.2 * torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapter.weight.copy_(change)
    image = VisualProjection(p0 @ change, text, penalty=1.0)
    torch.testing.assert_close(adapter.logits(h[:, 0]), image.logits(h[:, 0]), atol=1e-3, rtol=1e-4)
    losses = adapter.losses(h[:, 0], torch.arange(12) % 3, torch.arange(12))
    assert losses["penalty"].item() == pytest.approx(float((change - torch.eye(4)).square().sum()))
    head = ProLIP(text, classes=NAMES, projection=p0, side="adapter", lr=0.01).fit(h, y)
    assert head.projection_.shape == (4, 4)
    assert head.score(h, y) >= ProLIP(text, classes=NAMES, projection=p0, steps=0).fit(h, y).score(h, y)


def test_the_text_side_starts_at_the_models_texts_and_trains_its_projection(tiny: object) -> None:
    torch.manual_seed(0)
    pictures = list(torch.rand(6, 3, 16, 16))
    x, y = features_for("pre_projection", tiny, pictures), np.repeat(NAMES, 2)
    texts = pre_projection_texts(tiny, NAMES)
    scale = float(tiny.scale().detach())
    start = ProLIP(texts, projection=tiny, side="text", scale=scale, steps=0).fit(x, y)
    plain = ProLIP(tiny.text_bank(NAMES), projection=tiny, scale=scale, steps=0).fit(x, y)
    np.testing.assert_allclose(start.decision_function(x), plain.decision_function(x), atol=1e-3)
    head = ProLIP(texts, projection=tiny, side="text", scale=scale, steps=1, lr=0.01, penalty=0.0).fit(x, y)
    weight = affine_map(tiny.text_tower)[0].requires_grad_()
    rows = F.normalize(torch.stack([texts[name] for name in NAMES]), dim=-1)
    z = F.normalize(x @ affine_map(tiny.image_tower)[0], dim=-1)
    loss = F.cross_entropy(scale * z @ F.normalize(rows @ weight, dim=-1).T, torch.arange(3).repeat_interleave(2))
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(head.projection_, weight.detach() - 0.01 * gradient / (gradient.abs() + 1e-4),
                               atol=1e-4, rtol=1e-3)  # fmt: skip


def test_a_grid_trains_every_pair_and_keeps_the_best() -> None:
    h, y, text, projection = toy()
    generator = torch.Generator().manual_seed(7)
    held = h + 0.8 * torch.randn(h.shape, generator=generator)
    lrs, penalties = (1e-4, 1e-2), (0.0, 10.0)
    scores = {
        (lr, penalty): ProLIP(text, classes=NAMES, projection=projection, steps=40, lr=lr, penalty=penalty)
        .fit(h, y)
        .score(held, y)
        for lr in lrs
        for penalty in penalties
    }
    head = ProLIP(text, classes=NAMES, projection=projection, steps=40, lrs=lrs, penalties=penalties)
    head.fit(h, y, held, y)
    assert (head.lr_, head.penalty_) == max(scores, key=lambda pair: scores[pair])
    assert head.score(held, y) == max(scores.values())


def test_one_step_at_test_time_equals_adamw_on_each_picture() -> None:
    h, y, text, (p0, bias) = toy()
    head = ProLIP(text, classes=NAMES, projection=(p0, bias), scale=8.0, lr=0.01, steps=20).fit(h, y)
    views = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(2))
    found = head.adapt_at_test_time(views, lr=0.05, batch_size=2)
    for picture, logits in zip(views, found, strict=True):
        weight = head.projection_.clone().requires_grad_()
        optimizer = torch.optim.AdamW([weight], lr=0.05)

        def answers(x: Tensor, weight: Tensor = weight) -> Tensor:
            return 8.0 * F.normalize(x @ weight + bias, dim=-1) @ text.T

        proba = answers(picture).softmax(dim=-1)
        sure = (-(proba * proba.log()).sum(dim=-1)).argsort()[:2]
        mean = proba[sure].mean(dim=0)
        (-(mean * mean.log()).sum()).backward()
        optimizer.step()
        torch.testing.assert_close(logits, answers(picture[:1])[0].detach(), atol=1e-3, rtol=1e-3)
    plain = torch.from_numpy(head.decision_function(views[:, 0])).float()
    assert (found - plain).abs().max() > 0.05
    torch.testing.assert_close(head.adapt_at_test_time(views, lr=0.0), plain, atol=1e-4, rtol=1e-4)


def test_bad_settings_are_named() -> None:
    h, y, text, (p0, bias) = toy()
    for settings, words in [
        ({"side": "both"}, "side must be one of image, text, adapter"),
        ({"penalty": -1.0}, "penalty must be at least 0"),
        ({"projection": p0.T}, r"projection has shape \(4, 6\) for features of size 6"),
        ({"projection": (p0, bias[:2])}, r"the bias of projection has shape \(2,\)"),
        ({"projection": torch.eye(6)}, "gives 6 features and the texts have 4"),
        ({"projection": p0, "side": "text", "text_projection": torch.eye(3)}, "text_projection has shape"),
    ]:
        with pytest.raises(UsageError, match=words):
            ProLIP(text, classes=NAMES, **{"projection": p0, **settings}).fit(h, y)
    with pytest.raises(UsageError, match="needs text_prior"):
        ProLIP(projection=p0, side="text").fit(h, y)
    with pytest.raises(NotSupported, match="with a bias cannot be trained"):
        ProLIP(text, classes=NAMES, projection=p0, side="text", text_projection=(torch.eye(4), bias)).fit(h, y)
    head = ProLIP(text, classes=NAMES, projection=p0, steps=0).fit(h, y)
    with pytest.raises(UsageError, match=r"views must have shape \(N, V, 6\)"):
        head.adapt_at_test_time(h[:, 0])
    with pytest.raises(UsageError, match=r"keep must be in \(0, 1\]"):
        head.adapt_at_test_time(h, keep=0.0)

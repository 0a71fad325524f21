"""TeCoA (p152, arXiv 2212.07016): its steps written out by hand, what it trains, and what it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.adapt import PromptedModel
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, build
from binderclip.robust import PGD, TeCoA
from binderclip.robust.defences.tecoa import TEMPLATE

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    return build(CONFIG, name="tiny").eval()


def pictures(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.arange(count) % 3


def logits(model: Any, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    return model.scale().detach() * F.normalize(model.encode_image(images), dim=1) @ texts.T


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_one_step_is_that_of_a_loop_written_out(model: ImageTextModel, norm: str) -> None:
    images, labels = pictures()
    eps, alpha, rate = 0.05, 0.02, 0.01
    recipe: dict[str, Any] = {"epochs": 1, "batch_size": 6, "warmup": 0, "lr": rate, "eps": eps, "alpha": alpha}
    found = TeCoA(**recipe, attack_steps=2, norm=norm, seed=3)(model, images, labels, NAMES)
    # The order and the start are drawn as the method draws them; everything else is the paper's formula.
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    x, y = images[order], labels[order]
    generator = torch.Generator().manual_seed(3)
    if norm == "linf":
        delta = eps * (2 * torch.rand(x.shape, generator=generator) - 1)
    else:
        noise = torch.randn(x.shape, generator=generator).flatten(1)
        length = torch.rand(6, 1, generator=generator) ** (1 / noise.shape[1])
        delta = (eps * length * noise / noise.norm(dim=1, keepdim=True)).reshape(x.shape)
    delta = delta.clamp(-x, 1 - x)
    with torch.no_grad():
        texts = model.encode_text([f"This is a photo of a {name}" for name in NAMES], normalize=True)
    for _ in range(2):
        delta = delta.detach().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(logits(model, x + delta, texts), y, reduction="sum"), delta)
        if norm == "linf":
            delta = (delta.detach() + alpha * g.sign()).clamp(-eps, eps)
        else:
            moved = delta.detach() + alpha * g / g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            delta = moved.flatten(1).renorm(2, 0, eps).reshape(x.shape)
        delta = delta.clamp(-x, 1 - x)
    twin = copy.deepcopy(model)
    F.cross_entropy(logits(twin, x + delta, texts), y).backward()
    clean = copy.deepcopy(model)
    F.cross_entropy(logits(clean, x, texts), y).backward()
    apart = 0.0
    for name, value in twin.visual.named_parameters():
        if value.grad is None:
            continue
        wanted = value.detach() - rate * value.grad
        trained = found.visual.get_parameter(name).detach()
        torch.testing.assert_close(trained, wanted, atol=2e-6, rtol=1e-4)
        other = clean.visual.get_parameter(name)
        apart = max(apart, float((trained - other.detach() + rate * other.grad).abs().max()))
    assert apart > 1e-5  # a step on clean pictures is another one


def test_towers_are_trained_alone_and_the_model_stays(model: ImageTextModel) -> None:
    images, labels = pictures()
    before = copy.deepcopy(model.state_dict())
    trained = TeCoA(epochs=2, batch_size=3, lr=0.1)(model, images, labels, NAMES)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    visual = {f"backbone.visual.{name}" for name, _ in model.visual.named_parameters()}
    changed = {name for name, value in trained.named_parameters() if not torch.equal(value, before[name])}
    assert changed
    assert changed <= visual
    assert all(
        p.requires_grad == q.requires_grad for p, q in zip(trained.parameters(), model.parameters(), strict=True)
    )
    assert not trained.training


def test_prompts_are_trained_alone(model: ImageTextModel) -> None:
    images, labels = pictures()
    prompted = PromptedModel(model, tokens=2)
    before = copy.deepcopy(prompted.state_dict())
    trained = TeCoA(epochs=1, batch_size=3, lr=1.0)(prompted, images, labels, NAMES)
    changed = {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"tokens.tokens"}
    assert all(torch.equal(value, before[name]) for name, value in prompted.state_dict().items())
    assert all(p.grad is None for p in trained.model.parameters())


def test_weights_are_mixed_on_a_straight_line(model: ImageTextModel) -> None:
    images, labels = pictures()
    recipe: dict[str, Any] = {"epochs": 1, "batch_size": 3, "lr": 0.1}
    whole = TeCoA(**recipe)(model, images, labels, NAMES)
    mixed = TeCoA(**recipe, mix=0.3)(model, images, labels, NAMES)
    for name, value in model.visual.named_parameters():
        wanted = value + 0.3 * (whole.visual.get_parameter(name) - value)
        torch.testing.assert_close(mixed.visual.get_parameter(name), wanted)
    assert any(
        not torch.equal(whole.visual.get_parameter(n), mixed.visual.get_parameter(n))
        for n, _ in model.visual.named_parameters()
    )


def test_it_withstands_more_than_plain_training(model: ImageTextModel) -> None:
    """Two kinds of pictures that a faint pattern tells apart as well as a strong one does."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(64) % 2
    way = (2 * labels - 1).float().reshape(-1, 1, 1, 1)
    images = 0.5 + 0.1 * way * torch.tensor([1.0, 0.0, -1.0]).reshape(1, 3, 1, 1)
    images = (images + 0.1 * torch.randn(64, 3, 16, 16, generator=generator)).clamp(0, 1)
    left = {}
    for steps, eps in ((0, 0.0), (3, 0.05)):
        recipe = TeCoA(eps=eps, alpha=0.025, attack_steps=steps, epochs=6, batch_size=16, lr=0.02, seed=1)
        trained = recipe(model, images, labels, NAMES[:2])
        predictor = trained.predictor(NAMES[:2], templates=TEMPLATE)
        found = PGD(predictor, eps=0.07, steps=5)(images, labels)
        left[steps] = 1 - float(found.success.float().mean())
    assert left[3] > left[0] + 0.2


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"mix": 1.5}, {"lr": 0.0}, {"eps": -1.0}, {"norm": "l1"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TeCoA(**wrong)


def test_labels_that_do_not_go_with_the_pictures_are_refused(model: ImageTextModel) -> None:
    images, labels = pictures()
    with pytest.raises(UsageError, match="do not go with"):
        TeCoA()(model, images, labels[:2], NAMES)
    with pytest.raises(UsageError, match="labels run from 0 to 2, but there are 2 classes"):
        TeCoA()(model, images, labels, NAMES[:2])

"""Learned prompts (p061, p129) against loops by hand through open_clip's own forward, and every head's promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor

from binderclip.adapt import ECO, ProGrad, PromptLearning, ZeroShotClassifier, load_head, save_head
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, PromptContext, build

NAMES = ["cat", "dog", "red apple"]
SCALE = 20.0


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    torch.manual_seed(0)
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="tiny").eval()


def toy(n: int = 4) -> tuple[Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(3, 24, generator=generator)
    x = centres.repeat_interleave(n, 0) + 0.5 * torch.randn(3 * n, 24, generator=generator)
    return F.normalize(x, dim=-1), np.repeat(NAMES, n)


class ByHand:
    """Contexts trained through open_clip's own encode_text, whose word table is intercepted."""

    def __init__(self, model: ImageTextModel, contexts: list[Tensor], unit: float) -> None:
        self.model, self.unit = model, unit
        self.contexts = [c.clone().requires_grad_() for c in contexts]
        count = contexts[0].shape[0]
        self.ids = model.tokenize([" ".join(["a"] * count + [f"{name}."]) for name in NAMES]).ids

    def rows(self) -> Tensor:
        out = []
        for context in self.contexts:

            def put(module: Any, args: Any, words: Tensor, context: Tensor = context) -> Tensor:
                count = len(context)
                middle = (context * self.unit).expand(len(words), -1, -1)
                return torch.cat([words[:, :1], middle, words[:, 1 + count :]], dim=1)

            hook = self.model.backbone.token_embedding.register_forward_hook(put)
            out.append(F.normalize(self.model.backbone.encode_text(self.ids), dim=-1))
            hook.remove()
        return torch.stack(out)

    def train(self, x: Tensor, y: Tensor, epochs: int, lr: float, gradient: Any) -> Tensor:
        velocity = [torch.zeros_like(c) for c in self.contexts]
        for epoch in range(epochs):
            rate = 1e-5 if epoch == 0 else lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
            for i, g in enumerate(gradient(self, x, y)):
                with torch.no_grad():
                    velocity[i] = 0.9 * velocity[i] + g + 5e-4 * self.contexts[i]
                    self.contexts[i] -= rate * velocity[i]
        return self.rows().detach()


def joint(hand: ByHand, x: Tensor, y: Tensor) -> Any:
    t = F.normalize(hand.rows().mean(0), dim=-1)
    return torch.autograd.grad(F.cross_entropy(SCALE * x @ t.T, y), hand.contexts)


def separate(hand: ByHand, x: Tensor, y: Tensor) -> Any:
    losses = [F.cross_entropy(SCALE * x @ t.T, y) for t in hand.rows()]
    return torch.autograd.grad(sum(losses) / len(losses), hand.contexts)


def projected(teacher: Tensor, combine: str) -> Any:
    def gradient(hand: ByHand, x: Tensor, y: Tensor) -> Any:
        logits = SCALE * x @ hand.rows()[0].T
        q = (SCALE * x @ teacher.T).softmax(-1)
        kl = (q * (q.log() - logits.log_softmax(-1))).sum(-1).mean()
        general = torch.autograd.grad(kl, hand.contexts, retain_graph=True)[0]
        task = torch.autograd.grad(F.cross_entropy(logits, y), hand.contexts)[0]
        if combine == "add":
            return [task + general]
        u = general / general.norm()
        along = float((task * u).sum())
        hand.conflicts = [*getattr(hand, "conflicts", []), along < 0]  # type: ignore[attr-defined]
        return [task - along * u if along < 0 else task]

    return gradient


def start(model: ImageTextModel, n_ctx: int, n_prompts: int, init: str | None, seed: int) -> PromptContext:
    torch.manual_seed(seed)
    return PromptContext(model, NAMES, n_ctx=n_ctx, n_prompts=n_prompts, init=init)


@pytest.mark.parametrize(
    ("position", "sentence"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_before_training_it_is_the_sentence_with_the_name_where_it_is_asked_for(
    model: ImageTextModel, position: str, sentence: str
) -> None:
    x, y = toy()
    head = PromptLearning(model, init="a photo of a", position=position, epochs=0).fit(x, y)
    expected = F.normalize(model.backbone.encode_text(model.tokenize([sentence.format(n) for n in NAMES]).ids), dim=-1)
    place = [head.classes_.tolist().index(name) for name in NAMES]
    torch.testing.assert_close(torch.as_tensor(head.coef_)[place].float(), expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("prompts", "loss"), [(1, "joint"), (3, "joint"), (3, "per-prompt")])
def test_training_is_the_loop_by_hand(model: ImageTextModel, prompts: int, loss: str) -> None:
    x, y = toy()
    options = {"n_ctx": 2, "epochs": 8, "lr": 0.05, "batch_size": 12, "scale": SCALE, "seed": 5}
    kind = PromptLearning if prompts == 1 else ECO
    head = kind(model, n_prompts=prompts, loss=loss, init=None, **options).fit(x, y)
    begin = start(model, 2, prompts, None, 5)
    hand = ByHand(model, list(begin.weight.detach()), begin.unit)
    rows = hand.train(x, torch.arange(3).repeat_interleave(4), 8, 0.05, joint if loss == "joint" else separate)
    torch.testing.assert_close(head.prompt_coef_, rows, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(head.coef_, F.normalize(rows.mean(0), dim=-1), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(head.coef_, F.normalize(begin().mean(0), dim=-1), atol=1e-2)
    cosines = torch.stack([F.cosine_similarity(rows[i], rows[j], dim=-1) for i in range(prompts) for j in range(i)] or [
        torch.ones(3)
    ])  # fmt: skip
    assert head.diversity_ == pytest.approx(1 - float(cosines.mean()), abs=1e-4)
    assert head.n_trainable_ == prompts * 2 * 32


@pytest.mark.parametrize("combine", ["project", "add"])
def test_prograd_is_the_loop_by_hand(model: ImageTextModel, combine: str) -> None:
    x, y = toy()
    teacher = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(9)), dim=-1)
    head = ProGrad(
        model, dict(zip(NAMES, teacher, strict=True)), n_ctx=3, init="a photo", combine=combine, epochs=10, lr=0.05,
        batch_size=12, scale=SCALE,
    ).fit(x, y)  # type: ignore[arg-type]  # fmt: skip
    begin = start(model, 3, 1, "a photo", 0)
    hand = ByHand(model, list(begin.weight.detach()), begin.unit)
    rows = hand.train(x, torch.arange(3).repeat_interleave(4), 10, 0.05, projected(teacher, combine))
    torch.testing.assert_close(head.coef_, rows[0], rtol=1e-3, atol=1e-4)
    if combine == "project":
        assert 0 < np.mean(hand.conflicts) <= 1  # type: ignore[attr-defined]
        assert head.conflict_rate_ == pytest.approx(np.mean(hand.conflicts))  # type: ignore[attr-defined]
    else:
        assert head.conflict_rate_ is None


def test_strength_zero_is_coop(model: ImageTextModel) -> None:
    x, y = toy()
    options = {"n_ctx": 4, "init": "a photo of a", "epochs": 4, "lr": 0.05, "batch_size": 5}
    coop = PromptLearning(model, **options).fit(x, y)
    torch.testing.assert_close(ProGrad(model, strength=0.0, **options).fit(x, y).coef_, coop.coef_)
    assert not torch.allclose(ProGrad(model, **options).fit(x, y).coef_, coop.coef_, atol=1e-3)


@pytest.mark.parametrize("kind", [PromptLearning, ProGrad, ECO])
def test_no_epoch_is_the_zero_shot_classifier(model: ImageTextModel, kind: Any) -> None:
    x, y = toy()
    shown = {"cat": "black_cat", "dog": "dog", "red apple": "apple"}
    head = kind(model, n_ctx=4, epochs=0, names=shown, init="a photo of a", **{"n_prompts": 1} if kind is ECO else {})
    head.fit(x, y)
    texts = ["a photo of a black cat.", "a photo of a dog.", "a photo of a apple."]
    expected = model.scale().item() * x.double() @ model.encode_text(texts, normalize=True).T.double().detach()
    np.testing.assert_allclose(head.decision_function(x), expected, atol=1e-4)
    new = head.classifier_for(["red car", "tree"])
    assert isinstance(new, ZeroShotClassifier)
    rows = model.encode_text(["a photo of a red car.", "a photo of a tree."], normalize=True).detach()
    np.testing.assert_allclose(new.coef_, rows, atol=1e-5)
    np.testing.assert_allclose(head.classifier_for({1: "tree"}).coef_, rows[1:], atol=1e-5)


@pytest.mark.parametrize("kind", [PromptLearning, ProGrad, ECO])
def test_it_is_an_estimator_that_can_be_saved_and_leaves_the_model_alone(
    model: ImageTextModel, kind: Any, tmp_path: Path
) -> None:
    x, y = toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    views = torch.stack([x, F.normalize(x + 0.1, dim=-1)], dim=1)
    head = kind(model, names={name: name for name in NAMES}, epochs=3, lr=0.05, batch_size=5).fit(views, y)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())
    again = clone(head)
    assert again.model is model
    np.testing.assert_array_equal(again.fit(views, y).decision_function(x), head.decision_function(x))
    exported = head.export()
    np.testing.assert_allclose(exported.decision_function(x), head.decision_function(x), atol=1e-4)
    assert exported.classes_.tolist() == NAMES
    save_head(head, tmp_path / "head", model="tiny")
    with pytest.raises(UsageError, match="works through its model"):
        load_head(tmp_path / "head")
    loaded = load_head(tmp_path / "head", model=model)
    np.testing.assert_array_equal(loaded.decision_function(x), head.decision_function(x))
    torch.testing.assert_close(loaded.classifier_for(["car"]).coef_, head.classifier_for(["car"]).coef_)


def test_equal_contexts_are_one_and_stay_equal(model: ImageTextModel) -> None:
    x, y = toy()
    options = {"n_ctx": 2, "lr": 0.05, "batch_size": 12}
    one = PromptLearning(model, init="a photo", epochs=0, **options).fit(x, y)
    three = ECO(model, n_prompts=3, init=["a photo"] * 3, epochs=0, **options).fit(x, y)
    torch.testing.assert_close(three.coef_, one.coef_)
    assert three.diversity_ == pytest.approx(0, abs=1e-6)
    trained = ECO(model, n_prompts=3, init=["a photo"] * 3, epochs=4, **options).fit(x, y)
    assert trained.diversity_ == pytest.approx(0, abs=1e-6)
    assert ECO(model, epochs=4, **options).fit(x, y).diversity_ > 1e-3


def test_a_class_of_its_own_words(model: ImageTextModel) -> None:
    x, y = toy()
    head = PromptLearning(model, class_specific=True, epochs=3, lr=0.05).fit(x, y)
    assert head.context_.shape == (1, 3, 4, 32)
    with pytest.raises(UsageError, match="class_specific=True learns words for each class"):
        head.classifier_for(["car"])


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (PromptLearning, {"names": ["cat"]}, "names has 1 texts for 3 classes"),
        (PromptLearning, {"names": {"cat": "a cat"}}, "names has no text for class 'dog'"),
        (PromptLearning, {"loss": "sum"}, "loss must be one of joint, per-prompt, got 'sum'"),
        (PromptLearning, {"n_ctx": 16}, "n_ctx=16 does not fit"),
        (ProGrad, {"combine": "mix"}, "combine must be one of project, add, got 'mix'"),
        (ProGrad, {"temperature": 0.0}, "temperature must be above 0"),
        (ProGrad, {"strength": -1.0}, "strength must be at least 0"),
        (ProGrad, {"text_prior": {"cat": np.ones(24)}}, "labels without a row in text_prior: 'dog'"),
    ],
)
def test_wrong_arguments_are_named(model: ImageTextModel, kind: Any, options: dict, words: str) -> None:
    x, y = toy()
    with pytest.raises(UsageError, match=words):
        kind(model, **options).fit(x, y)
    with pytest.raises(UsageError, match="X has 5 features and the model 24"):
        PromptLearning(model).fit(x[:, :5], y)

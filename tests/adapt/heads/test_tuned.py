"""The shared training of heads: against scikit-learn's optimum, plain torch loops, and its own promises."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from binderclip.adapt import (
    APETuned,
    CLIPAdapter,
    TaskResidual,
    TipAdapterF,
    Training,
    Tunable,
    TunedHead,
    by_epoch,
    train_tunable,
)
from binderclip.adapt.heads.base import PicturesOnlyHead
from binderclip.adapt.heads.tuned import OutOfTime, _Batches, prompt_training, stop_training_at
from binderclip.errors import UsageError


class Linear(Tunable):
    """A softmax regression with an L2 penalty as a second named loss."""

    def __init__(self, d: int, classes: int, decay: float) -> None:
        super().__init__()
        self.layer = nn.Linear(d, classes)
        self.decay = decay

    def logits(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return self.layer(x)

    def losses(self, x: Tensor, targets: Tensor, rows: Tensor) -> dict[str, Tensor]:
        penalty = self.decay * self.layer.weight.square().sum()
        return {**super().losses(x, targets, rows), "penalty": penalty}


@dataclass(kw_only=True, eq=False, repr=False)
class SoftmaxHead(PicturesOnlyHead, TunedHead):
    lr: float = 0.1
    steps: int = 300
    decay: float = 0.0
    rule: Any = None
    seed: int = 0

    weight_: Tensor = field(init=False)
    bias_: Tensor = field(init=False)

    def _module(self, views: Tensor, targets: Tensor) -> Tunable:
        return Linear(views.shape[-1], len(self.classes_), self.decay)

    def _training(self) -> Training:
        return Training(lr=self.lr, steps=self.steps, batch_size=None, optimizer="adam", rule=self.rule, seed=self.seed)

    def _adopt(self, module: Tunable) -> None:
        assert isinstance(module, Linear)
        self.weight_, self.bias_ = module.layer.weight.clone(), module.layer.bias.clone()

    def _terms(self, x: Tensor) -> dict[str, Tensor]:
        return {"linear": x @ self.weight_.to(x).T + self.bias_.to(x)}


def toy(seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1, 2], n)
    x = np.eye(3, 5)[y] + 0.5 * rng.normal(size=(3 * n, 5))
    return x / np.linalg.norm(x, axis=1, keepdims=True), y


def test_the_loop_finds_the_optimum_of_a_convex_problem() -> None:
    x, y = toy()
    # scikit-learn minimises sum of losses + |W|^2 / (2 C): the same optimum as ours for decay = 1 / (2 C N).
    reference = LogisticRegression(C=2.0, max_iter=5000, tol=1e-8).fit(x, y)
    head = SoftmaxHead(steps=1500, lr=0.05, decay=1 / (2 * 2.0 * len(x))).fit(x, y)
    np.testing.assert_allclose(head.predict_proba(x), reference.predict_proba(x), atol=2e-3)
    assert head.n_trainable_ == 18
    assert set(head.history_) >= {"loss", "loss/task", "loss/penalty"}
    np.testing.assert_allclose(head.history_["loss"], head.history_["loss/task"] + head.history_["loss/penalty"], 1e-5)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_stream_alone() -> None:
    x, y = toy()
    torch.manual_seed(5)
    first = SoftmaxHead(steps=5).fit(x, y)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(clone(first).fit(x, y).weight_, first.weight_)
    assert not torch.equal(SoftmaxHead(steps=5, seed=1).fit(x, y).weight_, first.weight_)


def test_no_step_leaves_the_module_as_it_was_built() -> None:
    x, y = toy()
    untouched = SoftmaxHead(steps=0, seed=3).fit(x, y)
    torch.manual_seed(3)
    assert torch.equal(untouched.weight_, nn.Linear(5, 3).weight)
    assert untouched.history_ == {}


def test_a_rule_sees_the_named_losses_and_sets_the_gradients() -> None:
    x, y = toy()
    seen: list[set[str]] = []

    def only_task(losses: Any, parameters: list[Tensor]) -> dict[str, Tensor]:
        named = losses()
        seen.append(set(named))
        for parameter, gradient in zip(parameters, torch.autograd.grad(named["task"], parameters), strict=True):
            parameter.grad = gradient
        return named

    ruled = SoftmaxHead(steps=20, decay=10.0, rule=only_task).fit(x, y)
    assert seen == [{"task", "penalty"}] * 20
    # The penalty was computed and ignored: the same weights as without it.
    torch.testing.assert_close(ruled.weight_, SoftmaxHead(steps=20).fit(x, y).weight_)


def test_batches_cover_every_picture_once_an_epoch_and_views_take_turns() -> None:
    batches = _Batches(10, 3, 4, seed=0)
    for epoch in range(4):
        drawn = list(batches)
        assert [len(rows) for rows, _ in drawn] == [4, 4, 2]
        assert sorted(torch.cat([rows for rows, _ in drawn]).tolist()) == list(range(10))
        assert {view for _, view in drawn} == {epoch % 3}
    whole = list(_Batches(10, 1, None, seed=0))
    assert [rows.tolist() for rows, _ in whole] == [list(range(10))]


def test_sgd_on_the_named_views_equals_a_loop_by_hand() -> None:
    torch.manual_seed(0)
    views, targets = F.normalize(torch.randn(6, 2, 4), dim=-1), torch.tensor([0, 1, 2, 0, 1, 2])
    ours, hand = Linear(4, 3, 0.0), Linear(4, 3, 0.0)
    hand.load_state_dict(ours.state_dict())
    train_tunable(ours, views, targets, Training(lr=0.5, epochs=3, batch_size=None, optimizer="sgd"))
    optimizer = torch.optim.SGD(hand.parameters(), lr=0.5)
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.5 * 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.zero_grad()
        F.cross_entropy(hand.layer(views[:, step % 2]), targets).backward()
        optimizer.step()
    torch.testing.assert_close(ours.layer.weight, hand.layer.weight)


def test_the_epoch_that_is_best_on_held_pictures_is_kept() -> None:
    torch.manual_seed(0)
    views, targets = F.normalize(torch.randn(12, 1, 4), dim=-1), torch.arange(12) % 3
    held = F.normalize(torch.randn(40, 4), dim=-1), torch.arange(40) % 3
    start = Linear(4, 3, 0.0)

    def trained(epochs: int, **settings: Any) -> Linear:
        module = Linear(4, 3, 0.0)
        module.load_state_dict(start.state_dict())
        # A constant rate, so that fewer epochs are the beginning of more.
        training = Training(lr=2.0, epochs=epochs, batch_size=5, optimizer="sgd", schedule="constant", **settings)
        train_tunable(module, views, targets, training, held)
        return module

    # What the module says after three epochs is the truth of the held pictures: no other epoch is as good.
    third = trained(3)
    held = held[0], third.logits(held[0]).argmax(dim=1)
    assert not torch.equal(trained(8).logits(held[0]).argmax(dim=1), held[1])
    torch.testing.assert_close(trained(8, keep_best=True).layer.weight, third.layer.weight)


def test_the_schedule_by_epoch_is_flat_inside_an_epoch() -> None:
    rate = by_epoch(4, warmup=1, warmup_lr=0.005)
    steps = [rate(step / 12) for step in range(12)]
    expected = [0.005, *(0.5 * (1 + math.cos(math.pi * e / 4)) for e in (1, 2, 3))]
    np.testing.assert_allclose(steps, np.repeat(expected, 3), atol=1e-6)


def test_the_prompt_learners_training_warms_up_for_an_epoch_where_there_is_a_second() -> None:
    training = prompt_training(0.002, 4, 32, 7)
    sgd = {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    assert replace(training, schedule="cosine") == Training(lr=0.002, epochs=4, batch_size=32, optimizer=sgd, seed=7)
    assert callable(training.schedule)
    rates = [0.002 * training.schedule(epoch / 4) for epoch in range(4)]
    np.testing.assert_allclose(rates, [1e-5, *(0.001 * (1 + math.cos(math.pi * e / 4)) for e in (1, 2, 3))], atol=1e-9)
    for lr, epochs in ((0.002, 1), (0.0, 4)):
        alone = prompt_training(lr, epochs, 32, 7).schedule
        assert callable(alone)
        assert alone(0.0) == 1.0


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (CLIPAdapter(), Training(lr=1e-3, epochs=200, batch_size=256, optimizer="adam")),
        (TaskResidual(seed=3), Training(lr=2e-3, epochs=100, batch_size=256, optimizer="adam", seed=3)),
        (
            TipAdapterF(batch_size=8),
            Training(
                lr=1e-3,
                epochs=20,
                batch_size=8,
                optimizer={"name": "adamw", "eps": 1e-4, "weight_decay": 0.01},
                keep_best=True,
            ),
        ),
        (
            APETuned(keep_best=False, lr=0.5, epochs=7),
            Training(lr=0.5, epochs=7, batch_size=256, optimizer={"name": "adamw", "eps": 1e-3, "weight_decay": 0.1}),
        ),
    ],
)
def test_heads_on_features_train_as_their_docstrings_say(head: Any, expected: Training) -> None:
    assert head._training() == expected


def test_a_head_without_a_prior_takes_none() -> None:
    assert sorted(SoftmaxHead().get_params()) == ["decay", "lr", "rule", "seed", "steps"]
    for name in ("text_prior", "classes", "scale"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            SoftmaxHead(**{name: None})


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (Training(lr=0.1), "epochs or steps"),
        (Training(lr=0.1, epochs=1, steps=1), "epochs or steps"),
        (Training(lr=0.1, epochs=-1), "epochs must be at least 0, not -1"),
        (Training(lr=0.1, epochs=1, batch_size=0), "batch_size must be at least 1, not 0"),
        (Training(lr=float("nan"), epochs=1), "lr must be finite, not nan"),
    ],
)
def test_bad_training_is_named(training: Training, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        train_tunable(Linear(4, 3, 0.0), torch.randn(6, 1, 4), torch.zeros(6, dtype=torch.long), training)


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameters to train"):
        train_tunable(Tunable(), torch.randn(6, 1, 4), torch.zeros(6, dtype=torch.long), Training(lr=0.1, epochs=1))


def test_training_stops_when_its_time_is_up_and_only_inside_the_block() -> None:
    x, y = toy()
    with stop_training_at(time.monotonic() - 1), pytest.raises(OutOfTime, match="stopped after 1 steps"):
        SoftmaxHead(steps=50).fit(x, y)
    with stop_training_at(time.monotonic() + 600):
        inside = SoftmaxHead(steps=5).fit(x, y)
    assert torch.equal(inside.weight_, SoftmaxHead(steps=5).fit(x, y).weight_)

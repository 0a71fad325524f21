"""SampledClassifier (p095, arXiv 2405.21070): its limits, numpy's draws, gradients of classes left out, mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.losses import LogitScale, SampledClassifier, sample_classes

CLASSES, DIM = 9, 5
FREQ = torch.tensor([90, 40, 30, 20, 10, 5, 3, 2, 1])


def made(seed: int, **options: Any) -> SampledClassifier:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    return SampledClassifier(DIM, CLASSES, **{"freq": FREQ, "generator": generator, **options})


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    return torch.randn(6, DIM, generator=torch.Generator().manual_seed(seed)), torch.tensor([1, 4, 4, 8, 1, 0])


def test_with_all_classes_it_is_the_softmax_of_scaled_cosines() -> None:
    features, labels = batch()
    loss = made(0, size=CLASSES, scale=LogitScale(7.0))
    cosines = torch.stack([F.cosine_similarity(features, row[None]) for row in loss.head], dim=1)
    assert torch.allclose(loss(features, labels).total, F.cross_entropy(7 * cosines, labels))
    assert torch.allclose(loss.logits(features), 7 * cosines, atol=1e-5)


@pytest.mark.parametrize("size", [0, 2, 4])
def test_no_more_classes_than_the_batch_has_leave_those_of_the_batch(size: int) -> None:
    features, labels = batch()
    loss = made(0, size=size)
    logits = loss.logits(features)
    here = torch.tensor([label in labels.tolist() for label in range(CLASSES)])
    inside = F.cross_entropy(logits.masked_fill(~here, -torch.inf), labels)
    output = loss(features, labels)
    assert torch.allclose(output.total, inside)
    assert float(output.metrics["classes"]) == 4


def test_places_point_at_the_labels_in_rising_classes() -> None:
    labels = torch.tensor([7, 3, 3, 5])
    for seed in range(20):
        classes, places = sample_classes(labels, CLASSES, 6, generator=torch.Generator().manual_seed(seed))
        assert len(classes) == 6
        assert bool((classes.diff() > 0).all())
        assert torch.equal(classes[places], labels)


@pytest.mark.parametrize("weight", ["linear", "sqrt", "uniform"])
def test_absent_classes_come_as_often_as_in_successive_draws_of_numpy(weight: str) -> None:
    labels, wanted, tries = torch.tensor([0, 4]), 5, 4000
    loss = made(3, size=wanted, weight=weight)
    generator = torch.Generator().manual_seed(1)
    ours, theirs, draws = np.zeros(CLASSES), np.zeros(CLASSES), np.random.default_rng(2)
    odds = {"linear": FREQ.double().numpy(), "sqrt": FREQ.double().sqrt().numpy(), "uniform": np.ones(CLASSES)}[weight]
    absent = np.array([c for c in range(CLASSES) if c not in (0, 4)])
    for _ in range(tries):
        ours[sample_classes(labels, CLASSES, wanted, loss.odds, generator)[0].numpy()] += 1
        theirs[draws.choice(absent, wanted - 2, replace=False, p=odds[absent] / odds[absent].sum())] += 1
    assert ours[[0, 4]].tolist() == [tries, tries]
    spread = np.sqrt(2 * tries * 0.25)  # of a difference of two counts, at most
    assert np.abs(ours - theirs)[absent].max() < 4 * spread


def test_classes_of_weight_zero_are_never_drawn_unless_all_are_wanted() -> None:
    weight = torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1, 0])
    classes, _ = sample_classes(torch.tensor([0]), CLASSES, 6, weight)
    assert classes.tolist() == [0, 6, 7]
    assert len(sample_classes(torch.tensor([0]), CLASSES, CLASSES, weight)[0]) == CLASSES


def test_left_out_rows_have_no_gradient_and_a_text_head_has_none_at_all() -> None:
    features, labels = batch()
    loss = made(0, size=6)
    loss(features, labels).total.backward()
    assert loss.head.grad is not None
    moved = loss.head.grad.abs().sum(1) > 0
    assert int(moved.sum()) == 6
    assert bool(moved[labels].all())
    frozen = made(0, size=6, text_weights=torch.eye(CLASSES, DIM) + 0.1)
    frozen(features.requires_grad_(), labels).total.backward()
    assert frozen.head.grad is None
    assert features.grad is not None
    assert frozen.scale.logit_scale.grad is not None


def test_draws_change_from_step_to_step_and_come_again_from_the_seed() -> None:
    features, labels = batch()

    def losses() -> list[float]:
        loss = made(5, size=6)
        return [float(loss(features, labels).total.detach()) for _ in range(4)]

    assert losses() == losses()
    assert len(set(losses())) > 1


def test_it_trains_in_the_ordinary_loop_and_saves_its_weights() -> None:
    torch.manual_seed(0)
    centres = torch.randn(CLASSES, DIM)
    labels = torch.arange(CLASSES).repeat(4)
    loss = made(1, size=4)
    map_ = torch.nn.Linear(DIM, DIM)
    module = torch.nn.ModuleList([map_, loss])
    batches = [torch.randperm(36)[:4] for _ in range(300)]
    fit(lambda rows: loss(map_(centres[labels[rows]]), labels[rows]), module, batches, steps=300, lr=3e-2)
    assert float((loss.logits(map_(centres)).argmax(1) == torch.arange(CLASSES)).float().mean()) == 1.0
    other = made(2, size=4)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.logits(centres), loss.logits(centres))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": -1}, "size from 0"),
        ({"weight": "cubic"}, "one of linear, sqrt, uniform"),
        ({"freq": None}, "needs freq"),
        ({"freq": FREQ[:3]}, r"9 finite numbers from 0, got \(3,\)"),
        ({"freq": -FREQ}, "9 finite numbers from 0"),
        ({"freq": FREQ / 0.0}, "9 finite numbers from 0"),
        ({"freq": FREQ * torch.nan}, "9 finite numbers from 0"),
        ({"text_weights": torch.zeros(CLASSES, 2)}, r"\(9, 5\) finite"),
        ({"text_weights": torch.full((CLASSES, DIM), torch.nan)}, "finite"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(0, **options)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
@pytest.mark.parametrize("size", [0, 4, CLASSES])
def test_labels_may_be_of_any_signed_type(size: int, dtype: torch.dtype) -> None:
    features, labels = batch()
    assert torch.equal(made(0, size=size)(features, labels.to(dtype)).total, made(0, size=size)(features, labels).total)


def test_weights_are_checked_when_it_is_made_and_not_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.losses import sampled_classes

    loss = made(0, size=4)

    def refuse(_: Tensor) -> bool:
        raise AssertionError("checked again")

    monkeypatch.setattr(sampled_classes, "_are_odds", refuse)
    loss(*batch())


def test_wrong_batches_are_named() -> None:
    features, labels = batch()
    loss = made(0, size=4)
    for x, y, message in [
        (features[:3], labels, "6 labels need"),
        (features[:, :2], labels, r"need features \(6, 5\)"),
        (features * torch.nan, labels, "not finite"),
        (features, labels + 3, "between 0 and 8, got 3 to 11"),
        (features, labels - 1, "got -1"),
        (features[:0], labels[:0], "a label at least"),
    ]:
        with pytest.raises(UsageError, match=message):
            loss(x, y)
    with pytest.raises(UsageError, match="finite numbers from 0"):
        sample_classes(labels, CLASSES, 4, torch.full((CLASSES,), torch.inf))

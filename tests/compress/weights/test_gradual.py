"""Pruning once and in rounds (p182, arXiv 2004.14765), against torch.nn.utils.prune and hand-written steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

from binderclip.compress import GradualPruner, OneShotPruner, SensitivityRegularizer, smallest_pruned
from binderclip.errors import UsageError
from binderclip.fit import fit


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def batches(seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(32, 6, generator=g) for _ in range(3)]
    return [(part, part[:, :3].argmax(1)) for part in x]


def train(model: nn.Module, steps: int, *callbacks, **options) -> None:
    options = {"optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 1e-3}, "lr": 0.1} | options
    fit(
        lambda b: F.cross_entropy(model(b[0]), b[1]), model, batches(), steps=steps, schedule="constant",
        callbacks=callbacks, **options,
    )  # fmt: skip


@torch.no_grad()
def loss_of(model: nn.Module) -> float:
    x, y = batches(9)[0]
    return float(F.cross_entropy(model(x), y))


def test_the_smallest_are_those_of_torchs_global_pruning() -> None:
    model, theirs = net(), net()
    weights = {name: model[int(name)].weight for name in ("0", "2", "4")}
    masks = smallest_pruned(weights, 300)
    prune.global_unstructured(
        [(theirs[int(name)], "weight") for name in weights], pruning_method=prune.L1Unstructured, amount=300
    )
    for name in weights:
        assert torch.equal(masks[name], theirs[int(name)].weight_mask.bool())


def test_once_is_torchs_pruning_with_training_before_and_after() -> None:
    model, theirs = net(), net()
    pruner = OneShotPruner(model, 0.6, at=0.5, layers=["0", "2"])
    train(model, 12, pruner)
    train(theirs, 6)
    prune.global_unstructured(
        [(theirs[0], "weight"), (theirs[2], "weight")], pruning_method=prune.L1Unstructured, amount=0.6
    )
    for name in ("0", "2"):
        assert torch.equal(pruner.masks[name], theirs[int(name)].weight_mask.bool())
    assert pruner.report().prunable == pytest.approx(0.6, abs=0.001)
    plain = pruner.finalize()
    assert plain[0].weight[~pruner.masks["0"]].eq(0).all()
    assert plain[2].weight[~pruner.masks["2"]].eq(0).all()


def test_the_regulariser_is_the_papers_step() -> None:
    model = net()
    w = model[2].weight.detach().clone()
    x, y = batches()[0]
    F.cross_entropy(model(x), y).backward()
    gradient = model[2].weight.grad.clone()
    bias = model[2].bias.detach().clone()
    SensitivityRegularizer(model, 0.01).before_step(1)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    expected = w - 0.1 * gradient - 0.01 * w * (1 - gradient.abs()).clamp(min=0)
    assert torch.allclose(model[2].weight, expected, atol=1e-7)
    assert torch.allclose(model[2].bias, bias - 0.1 * model[2].bias.grad)
    one = nn.Parameter(torch.tensor([2.0, 2.0, 2.0]))
    one.grad = torch.tensor([0.5, -1.5, 0.0])
    SensitivityRegularizer([one], 0.1).before_step(1)
    assert one.tolist() == pytest.approx([1.9, 2.0, 1.8])  # a sensitive weight is never made larger


def test_without_regulariser_and_tolerance_it_is_plain_training() -> None:
    model, plain = net(), net()
    pruner = GradualPruner(model, lambda: loss_of(model), every=1000)
    train(model, 8, pruner, SensitivityRegularizer(model, 0.0))
    train(plain, 8)
    ours = pruner.finalize().state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(ours[name], value), name


def test_a_round_removes_as_many_as_the_tolerance_bears() -> None:
    model = net()
    train(model, 30)
    pruner = GradualPruner(model, lambda: loss_of(model), every=1, tolerance=0.05, layers=["2"])
    pruner.on_start(0, 10)
    model.eval()
    before = loss_of(model)
    removed = pruner.prune()
    assert 0 < removed < 576
    assert loss_of(model) <= before * 1.05
    original = model[2].parametrizations.weight.original.detach()
    kept = pruner.masks["2"].clone()
    assert float(original[kept].abs().min()) >= float(original[~kept].abs().max())
    # one more would be too many, as the loss grows from here on
    pruner.weights["2"].mask.copy_(smallest_pruned({"2": original}, removed + 1)["2"])
    assert loss_of(model) > before * 1.05
    pruner.weights["2"].mask.copy_(kept)
    # the next round starts from the weights that are left
    pruner.prune()
    assert not (pruner.masks["2"] & ~kept).any()


def test_rounds_follow_plateaus_and_pruned_weights_stay_zero() -> None:
    model = net()
    losses = iter([3.0, 2.0, 2.5, 2.5] + [1.0] * 400)
    pruner = GradualPruner(model, lambda: next(losses), every=2, patience=2, target=0.5, layers=["2"])
    rounds, zeros = [], []

    class Watch:
        def after_step(self, step: int) -> None:
            rounds.append(pruner.rounds)
            zeros.append(float((model[2].weight == 0).float().mean()))

    train(model, 20, pruner, Watch())
    # evaluated after steps 2, 4, 6, 8: improved twice, then not for two: a round after step 8, which bears its target
    assert rounds == [0] * 7 + [1] * 13
    assert zeros[:7] == [0.0] * 7
    assert zeros[7:] == [0.5] * 13
    assert pruner.finished
    assert float((pruner.finalize()[2].weight == 0).float().mean()) == 0.5


def test_its_state_travels() -> None:
    pruner = GradualPruner(net(), lambda: 1.0, every=2)
    pruner.best, pruner.waited, pruner.rounds, pruner.finished = 0.5, 2, 3, True
    other = GradualPruner(net(), lambda: 1.0, every=2)
    other.load_state_dict(pruner.state_dict())
    assert other.state_dict() == pruner.state_dict()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: OneShotPruner(net(), 0.0),
        lambda: OneShotPruner(net(), 1.2),
        lambda: OneShotPruner(net(), float("nan")),
        lambda: OneShotPruner(net(), 0.5, at=1.0),
        lambda: GradualPruner(net(), lambda: 1.0, every=0),
        lambda: GradualPruner(net(), lambda: 1.0, every=1, tolerance=-0.1),
        lambda: GradualPruner(net(), lambda: 1.0, every=1, target=1.0),
        lambda: GradualPruner(net(), lambda: float("nan"), every=1).prune(),
        lambda: SensitivityRegularizer(net(), 2.0),
        lambda: SensitivityRegularizer([], 0.1),
        lambda: smallest_pruned({"a": torch.zeros(3)}, 4),
    ],
)
def test_settings_out_of_range_are_refused(bad) -> None:
    with pytest.raises(UsageError):
        bad()

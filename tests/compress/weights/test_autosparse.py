"""AutoSparse of p065 (arXiv 2304.06941): soft thresholds and gradients against torch's."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.compress import AutoSparse, MaskedGradient, pruned_weight
from binderclip.compress.weights.rules import Coefficients
from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.optim import schedule, sigmoid_cosine_decay


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    g = torch.Generator().manual_seed(1)
    return [(torch.randn(16, 6, generator=g), torch.randint(3, (16,), generator=g)) for _ in range(3)]


def train(model: nn.Module, sparse: AutoSparse, *callbacks) -> None:
    groups = sparse.param_groups(0.0, threshold_decay=0.2, threshold_lr_scale=20.0)
    fit(
        lambda b: F.cross_entropy(model(b[0]), b[1]), groups, batches(),
        steps=40, lr=5e-3, schedule="constant", callbacks=[sparse, *callbacks], module=model,
    )  # fmt: skip


def test_the_schedule_is_the_larger_of_two() -> None:
    values = [sigmoid_cosine_decay(step / 1000) for step in range(1001)]
    assert values[0] == 1.0
    assert values[-1] == pytest.approx(0.0025, abs=1e-4)
    assert values[500] == pytest.approx(0.5)
    assert all(a >= b for a, b in itertools.pairwise(values))
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    expected = torch.maximum((1 + torch.cos(torch.pi * t)) / 2, 1 - torch.sigmoid(-6 + 12 * t))
    assert torch.allclose(torch.tensor(values, dtype=torch.float64), expected)
    assert schedule(sigmoid_cosine_decay, steps=10)(5) == pytest.approx(0.5)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError):
            sigmoid_cosine_decay(bad)


def test_layers_compute_with_softshrink_and_alpha_0_is_its_gradient() -> None:
    model = net()
    sparse = AutoSparse(model, MaskedGradient("fixed", 0.0), threshold=-3.0)
    sparse.on_start(0, 10)
    dense = sparse.weights["2"]
    original = model[2].parametrizations.weight.original
    theirs = original.detach().clone().requires_grad_()
    logit = torch.tensor(-3.0, requires_grad=True)
    x = torch.randn(5, 24)
    shrunk = theirs.sign() * (theirs.abs() - logit.sigmoid()).relu()
    assert torch.allclose(model[2].weight, F.softshrink(theirs, float(logit.detach().sigmoid())), atol=1e-7)
    F.linear(x, shrunk).square().sum().backward()
    F.linear(x, model[2].weight).square().sum().backward()
    assert torch.allclose(original.grad, theirs.grad, atol=1e-5)
    assert dense.threshold.grad == pytest.approx(float(logit.grad), rel=1e-4)
    assert 0.2 < sparse.report().layers["2"] < 0.5
    assert sparse.thresholds["2"] == pytest.approx(float(logit.detach().sigmoid()))


def test_alpha_gates_weight_and_threshold_alike() -> None:
    weight = torch.tensor([2.0, -1.0, 0.1, -0.2, 0.0], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 5.0, 7.0])
    threshold = torch.tensor(0.5, requires_grad=True)
    out = pruned_weight(weight, weight.detach().abs() > 0.5, Coefficients(0.0, 0.25), threshold)
    out.backward(upstream)
    assert weight.grad.tolist() == [1.0, 2.0, 0.75, 1.25, 1.75]  # at 0 as well: autograd's product rule has 0 there
    assert float(threshold.grad) == pytest.approx(-(1.0 - 2.0 + 0.75 - 1.25))
    one = pruned_weight(weight, weight.detach().abs() > 0.5, MaskedGradient("fixed", 1.0).at(0, 10))
    assert torch.equal(torch.autograd.grad(one, weight, upstream)[0], upstream)


def test_alpha_is_annealed_and_not_multiplied_up() -> None:
    rule = MaskedGradient(alpha=0.5)
    alphas = [rule.at(step, 100).gradient for step in (0, 50, 89, 90, 99)]
    assert alphas == pytest.approx([0.5, 0.25, 0.5 * sigmoid_cosine_decay(0.89), 0.0, 0.0])
    assert MaskedGradient("linear", 1.0).at(25, 100).gradient == 0.75
    assert MaskedGradient("sigmoid", 1.0).at(50, 100).gradient == pytest.approx(0.5)
    assert MaskedGradient("fixed", 0.3).at(80, 100).gradient == 0.3


def test_masked_weights_of_a_layer_get_alpha_of_the_gradient_as_it_is_annealed() -> None:
    model = net()
    sparse = AutoSparse(model, MaskedGradient(alpha=0.5), threshold=-3.0)
    original = model[2].parametrizations.weight.original
    threshold = sparse.weights["2"].threshold
    h = model[1](model[0](torch.randn(5, 6))).detach()
    sparse.on_start(0, 100)
    for step, alpha in ((0, 0.5), (50, 0.25), (95, 0.0)):
        if step:
            sparse.after_step(step)
        weight = model[2].weight
        upstream = torch.randn(24, 24)
        original.grad = threshold.grad = None
        weight.backward(upstream)
        masked = original.detach().abs() <= threshold.detach().sigmoid()
        assert 0.2 < float(masked.float().mean()) < 0.5
        assert torch.equal(original.grad[~masked], upstream[~masked])
        torch.testing.assert_close(original.grad[masked], alpha * upstream[masked])
        # a higher threshold shortens what is kept; alpha gates what the masked ones say to it
        each = -original.detach().sign() * upstream * torch.where(masked, alpha, 1.0)
        slope = float(threshold.detach().sigmoid() * (1 - threshold.detach().sigmoid()))
        assert float(threshold.grad) == pytest.approx(slope * float(each.sum()), rel=1e-4)
        # and so through the whole network
        original.grad = None
        out = F.linear(h, dense := model[2].weight.detach().requires_grad_())
        (F.linear(h, model[2].weight).square().sum() + out.square().sum()).backward()
        torch.testing.assert_close(original.grad[masked], alpha * dense.grad[masked])


def test_a_masked_weight_comes_back_before_the_freeze_and_never_after() -> None:
    """A loss that falls as each weight grows: those below the threshold climb by alpha_t of the others' steps."""
    model = net()
    sparse = AutoSparse(model, MaskedGradient("fixed", alpha=0.5, freeze=0.5), threshold=-3.0)
    original = model[2].parametrizations.weight.original
    sparse.on_start(0, 40)
    model[2].weight.sum()  # chooses the masks
    start, climbed = sparse.masks["2"].clone(), original.detach().clone()
    for done in range(1, 41):
        original.grad = None
        model[2].weight.sum().backward()
        if done == 20:
            before = sparse.masks["2"].clone()
        with torch.no_grad():
            original += 4e-3 * original.grad
        climbed += 4e-3 * torch.where(sparse.masks["2"], 1.0, 0.5 if done <= 20 else 0.0)
        sparse.after_step(done)
    assert torch.allclose(original, climbed, atol=1e-5)
    returned = before & ~start
    assert 10 < int(returned.sum()) < int((~start).sum())
    assert not (sparse.masks["2"] & ~before).any()


def test_thresholds_are_learned_and_masked_weights_stay_after_the_freeze() -> None:
    model = net()
    sparse = AutoSparse(model, MaskedGradient(freeze=0.5))
    assert sparse.weights["2"].threshold < -5  # small weights: 0.0067 would prune 3 % of them
    start = float(sparse.thresholds["2"])
    masks: list[torch.Tensor] = []

    class Watch:
        def after_step(self, step: int) -> None:
            masks.append(sparse.masks["2"].clone())

    train(model, sparse, Watch())
    assert float(sparse.thresholds["2"]) > 2 * start
    assert (~masks[19]).any()
    for before, after in itertools.pairwise(masks[19:]):
        assert not (after & ~before).any()
    gone = ~masks[-1]
    plain = sparse.finalize()
    assert plain[2].weight[gone].eq(0).all()
    assert type(plain[2]) is nn.Linear


def test_evaluation_and_the_way_out_agree() -> None:
    model = net()
    sparse = AutoSparse(model, per_channel=True, threshold=-4.0)
    train(model, sparse)
    assert sparse.thresholds["2"].shape == (24, 1)
    assert sparse.thresholds["2"].std() > 0
    x = torch.randn(4, 6)
    other = copy.deepcopy(sparse)
    expected = model.eval()(x)
    assert torch.allclose(sparse.finalize()(x), expected, atol=1e-6)
    theirs = other.to_torch_prune()
    assert torch.allclose(theirs(x), expected, atol=1e-6)
    assert nn.utils.prune.is_pruned(theirs[2])


def test_groups_have_the_thresholds_apart() -> None:
    sparse = AutoSparse(net(), layers=["*"])
    groups = sparse.param_groups(0.1, lr=1.0, threshold_lr_scale=3.0)
    assert groups[-1]["names"] == [f"{i}.parametrizations.weight.0.threshold" for i in (0, 2, 4)]
    assert groups[-1]["weight_decay"] == 0.1
    assert groups[-1]["lr"] == 3.0
    assert sparse.param_groups(0.1, threshold_decay=0.0)[-1]["weight_decay"] == 0.0
    decayed = [name for group in groups[:-1] if group["weight_decay"] for name in group["names"]]
    assert decayed == [f"{i}.parametrizations.weight.original" for i in (0, 2, 4)]
    assert sum(len(group["params"]) for group in groups) == len(list(sparse.model.parameters()))


@pytest.mark.parametrize(
    "bad",
    [
        lambda: MaskedGradient("sudden"),
        lambda: MaskedGradient(alpha=1.5),
        lambda: MaskedGradient(alpha=float("nan")),
        lambda: MaskedGradient(freeze=0.0),
        lambda: AutoSparse(net(), threshold=float("inf")),
        lambda: AutoSparse(net()).param_groups(threshold_decay=-1.0),
        lambda: AutoSparse(net(), layers=["head"]),
    ],
)
def test_settings_out_of_range_are_refused(bad) -> None:
    with pytest.raises(UsageError):
        bad()

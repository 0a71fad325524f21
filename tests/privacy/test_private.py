"""`make_private`, Poisson batches, the report, and a canary that privacy hides."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from binderclip.errors import NotSupported, UsageError
from binderclip.privacy import (
    AdaptiveClip,
    DiceFeedback,
    DiceSGD,
    Ledger,
    PoissonSampler,
    PrivacyReport,
    collate_with_empty,
    make_private,
    privacy_report,
)

X, Y = torch.randn(64, 5, generator=torch.Generator().manual_seed(3)), torch.arange(64) % 3
DATA = TensorDataset(X, Y)


def test_every_record_is_drawn_by_its_own_coin() -> None:
    sampler = PoissonSampler(500, 0.1, steps=400, seed=1)
    batches = [torch.tensor(batch) for batch in sampler]
    sizes = torch.tensor([float(len(b)) for b in batches])
    assert float(sizes.mean()) == pytest.approx(50, abs=1.2)
    # a fixed batch size would have variance 0
    assert float(sizes.var()) == pytest.approx(45, rel=0.25)
    hits = torch.zeros(500)
    for batch in batches:
        hits[batch.long()] += 1
    assert float(hits.mean()) == pytest.approx(40, abs=1)
    assert float(hits.var()) == pytest.approx(36, rel=0.25)


def test_a_resumed_sampler_goes_on_with_the_next_batch() -> None:
    whole = PoissonSampler(50, 0.2, steps=6, seed=4)
    want = [*whole, *whole]
    assert want[:6] != want[6:]
    first = PoissonSampler(50, 0.2, steps=6, seed=4)
    got = list(first)[:4]
    second = PoissonSampler(50, 0.2, steps=8, seed=9)
    second.load_state_dict({"position": 4, "seed": 4})
    assert got + list(second) == want
    assert first.state_dict() == {"position": 6, "seed": 4}
    other = PoissonSampler(50, 0.2, seed=4)
    other.seek(2)
    assert next(iter(other)) == want[2]
    for arguments in ((0, 0.1), (5, 0.0), (5, 1.5)):
        with pytest.raises(UsageError):
            PoissonSampler(*arguments)


def test_an_empty_batch_has_shapes_and_no_rows() -> None:
    x, y = collate_with_empty(DATA)([])
    assert (x.shape, y.shape, y.dtype) == ((0, 5), (0,), torch.int64)
    assert collate_with_empty(DATA)([DATA[0], DATA[1]])[0].shape == (2, 5)


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "adaptive"])
def test_a_budget_is_met_by_training_and_not_by_more(clipping: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    parts = make_private(
        net, torch.optim.Adam(net.parameters(), 0.01), DataLoader(DATA, batch_size=4), target_epsilon=3.0,
        target_delta=1e-3, epochs=3, clipping=clipping, seed=0,
    )  # fmt: skip
    for _ in range(3):
        for x, y in parts.data_loader:
            parts.optimizer.backward(F.cross_entropy(net(x), y, reduction="none"))
            parts.optimizer.step()
    assert len(parts.optimizer.ledger) == 48
    assert 2.95 < parts.optimizer.ledger.epsilon(1e-3) <= 3.0
    if clipping == "per_layer":
        assert parts.optimizer.rule.groups == 4
        assert parts.optimizer.rule.sensitivity == pytest.approx(1.0)


def test_arguments_that_do_not_fit_are_named() -> None:
    net = nn.Linear(5, 3)
    inner = torch.optim.SGD(net.parameters(), 0.1)
    for settings in (
        {},
        {"noise_multiplier": 1.0, "target_epsilon": 1.0},
        {"target_epsilon": 1.0},
        {"noise_multiplier": 1.0, "clipping": "layers"},
        {"noise_multiplier": 1.0, "max_grad_norm": [1.0, 2.0]},
    ):
        with pytest.raises(UsageError):
            make_private(net, inner, DataLoader(DATA, batch_size=8), **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_size"):
        make_private(net, inner, DATA, noise_multiplier=1.0)
    normed = nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3))
    with pytest.raises(NotSupported, match="GroupNorm or LayerNorm"):
        make_private(normed, torch.optim.SGD(normed.parameters(), 0.1), DATA, batch_size=4, noise_multiplier=1.0)


def test_a_backward_of_the_mean_says_how_losses_go_back() -> None:
    net = nn.Linear(5, 3)
    parts = make_private(net, torch.optim.SGD(net.parameters(), lr=0.1), DATA, batch_size=16, noise_multiplier=1.0)
    images, labels = next(iter(parts.data_loader))
    with pytest.raises(UsageError, match=r"backward\(losses\) of the private optimizer .*shape \(B,\)"):
        F.cross_entropy(parts.model(images), labels).backward()


def test_the_report_says_what_is_claimed_and_what_is_not() -> None:
    ledger = Ledger([(1.1, 0.05, 300)])
    ledger.uncovered.append("statistic 'norms', released without noise")
    report = privacy_report(ledger, 1e-5)
    assert report.epsilon == ledger.epsilon(1e-5)
    assert report.gdp_epsilon is not None
    assert report.gdp_epsilon < report.epsilon
    text = report.text()
    for part in (f"{report.epsilon:.3f}", "added or removed", "NOT covered", "statistic 'norms'", "hyper-parameters"):
        assert part in text
    back = json.loads(report.json())
    assert PrivacyReport(**{k: tuple(v) if isinstance(v, list) else v for k, v in back.items()}).steps == 300
    assert "NOT Poisson" in privacy_report(ledger, 1e-5, poisson=False).text()
    assert json.loads(privacy_report(Ledger([(0.0, 0.1, 1)]), 1e-5).json())["epsilon"] == "infinity"
    assert privacy_report(Ledger([(1.0, 0.1, 1), (2.0, 0.1, 1)]), 1e-5).gdp_epsilon is None
    net = nn.Linear(2, 2)
    dice = DiceSGD(
        torch.optim.SGD(net.parameters(), 0.1), noise_multiplier=1.0, expected_batch_size=4, model=net, sample_rate=0.1
    )
    dice.step()
    assert "hidden state" in privacy_report(dice, 1e-5).text()
    assert "C1 + 2 B C2" in privacy_report(dice, 1e-5).text()
    assert dice.feedback is not None
    dice.feedback = DiceFeedback(1.0, convention="sum")
    assert "by C1 + 2 C2, in" in privacy_report(dice, 1e-5).text()


def canary_loss(private: bool, present: bool, seed: int) -> float:
    """Loss of a mislabelled outlier after training with or without it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(80, 8, generator=generator)
    y = (x[:, 0] > 0).long()
    canary, label = torch.full((1, 8), -2.5), torch.tensor([1])
    if present:
        x, y = torch.cat([x, canary]), torch.cat([y, label])
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    inner = torch.optim.SGD(net.parameters(), lr=0.3)
    noise, norm = (2.0, 0.5) if private else (0.0, math.inf)
    data = TensorDataset(x, y)
    parts = make_private(
        net, inner, data, noise_multiplier=noise, max_grad_norm=norm, batch_size=20, seed=seed, check="never"
    )
    for _ in range(12):
        for a, b in parts.data_loader:
            parts.optimizer.backward(F.cross_entropy(net(a), b, reduction="none"))
            parts.optimizer.step()
    with torch.no_grad():
        return float(F.cross_entropy(net.eval()(canary), label))


def test_a_canary_is_found_without_privacy_and_not_with_it() -> None:
    found = {}
    for private in (False, True):
        inside = [canary_loss(private, True, seed) for seed in range(6)]
        outside = [canary_loss(private, False, seed) for seed in range(6)]
        # the attacker's best threshold: the area under the ROC curve of "low loss means member"
        found[private] = sum(i < o for i in inside for o in outside) / 36
    assert found[False] == 1.0
    assert found[True] < 0.75


def test_the_adaptive_default_is_the_quantile_rule() -> None:
    net = nn.Linear(5, 3)
    parts = make_private(
        net, torch.optim.SGD(net.parameters(), 0.0), DATA, batch_size=64, noise_multiplier=0.0, max_grad_norm=0.7,
        clipping="adaptive",
    )  # fmt: skip
    assert isinstance(parts.optimizer.rule, AdaptiveClip)
    # without noise the count is exact, and the closed-form norm of a softmax layer says what it must be
    residual = net(X).softmax(1) - F.one_hot(Y, 3)
    norms = residual.norm(dim=1) * (X.square().sum(1) + 1).sqrt()
    norm = 0.7
    for _ in range(3):
        parts.optimizer.backward(F.cross_entropy(net(X), Y, reduction="none"))
        parts.optimizer.step()
        norm *= math.exp(-0.2 * (float((norms <= norm).double().mean()) - 0.5))
        assert parts.optimizer.rule.clip_norms[0] == pytest.approx(norm)


def test_without_a_seed_noise_and_batches_do_not_follow_torchs_seed_and_leave_it_alone() -> None:
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        state = torch.get_rng_state()
        net = torch.nn.utils.skip_init(nn.Linear, 5, 3)
        parts = make_private(
            net, torch.optim.SGD(net.parameters(), 0.1), DATA, batch_size=32, noise_multiplier=1.0, check="never"
        )
        parts.optimizer.step()
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append((net.weight.grad, list(parts.data_loader.batch_sampler)))  # type: ignore[arg-type]
    assert not torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] != drawn[1][1]

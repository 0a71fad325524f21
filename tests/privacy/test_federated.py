"""p058's FederatedAverage (arXiv 2503.21159): limiting cases that are other algorithms, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from binderclip.errors import UsageError
from binderclip.privacy import FederatedAverage, Ledger, MultiObjectiveClip, PoissonSampler, PrivateOptimizer


def losses(model, x, y):
    return cross_entropy(model(x), y, reduction="none")


def net():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def clients(*sizes):
    torch.manual_seed(1)
    return [(torch.randn(n, 6), torch.randint(3, (n,))) for n in sizes]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_client_and_one_epoch_is_dp_sgd():
    (x, y), sigma, lr = clients(40)[0], 0.8, 0.3
    federated = FederatedAverage(
        net(), losses, [(x, y)], rule=0.5, noise_multiplier=sigma, batch_size=10, lr=lr, seed=5
    )
    federated.run(2)
    model = net()
    plain = PrivateOptimizer(
        torch.optim.SGD(model.parameters(), lr=lr), 0.5, sigma, 10, model=model, sample_rate=0.25,
        generator=torch.Generator().manual_seed(5 * 1_000_003 + 1),
    )  # fmt: skip
    sampler = PoissonSampler(40, 0.25, seed=5 * 7919)
    for rows in [*sampler, *sampler]:
        plain.accumulate(losses, x[rows], y[rows])
        plain.step()
    assert torch.equal(weights(federated.model), weights(model))
    assert federated.epsilon(1e-5) == plain.ledger.epsilon(1e-5) == Ledger([(sigma, 0.25, 8)]).epsilon(1e-5)


def test_a_local_optimizer_of_ones_own_takes_the_steps_and_microbatches_change_nothing():
    parts, c = clients(8, 24), 0.6
    common = {"rule": c, "noise_multiplier": 0.0, "batch_size": 8, "seed": 2}
    plain, own, small = net(), net(), net()
    FederatedAverage(plain, losses, parts, lr=0.4, **common).round()
    FederatedAverage(own, losses, parts, optimizer=lambda p: torch.optim.SGD(p, lr=0.2), **common).round()
    FederatedAverage(small, losses, parts, lr=0.4, microbatch=1, **common).round()
    half = FederatedAverage(net(), losses, parts, lr=0.2, **common)
    half.round()
    assert torch.equal(weights(own), weights(half.model))
    assert not torch.allclose(weights(own), weights(plain))
    torch.testing.assert_close(weights(small), weights(plain))


def test_without_noise_a_round_is_the_weighted_mean_of_hand_written_clipped_sgd():
    parts, lr, c = clients(8, 24), 0.4, 0.6
    federated = FederatedAverage(
        net(), losses, parts, rule=c, noise_multiplier=0.0, batch_size=8, lr=lr, epochs=2, seed=2
    )
    federated.round()
    total = torch.zeros(21)
    for number, (x, y) in enumerate(parts):
        w = net()
        sampler = PoissonSampler(len(x), 8 / len(x), seed=2 * 7919 + number)
        for rows in [*sampler, *sampler]:
            step = torch.zeros(21)
            for i in rows:
                single = torch.autograd.grad(cross_entropy(w(x[i : i + 1]), y[i : i + 1]), list(w.parameters()))
                flat = torch.cat([g.flatten() for g in single])
                step += flat * min(1.0, c / float(flat.norm()))
            nn.utils.vector_to_parameters(weights(w) - lr * step / 8, w.parameters())
        total += len(x) / 32 * weights(w)
    torch.testing.assert_close(weights(federated.model), total)


def test_a_controller_that_may_not_move_changes_nothing():
    runs = []
    for controller in (None, MultiObjectiveClip(0.5, 0.0, 0.0)):
        federated = FederatedAverage(
            net(), losses, clients(20, 30, 10), rule=0.5, noise_multiplier=1.0, batch_size=10, controller=controller,
            fraction=0.67, seed=3,
        )  # fmt: skip
        federated.run(3)
        runs.append(federated)
    assert torch.equal(weights(runs[0].model), weights(runs[1].model))
    assert [r.clients for r in runs[0].history] == [r.clients for r in runs[1].history]
    assert all(len(r.clients) == 2 for r in runs[0].history)
    # The client sampled at the highest rate, and oftenest, sets epsilon.
    spent = [ledger.epsilon(1e-5) for ledger in runs[0].ledgers]
    assert runs[0].epsilon(1e-5) == max(spent) > min(spent)


def test_a_moving_controller_moves_once_a_round_for_everybody():
    controller = MultiObjectiveClip(0.5, 0.2, 0.5)
    federated = FederatedAverage(
        net(), losses, clients(20, 30), rule=0.5, noise_multiplier=1.0, batch_size=10, controller=controller, seed=4
    )
    records = federated.run(3)
    assert len(controller.history) == 4
    assert len(set(controller.history)) > 1
    # Both clients of a round clip at what the round before decided.
    assert [r.clip_norms[0] for r in records] == controller.history[:-1]


def test_the_model_given_is_trained_and_bad_settings_are_refused():
    model = net()
    before = copy.deepcopy(model)
    FederatedAverage(model, losses, clients(10), rule=1.0, noise_multiplier=0.5, batch_size=5).round()
    assert not torch.equal(weights(model), weights(before))
    for options in ({"batch_size": 0}, {"epochs": 0}, {"fraction": 0.0}):
        with pytest.raises(UsageError):
            FederatedAverage(
                net(), losses, clients(5), **{"rule": 1.0, "noise_multiplier": 1.0, "batch_size": 2, **options}
            )
    with pytest.raises(UsageError, match="at least one sample"):
        FederatedAverage(net(), losses, [], rule=1.0, noise_multiplier=1.0, batch_size=2)

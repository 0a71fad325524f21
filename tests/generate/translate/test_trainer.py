"""The adversarial loop: whose parameters move, by which loss, from which outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.fit import Checkpoint, Diverged
from binderclip.generate import (
    AdversarialTrainer,
    DiscriminatorTerm,
    GANLoss,
    LossTerm,
    MatchingAwarePenalty,
    R1Penalty,
    WassersteinPenalty,
    weight_bound,
)

SGD = {"name": "sgd"}


class Affine(nn.Module):
    """a x + b, and how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.calls = 0

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        return {"fake": self.linear(batch)}


def parts(seed: int = 0) -> tuple[Affine, nn.Module, Tensor]:
    torch.manual_seed(seed)
    return Affine(), nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(6, 2)


def test_one_step_is_that_of_the_loop_written_out() -> None:
    """Discriminator on samples without a graph, then the generator through the discriminator as it is after that."""
    generator, critic, batch = parts()
    g, d = copy.deepcopy(generator), copy.deepcopy(critic)
    term = DiscriminatorTerm(module=critic, loss=GANLoss("lsgan"), weight=0.7, scale=0.5)
    content = LossTerm("near", 3.0, lambda x, out: (out["fake"] - x).abs().mean())
    trainer = AdversarialTrainer(generator, {"d": term}, [content], optimizer=SGD, lr=0.1, discriminator_lr=0.2)
    result = trainer.fit([batch], steps=1)

    fake = g(batch)["fake"]
    (0.5 * ((d(batch) - 1).square().mean() + d(fake.detach()).square().mean())).backward()
    with torch.no_grad():
        for p in d.parameters():
            p -= 0.2 * p.grad  # type: ignore[operator]
    loss = 0.7 * (d(fake) - 1).square().mean() + 3 * (fake - batch).abs().mean()
    loss.backward()
    with torch.no_grad():
        for p in g.parameters():
            p -= 0.1 * p.grad  # type: ignore[operator]
    torch.testing.assert_close([*generator.parameters()], [*g.parameters()])
    torch.testing.assert_close([*critic.parameters()], [*d.parameters()])
    assert result.history["loss"][0] == pytest.approx(loss.item())
    assert generator.calls == 1  # its outputs serve both


def test_neither_side_gets_a_gradient_in_the_others_step() -> None:
    generator, critic, batch = parts()
    trainer = AdversarialTrainer(generator, {"d": DiscriminatorTerm(module=critic)}, optimizer=SGD, lr=0.0)
    seen: list[bool] = []

    def backward(loss: Tensor) -> None:
        seen.append(any(p.grad is not None for p in generator.parameters()))  # none from the discriminator's step
        loss.backward()

    trainer.step(batch, backward)
    assert seen == [False]
    assert all(p.grad is not None for p in generator.parameters())
    assert all(p.grad is None and p.requires_grad for p in critic.parameters())


def test_critic_steps_take_a_batch_each_and_the_generator_new_samples() -> None:
    generator, critic, batch = parts()
    counted: list[float] = []

    def real(batch: Tensor, outputs: Any) -> Tensor:
        counted.append(float(batch[0, 0]))
        return batch

    batches = [batch + number for number in range(3)]
    term = DiscriminatorTerm(module=critic, real=real, constrain=weight_bound(0.01))
    AdversarialTrainer(generator, {"d": term}, critic_steps=2).fit(batches, steps=3)
    first = float(batch[0, 0])
    assert [round(value - first) for value in counted] == [0, 1, 2, 0, 1, 2]
    assert generator.calls == 3 * 3
    assert all(float(p.detach().abs().max()) <= 0.01 for p in critic.parameters())


def test_the_rate_of_the_discriminator_follows_the_schedule() -> None:
    generator, critic, batch = parts()
    trainer = AdversarialTrainer(generator, {"d": DiscriminatorTerm(module=critic)}, discriminator_lr=1e-3)
    rates: list[float] = []
    optimizer = trainer.discriminator_optimizer
    assert optimizer is not None
    after = _After(lambda: rates.append(optimizer.param_groups[0]["lr"]))
    trainer.fit([batch], steps=4, schedule=lambda p: 1 - p, callbacks=[after])
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


class _After:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def after_step(self, step: int) -> None:
        self.call()


def test_penalties_reach_the_discriminator_and_are_recorded() -> None:
    """A linear discriminator w x + c: R1 is gamma/2 |w|^2, the Wasserstein penalty 10 (|w| - 1)^2."""
    generator, _, batch = parts()
    critic = nn.Linear(2, 1)
    penalties = {"r1": R1Penalty(2.0), "gp": WassersteinPenalty()}
    norm = float(critic.weight.detach().norm())
    term = DiscriminatorTerm(module=critic, loss=GANLoss("wgan"), penalties=penalties)
    history = AdversarialTrainer(generator, {"d": term}).fit([batch], steps=1).history
    assert history["discriminator/d/r1"][0] == pytest.approx(norm**2, rel=1e-5)
    assert history["discriminator/d/gp"][0] == pytest.approx(10 * (norm - 1) ** 2, rel=1e-5)


class _Pair(nn.Module):
    """Linear in features and sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.sentence = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, features: Tensor, sentence: Tensor) -> Tensor:
        return self.features(features) + self.sentence(sentence)


def test_mismatched_pairs_count_half_and_the_matching_aware_penalty_takes_both_gradients() -> None:
    generator, _, pictures = parts()
    critic, sentences = _Pair(), torch.randn(6, 3)
    term = DiscriminatorTerm(
        module=critic, loss=GANLoss("hinge"), penalties={"ma": MatchingAwarePenalty()},
        real=lambda batch, out: (batch, sentences), fake=lambda batch, out: (out["fake"], sentences),
        mismatched=lambda real: (real[0], real[1].roll(-1, 0)),
    )  # fmt: skip
    with torch.no_grad():
        r, f = critic(pictures, sentences), critic(generator(pictures)["fake"], sentences)
        m = critic(pictures, torch.cat([sentences[1:], sentences[:1]]))
        square = critic.features.weight.square().sum() + critic.sentence.weight.square().sum()
    expected = (1 - r).relu().mean() + ((1 + f).relu().mean() + (1 + m).relu().mean()) / 2
    history = AdversarialTrainer(generator, {"d": term}).fit([pictures], steps=1).history
    assert history["discriminator/d/adversarial"][0] == pytest.approx(float(expected), rel=1e-5)
    assert history["discriminator/d/ma"][0] == pytest.approx(2 * float(square) ** 3, rel=1e-5)


def test_a_run_that_was_cut_goes_on_as_one_that_was_not(tmp_path: Path) -> None:
    def trained(*ends: int, folder: Path) -> list[Tensor]:
        for end in ends:
            generator, critic, batch = parts()
            trainer = AdversarialTrainer(generator, {"d": DiscriminatorTerm(module=critic)}, lr=0.05)
            trainer.fit([batch, -batch], steps=end, checkpoint=Checkpoint(folder, every=100))
        return [*generator.parameters(), *critic.parameters()]

    whole, cut = trained(6, folder=tmp_path / "whole"), trained(3, 6, folder=tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_what_is_not_finite_is_named() -> None:
    generator, critic, batch = parts()
    broken = LossTerm("broken", 1.0, lambda batch, out: out["fake"].sum() * float("inf"))
    trainer = AdversarialTrainer(generator, {"d": DiscriminatorTerm(module=critic)}, [broken])
    with pytest.raises(Diverged, match="not finite: loss/broken"):
        trainer.fit([batch], steps=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda g, d: AdversarialTrainer(g, {}), "nothing to learn"),
        (lambda g, d: AdversarialTrainer(g.requires_grad_(False), {"d": d}), "no parameter"),
        (lambda g, d: AdversarialTrainer(g, {"d": d}, critic_steps=0), "critic_steps"),
        (lambda g, d: AdversarialTrainer(g, {"d": d}, [LossTerm("a", 1, len), LossTerm("a", 1, len)]), "names"),
        (lambda g, d: AdversarialTrainer(g, {"d": d}).fit([], steps=1, precision="float16"), "precision"),
        (lambda g, d: AdversarialTrainer(g, {"d": d}, critic_steps=2).fit([], steps=1), "empty"),
        (lambda g, d: LossTerm("a", float("nan"), len), "weight of a"),
        (lambda g, d: DiscriminatorTerm(module=d.module, weight=-1.0), "weight"),
        (lambda g, d: weight_bound(0.0), "bound"),
    ],
)
def test_what_has_no_meaning_is_refused(wrong: Callable[..., Any], message: str) -> None:
    generator, critic, _ = parts()
    with pytest.raises(UsageError, match=message):
        wrong(generator, DiscriminatorTerm(module=critic))

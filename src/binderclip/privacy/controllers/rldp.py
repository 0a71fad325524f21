"""RLDP: a policy that learns, during the training it controls, which clip norms and noise to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.privacy.accounting.ledger import Accountant, Ledger, joint_multiplier, noise_multiplier_for
from binderclip.privacy.accounting.statistic import Statistic
from binderclip.privacy.clipping.rules import SensitivityRule
from binderclip.privacy.controllers.controller import Controller, PublicStats, Setting
from binderclip.privacy.controllers.observation import (
    Observation,
    RunningScale,
    clipping_summary,
    histogram_statistic,
    loss_statistic,
)
from binderclip.privacy.controllers.sac import SACPolicy
from binderclip.settings import check_choice

__all__ = ["Decision", "Policy", "RLDPController"]

STATES = ("public", "noised", "paper")


@runtime_checkable
class Policy(Protocol):
    """What chooses the actions; `SACPolicy` is one."""

    def act(self, state: Float[Tensor, "S"]) -> Float[Tensor, "A"]:
        """An action in [-1, 1] for each group's clip norm, and the last for the noise."""
        ...

    def remember(self, state: Tensor, action: Tensor, reward: float, following: Tensor) -> None:
        """Take a transition."""
        ...

    def update(self, count: int = 1) -> Any:
        """Learn."""
        ...


class Decision(NamedTuple):
    """One action and what it came from.

    Attributes:
        step: before which it was taken.
        clip_norms, noise_multiplier: in force from then on.
        epsilon: spent until then.
        utility: minus the public loss then.
        reward: of the action before; NaN at the first.
        raised: whether the budget raised the noise above what the action wanted.
    """

    step: int
    clip_norms: tuple[float, ...]
    noise_multiplier: float
    epsilon: float
    utility: float
    reward: float
    raised: bool


class RLDPController(Controller):
    """Sets the clip norm of each group and the noise every `interval` steps by a soft actor-critic.

    Action a in [-1, 1]^(J+1): `log C_j += .2 a_j`, `log sigma += .1 a_(J+1)`, both within ranges around the constants.
    Then the budget: if all remaining steps at that sigma would exceed epsilon, sigma is raised to the smallest value
    that does not, so epsilon never exceeds the target. The reward is the gain of public utility over the epsilon it
    cost. State and reward are this library's reading of the paper, whose code was not available.

    Args:
        rule: the optimizer's, for the groups and how their noise composes; its norms are the initial C_j.
        evaluate: loss of the current weights on held-out PUBLIC data.
        epsilon, delta: the budget, which the optimizer's whole ledger must keep.
        steps: after which training ends.
        interval: steps between actions.
        state: what the policy sees. "public": update norms, public loss, ledger, settings. "noised": also clipped
            fractions and quantiles of the gradient norms and the training loss, from noised counts that are accounted.
            "paper": the same without noise, which epsilon does not cover; the optimizer warns.
        policy: default a `SACPolicy` of the right size.
        noise_multiplier: sigma to start from; None: the constant that spends the budget exactly.
        clip_range, sigma_range: limits, as factors of the initial values.
        accountant: "rdp" or "pld".
        statistics_ratio: noise multiplier of the statistics over sigma, for "noised".
        loss_bound: training losses above it count as this.
        updates: of the policy, each interval.
        seed: of the default policy.

    Attributes:
        history: the `Decision`s.

    Raises:
        UsageError: values out of range; at the first step, a budget that is spent already.

    Paper: Efficient Differentially Private Fine-Tuning of LLMs via Reinforcement Learning (arXiv 2507.22565).
    """

    def __init__(
        self,
        rule: SensitivityRule,
        evaluate: Callable[[], float],
        *,
        epsilon: float,
        delta: float,
        steps: int,
        interval: int = 112,
        state: Literal["public", "noised", "paper"] = "public",
        policy: Policy | None = None,
        noise_multiplier: float | None = None,
        clip_range: tuple[float, float] = (0.05, 10.0),
        sigma_range: tuple[float, float] = (0.5, 2.0),
        accountant: Accountant = "rdp",
        statistics_ratio: float = 10.0,
        loss_bound: float = 10.0,
        updates: int = 2,
        seed: int = 0,
    ) -> None:
        check_choice("state", state, STATES)
        if not epsilon > 0 or not 0 < delta < 1 or steps < 1 or interval < 1 or not statistics_ratio > 0:
            raise UsageError(
                "epsilon and statistics_ratio must be above 0, delta in (0, 1), steps and interval at least 1; got "
                f"{epsilon}, {statistics_ratio}, {delta}, {steps}, {interval}"
            )
        for name, (low, high) in (("clip_range", clip_range), ("sigma_range", sigma_range)):
            if not 0 < low <= 1 <= high:
                raise UsageError(f"{name} must hold 1 between two positive factors, got {low, high}")
        self.rule, self.evaluate, self.state = rule, evaluate, state
        self.epsilon, self.delta, self.steps, self.interval = epsilon, delta, steps, interval
        self.account_for_statistics = state != "paper"
        self.noise_multiplier, self.accountant = noise_multiplier, accountant
        self.clip_range, self.sigma_range = clip_range, sigma_range
        self.statistics_ratio, self.loss_bound, self.updates = statistics_ratio, loss_bound, updates
        self.initial = rule.clip_norms
        # Kept as logarithms of factors, so that an action of 0 leaves every constant exactly as it is.
        self.log_clip, self.log_sigma = [0.0] * rule.groups, 0.0
        self.sigma = 0.0
        self.history: list[Decision] = []
        self.scale, self.seen = RunningScale(), Observation(rule.groups)
        # Not `policy or ...`: a policy whose replay memory is empty has length 0.
        if policy is None:
            policy = SACPolicy(self.state_size, rule.groups + 1, seed=seed)
        self.policy: Policy = policy
        self._before: tuple[Tensor, Tensor, float, float] | None = None
        self._spent = 0

    @property
    def state_size(self) -> int:
        """Dimension of what the policy sees: 3J + 5, with statistics 9J + 7."""
        groups = self.rule.groups
        return 3 * groups + 5 + (0 if self.state == "public" else 6 * groups + 2)

    # -- the controller ------------------------------------------------------------------------------------------------

    def statistics(self, stats: PublicStats) -> tuple[Statistic, ...]:
        """Counts and the loss of the last batch before each action."""
        if not self._reads(stats.step):
            return ()
        multiplier = self.statistics_ratio * (stats.noise_multiplier or 1.0)
        return (histogram_statistic(self.rule.groups, multiplier), loss_statistic(self.loss_bound, multiplier))

    def before_step(self, stats: PublicStats) -> Setting:
        """Act where it is time; stop after the last step."""
        if self.noise_multiplier is None:
            kind = self.accountant
            unit = self.rule.multiplier(1.0)
            left = noise_multiplier_for(
                self.epsilon, self.delta, stats.sample_rate, self.steps, kind, spent=stats.ledger
            )
            self.noise_multiplier = left / unit
        if stats.step >= self.steps:
            return Setting(stop=True)
        if stats.step:
            self.seen.add(stats, self.rule.assign(stats.names))
        if stats.step % self.interval == 0:
            return self._act(stats)
        if len(stats.ledger) != self._spent + 1 and self.sigma:
            # Somebody else spends from the same budget: project again at once.
            self.sigma = self._affordable(self.sigma, stats)
        self._spent = len(stats.ledger)
        return self._setting()

    def _act(self, stats: PublicStats) -> Setting:
        utility, spent = -float(self.evaluate()), stats.ledger.epsilon(self.delta, self.accountant)
        if not math.isfinite(utility):
            raise UsageError(f"evaluate() gave {-utility}: the public loss must be finite")
        state = self.scale(self._observe(stats, utility, spent))
        reward = math.nan
        if self._before is not None:
            last_state, last_action, last_utility, last_spent = self._before
            reward = (utility - last_utility) / (spent - last_spent + 1e-3)
            reward = min(max(reward, -5.0), 5.0)
            self.policy.remember(last_state, last_action, reward, state)
            self.policy.update(self.updates)
        action = self.policy.act(state).clamp(-1, 1)
        low, high = (math.log(limit) for limit in self.clip_range)
        moves = [float(a) for a in action]
        self.log_clip = [min(max(c + 0.2 * a, low), high) for c, a in zip(self.log_clip, moves[:-1], strict=True)]
        low, high = (math.log(limit) for limit in self.sigma_range)
        self.log_sigma = min(max(self.log_sigma + 0.1 * moves[-1], low), high)
        assert self.noise_multiplier is not None
        requested = self.noise_multiplier * math.exp(self.log_sigma)
        self.sigma = self._affordable(requested, stats)
        if self.sigma > requested:
            # From here the next action starts; else upward actions would have to climb back unseen first.
            self.log_sigma = math.log(self.sigma / self.noise_multiplier)
        self._before, self._spent = (state, action, utility, spent), len(stats.ledger)
        setting = self._setting()
        assert setting.clip_norms is not None
        self.history.append(
            Decision(stats.step, setting.clip_norms, self.sigma, spent, utility, reward, self.sigma > requested)
        )
        return setting

    def _setting(self) -> Setting:
        norms = tuple(c * math.exp(log) for c, log in zip(self.initial, self.log_clip, strict=True))
        return Setting(norms, self.sigma)

    # -- the budget ----------------------------------------------------------------------------------------------------

    def _reads(self, step: int) -> bool:
        """Whether the batch of this step (counted from 0) releases statistics."""
        return self.state != "public" and (step + 1) % self.interval == 0 and step + 1 < self.steps

    def _projected(self, sigma: float, stats: PublicStats) -> float:
        """Epsilon at the end if all remaining steps use this sigma."""
        ledger: Ledger = stats.ledger.copy()
        own = self.rule.multiplier(sigma)
        reading = sum(self._reads(step) for step in range(stats.step, self.steps))
        if self.account_for_statistics and reading:
            extra = self.statistics_ratio * sigma
            ledger.step(joint_multiplier([own, extra, extra]), stats.sample_rate, reading)
        else:
            reading = 0
        ledger.step(own, stats.sample_rate, self.steps - stats.step - reading)
        return ledger.epsilon(self.delta, self.accountant)

    def _affordable(self, requested: float, stats: PublicStats) -> float:
        """The wanted sigma, or the smallest larger one that keeps the budget.

        Raises:
            UsageError: no noise does, because the budget is spent.
        """
        if self._projected(requested, stats) <= self.epsilon:
            return requested
        low = high = requested
        while self._projected(high, stats) > self.epsilon:
            low, high = high, 1.25 * high
            if high > 1e4 * requested:
                raise UsageError(
                    f"no noise keeps {self.steps - stats.step} more steps within epsilon {self.epsilon}: "
                    f"{stats.ledger.epsilon(self.delta, self.accountant):.4g} is spent already"
                )
        while high / low > 1 + 1e-3:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self._projected(middle, stats) > self.epsilon else (low, middle)
        return high

    # -- what the policy sees ------------------------------------------------------------------------------------------

    def _observe(self, stats: PublicStats, utility: float, spent: float) -> Tensor:
        mean, deviation = self.seen.update_norms()
        slope = 0.0 if self._before is None else utility - self._before[2]
        values = [*mean, *deviation, -utility, slope, spent / self.epsilon, stats.step / self.steps]
        values += [*self.log_clip, self.log_sigma]
        if self.state != "public":
            summary, loss = clipping_summary(stats.released, self.rule.groups, stats.expected_batch_size)
            values += [*summary, loss, loss - self.seen.last_loss]
            self.seen.last_loss = loss
        self.seen.clear()
        return torch.tensor(values, dtype=torch.float32)

    # -- saving --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Settings, running scales and the policy."""
        policy = getattr(self.policy, "state_dict", dict)
        return {
            "log_clip": list(self.log_clip), "log_sigma": self.log_sigma, "sigma": self.sigma,
            "noise_multiplier": self.noise_multiplier, "history": [tuple(d) for d in self.history],
            "scale": self.scale.state_dict(), "seen": self.seen.state_dict(), "before": self._before,
            "spent": self._spent, "initial": self.initial, "policy": policy(),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.log_clip, self.log_sigma, self.sigma = list(state["log_clip"]), state["log_sigma"], state["sigma"]
        self.noise_multiplier, self.initial = state["noise_multiplier"], tuple(state["initial"])
        self.history = [Decision(*values) for values in state["history"]]
        self.scale.load_state_dict(state["scale"])
        self.seen.load_state_dict(state["seen"])
        self._before, self._spent = state["before"], state["spent"]
        if hasattr(self.policy, "load_state_dict"):
            self.policy.load_state_dict(state["policy"])

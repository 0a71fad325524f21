"""A compact soft actor-critic: a policy over continuous actions that learns while it acts."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["SACLosses", "SACPolicy"]

LOG_STD = (-5.0, 2.0)


class SACLosses(NamedTuple):
    """Means over one call of `update`; NaN where no update was due."""

    critic: float
    actor: float


class SACPolicy:
    """Soft actor-critic: two critics learn the entropy-regularised return, the actor follows the smaller of them.

    Targets `y = r + gamma (min Q'(s', a') - alpha log pi(a'|s'))` with slowly following copies of the critics; the
    actor is a Gaussian squashed by tanh and minimises `alpha log pi(a|s) - min Q(s, a)`. All randomness (initial
    weights, actions, replay) comes from `seed`, so nothing else in the process is disturbed.

    Args:
        state_size, action_size: dimensions; actions lie in [-1, 1].
        hidden: widths of the hidden layers of actor and critics.
        gamma: discount of the next transition's return.
        tau: share by which the target critics follow.
        alpha: weight of the entropy.
        actor_lr, critic_lr: of Adam.
        replay: transitions kept; the oldest go first.
        batch_size: transitions an update draws, with replacement.
        warmup: first actions that are uniformly random.
        seed: of everything.

    Raises:
        UsageError: a size below 1, a rate outside its range; at `remember`, shapes that don't fit.

    Examples:
        >>> policy = SACPolicy(3, 2, warmup=0)
        >>> policy.act(torch.zeros(3)).shape
        torch.Size([2])

    Paper: used by Efficient Differentially Private Fine-Tuning of LLMs via Reinforcement Learning (arXiv 2507.22565);
    the algorithm is Haarnoja et al., Soft Actor-Critic (arXiv 1801.01290).
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        *,
        hidden: Sequence[int] = (128, 128),
        gamma: float = 0.99,
        tau: float = 0.005,
        alpha: float = 0.2,
        actor_lr: float = 2e-4,
        critic_lr: float = 3e-4,
        replay: int = 2000,
        batch_size: int = 16,
        warmup: int = 5,
        seed: int = 0,
    ) -> None:
        for name, value in (("state_size", state_size), ("action_size", action_size), ("replay", replay),
                            ("batch_size", batch_size)):  # fmt: skip
            if value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if not 0 <= gamma < 1 or not 0 < tau <= 1 or not alpha >= 0:
            raise UsageError(f"gamma must be in [0, 1), tau in (0, 1], alpha at least 0; got {gamma}, {tau}, {alpha}")
        if not (actor_lr > 0 and critic_lr > 0):
            raise UsageError(f"actor_lr and critic_lr must be above 0, got {actor_lr} and {critic_lr}")
        self.state_size, self.action_size = state_size, action_size
        self.gamma, self.tau, self.alpha = gamma, tau, alpha
        self.batch_size, self.warmup, self.acted = batch_size, warmup, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.actor = _network(state_size, hidden, 2 * action_size, self.generator)
        self.critics = nn.ModuleList(_network(state_size + action_size, hidden, 1, self.generator) for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self._actor_step = torch.optim.Adam(self.actor.parameters(), lr=actor_lr, fused=True)
        self._critic_step = torch.optim.Adam(self.critics.parameters(), lr=critic_lr, fused=True)
        self._memory = torch.zeros(replay, 2 * state_size + action_size + 2)
        self._seen = 0

    def __len__(self) -> int:
        """Transitions in the replay memory."""
        return min(self._seen, len(self._memory))

    def _sample(self, state: Float[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        """Actions drawn for states and the log density of each."""
        mean, log_std = self.actor(state).chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD)
        unit = torch.randn(mean.shape, generator=self.generator)
        raw = mean + log_std.exp() * unit
        density = (-0.5 * unit.square() - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        # log(1 - tanh(raw)^2) in a form that stays finite for large |raw|
        squash = (2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(dim=-1)
        return torch.tanh(raw), density - squash

    def _value(self, critics: nn.ModuleList, state: Tensor, action: Tensor) -> Tensor:
        """Both critics' values, (2, B)."""
        joined = torch.cat([state, action], dim=-1)
        return torch.stack([critic(joined)[:, 0] for critic in critics])

    @torch.no_grad()
    def act(self, state: Float[Tensor, "S"], *, deterministic: bool = False) -> Float[Tensor, "A"]:
        """An action in [-1, 1]: uniform during the warm-up, then drawn from the actor.

        Args:
            state: of the environment.
            deterministic: the actor's mean instead, which does not count as an action of the warm-up.
        """
        if deterministic:
            return torch.tanh(self.actor(state.float()[None])[0, : self.action_size])
        self.acted += 1
        if self.acted <= self.warmup:
            return 2 * torch.rand(self.action_size, generator=self.generator) - 1
        return self._sample(state.float()[None])[0][0]

    def remember(
        self,
        state: Float[Tensor, "S"],
        action: Float[Tensor, "A"],
        reward: float,
        following: Float[Tensor, "S"],
        *,
        done: bool = False,
    ) -> None:
        """Keep one transition.

        Args:
            state, action: what was seen and done.
            reward: what came of it.
            following: the next state.
            done: no return comes after it.
        """
        if state.shape != (self.state_size,) or following.shape != state.shape:
            raise UsageError(f"states must be ({self.state_size},), got {tuple(state.shape)}, {tuple(following.shape)}")
        if action.shape != (self.action_size,):
            raise UsageError(f"action must be ({self.action_size},), got {tuple(action.shape)}")
        row = torch.cat([state.float(), action.float(), torch.tensor([reward, float(done)]), following.float()])
        if not bool(torch.isfinite(row).all()):
            raise UsageError("a transition must be finite")
        self._memory[self._seen % len(self._memory)] = row
        self._seen += 1

    def update(self, count: int = 1) -> SACLosses:
        """Gradient steps on replayed transitions; none while the memory is empty."""
        if len(self) == 0 or count < 1:
            return SACLosses(math.nan, math.nan)
        losses = [self._update() for _ in range(count)]
        return SACLosses(*(sum(column) / count for column in zip(*losses, strict=True)))

    def _update(self) -> tuple[float, float]:
        s, a = self.state_size, self.action_size
        rows = self._memory[torch.randint(len(self), (self.batch_size,), generator=self.generator)]
        state, action, tail, following = rows.split([s, a, 2, s], dim=1)
        reward, done = tail.unbind(dim=1)
        with torch.no_grad():
            further, density = self._sample(following)
            soft = self._value(self.targets, following, further).amin(dim=0) - self.alpha * density
            target = reward + self.gamma * (1 - done) * soft
        critic_loss = (self._value(self.critics, state, action) - target).square().mean(dim=1).sum()
        self._critic_step.zero_grad()
        critic_loss.backward()
        self._critic_step.step()
        chosen, density = self._sample(state)
        self.critics.requires_grad_(False)
        actor_loss = (self.alpha * density - self._value(self.critics, state, chosen).amin(dim=0)).mean()
        self._actor_step.zero_grad()
        actor_loss.backward()
        self._actor_step.step()
        self.critics.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), self.tau)
        return float(critic_loss.detach()), float(actor_loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on identically."""
        return {
            "actor": self.actor.state_dict(),
            "critics": self.critics.state_dict(),
            "targets": self.targets.state_dict(),
            "actor_step": self._actor_step.state_dict(),
            "critic_step": self._critic_step.state_dict(),
            "memory": self._memory.clone(),
            "seen": self._seen,
            "acted": self.acted,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.actor.load_state_dict(state["actor"])
        self.critics.load_state_dict(state["critics"])
        self.targets.load_state_dict(state["targets"])
        self._actor_step.load_state_dict(state["actor_step"])
        self._critic_step.load_state_dict(state["critic_step"])
        self._memory.copy_(state["memory"])
        self._seen, self.acted = int(state["seen"]), int(state["acted"])
        self.generator.set_state(state["generator"])


def _network(inputs: int, hidden: Sequence[int], outputs: int, generator: torch.Generator) -> nn.Sequential:
    """A ReLU network whose initial weights come from the generator alone."""
    sizes = [inputs, *hidden, outputs]
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(itertools.pairwise(sizes)):
        with torch.random.fork_rng(devices=[]):
            linear = nn.Linear(a, b)
        bound = 1 / math.sqrt(a)
        with torch.no_grad():
            for p in (linear.weight, linear.bias):
                p.copy_((2 * torch.rand(p.shape, generator=generator) - 1) * bound)
        layers += [linear] if number == len(sizes) - 2 else [linear, nn.ReLU()]
    return nn.Sequential(*layers)

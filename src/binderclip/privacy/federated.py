"""Federated averaging in which every client trains privately on its own samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from binderclip.errors import UsageError
from binderclip.privacy.accounting.ledger import Accountant, Ledger
from binderclip.privacy.accounting.sampling import PoissonSampler
from binderclip.privacy.clipping.rules import SensitivityRule, as_rule
from binderclip.privacy.controllers.controller import Controller
from binderclip.privacy.optimizer import PrivateOptimizer
from binderclip.privacy.per_sample.ghost import LossFunction

__all__ = ["FederatedAverage", "Round"]


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: from 0.
        clients: that took part.
        clip_norms: in force at its end.
    """

    number: int
    clients: tuple[int, ...]
    clip_norms: tuple[float, ...]


class FederatedAverage:
    """Rounds of local DP-SGD and a mean of the weights: `w <- sum_k (n_k / n) w_k` over the clients of the round.

    The unit of privacy is one sample. Clients hold disjoint samples, each with a ledger of its own, and the guarantee
    is that of the client who spent most. Each client's number of samples counts as public, and the server is trusted
    with nothing: it sees noised weights only.

    Args:
        model: trained in place; every round starts all its clients from it.
        loss_fn: (model, *tensors) -> losses (B,), each of one sample alone.
        clients: the tensors of each, dimension 0 counting its samples.
        rule: sensitivity rule or clip norm; each client's round starts from a copy.
        noise_multiplier: sigma, of each client.
        batch_size: expected; client k samples at rate `batch_size / n_k`, at most 1.
        lr: of the local SGD.
        epochs: local passes a round (of `n_k / batch_size` steps each).
        fraction: of the clients that take part in a round, at least one.
        controller: shared by all clients, such as `MultiObjectiveClip`; where it has `end_round`, that is called.
        optimizer: from parameters to the local optimizer; default plain SGD with `lr`.
        microbatch: samples whose gradients are formed at a time.
        seed: of client choice, sampling and noise.

    Attributes:
        ledgers: one a client. history: the `Round`s.

    Raises:
        UsageError: no client, an empty one, or values out of range.

    Paper: Multi-Objective Optimization for Privacy-Utility Balance in Differentially Private Federated Learning
    (arXiv 2503.21159); the averaging is McMahan et al., Communication-Efficient Learning of Deep Networks (AISTATS
    2017).
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        clients: Sequence[Sequence[Tensor]],
        *,
        rule: SensitivityRule | float,
        noise_multiplier: float,
        batch_size: int,
        lr: float = 0.1,
        epochs: int = 1,
        fraction: float = 1.0,
        controller: Controller | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        microbatch: int | None = None,
        seed: int = 0,
    ) -> None:
        if not clients or any(not client or not len(client[0]) for client in clients):
            raise UsageError("every client needs at least one sample, and there must be a client")
        if batch_size < 1 or epochs < 1 or not 0 < fraction <= 1 or not noise_multiplier >= 0:
            raise UsageError(
                "batch_size and epochs must be at least 1, fraction in (0, 1], noise_multiplier at least 0; got "
                f"{batch_size}, {epochs}, {fraction}, {noise_multiplier}"
            )
        self.model, self.loss_fn, self.clients = model, loss_fn, clients
        self.rule, self.noise_multiplier, self.batch_size = as_rule(rule), float(noise_multiplier), batch_size
        self.epochs, self.fraction, self.controller = epochs, fraction, controller
        self.optimizer = optimizer or (lambda parameters: SGD(parameters, lr=lr))
        self.microbatch, self.seed = microbatch, seed
        self.ledgers = [Ledger() for _ in clients]
        self.history: list[Round] = []
        self._sizes = [len(client[0]) for client in clients]
        self._samplers = [
            PoissonSampler(size, min(1.0, batch_size / size), seed=seed * 7919 + number)
            for number, size in enumerate(self._sizes)
        ]
        device = next(model.parameters()).device
        self._noise = [
            torch.Generator(device).manual_seed(seed * 1_000_003 + 31 * number + 1) for number in range(len(clients))
        ]
        self._chooser = torch.Generator().manual_seed(seed)

    def local_steps(self, client: int) -> int:
        """Private steps of a client in one round."""
        return self.epochs * len(self._samplers[client])

    def round(self) -> Round:
        """One round."""
        count = max(1, round(self.fraction * len(self.clients)))
        order = torch.randperm(len(self.clients), generator=self._chooser)
        chosen = tuple(sorted(order[:count].tolist()))
        total = sum(self._sizes[k] for k in chosen)
        mean = {name: torch.zeros_like(p) for name, p in self.model.named_parameters()}
        norms = self.rule.clip_norms
        for client in chosen:
            local = copy.deepcopy(self.model).train()
            norms = self._train(local, client)
            for name, p in local.named_parameters():
                mean[name] += (self._sizes[client] / total) * p.detach()
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(mean[name])
        end = getattr(self.controller, "end_round", None)
        if end is not None:
            end()
        done = Round(len(self.history), chosen, norms)
        self.history.append(done)
        return done

    def _train(self, model: nn.Module, client: int) -> tuple[float, ...]:
        sampler = self._samplers[client]
        private = PrivateOptimizer(
            self.optimizer(p for p in model.parameters() if p.requires_grad),
            copy.deepcopy(self.rule),
            self.noise_multiplier,
            sampler.sample_rate * self._sizes[client],
            model=model,
            sample_rate=sampler.sample_rate,
            controller=self.controller,
            ledger=self.ledgers[client],
            generator=self._noise[client],
        )
        for _ in range(self.epochs):
            for rows in sampler:
                batch = [values[rows] for values in self.clients[client]]
                private.accumulate(self.loss_fn, *batch, microbatch=self.microbatch)
                private.step()
        private.detach()
        return private.rule.clip_norms

    def run(self, rounds: int) -> list[Round]:
        """Several rounds; returns their records."""
        return [self.round() for _ in range(rounds)]

    def epsilon(self, delta: float, accountant: Accountant = "rdp") -> float:
        """Of the client who spent most: for disjoint samples that is the guarantee of everybody."""
        return max(ledger.epsilon(delta, accountant) for ledger in self.ledgers)

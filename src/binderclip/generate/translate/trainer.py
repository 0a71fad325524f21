"""The one adversarial loop: discriminators on the generator's samples, then the generator with them frozen."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.fit import Callback, Checkpoint, Diverged, FitResult, fit, make_optimizer
from binderclip.fit.optimizers import OptimizerLike
from binderclip.fit.state import load_module, load_optimizer, module_state, optimizer_state
from binderclip.generate.translate.terms import DiscriminatorTerm, LossTerm, Outputs
from binderclip.numeric import check_whole
from binderclip.optim import schedule as make_schedule
from binderclip.settings import check_choice

__all__ = ["AdversarialTrainer"]

ADAM = {"name": "adam", "betas": (0.5, 0.999)}


class AdversarialTrainer(Callback):
    """Train a generator against discriminators, with any other losses beside them.

    A step makes the generator's outputs, updates every discriminator on them without their graph, freezes the
    discriminators and updates the generator by

        sum_k weight_k adversarial_k + sum_i weight_i loss_i.

    With `critic_steps` n above 1 the discriminators are updated on n batches before that, each with samples of its own.
    The generator's update is a step of `fit`: schedule, clip, average of the weights, records and checkpoints are its.
    The discriminators' weights and optimizer travel in the checkpoints too, and their rate follows the same schedule.

    Records: `discriminator/NAME/adversarial`, `discriminator/NAME/PENALTY`, `generator/NAME` and `loss/TERM`,
    unweighted, beside the generator's whole `loss`.

    Args:
        generator: a module from a batch to its outputs by name, with `fake` among them.
        discriminators: by name; none for a training by the other losses alone.
        losses: of the generator beside the adversarial ones.
        optimizer: as `fit` takes it, a name or `{"name": ..., **settings}`, or a callable of the parameters.
        lr: learning rate of the generator.
        discriminator_optimizer: default `optimizer`.
        discriminator_lr: default `lr`.
        critic_steps: updates of the discriminators for each of the generator, in [1, 1000].

    Raises:
        UsageError: nothing to train, names twice, a critic_steps out of range.

    Examples:
        >>> from binderclip.generate import DiscriminatorTerm
        >>> class Shift(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.by = nn.Parameter(torch.zeros(()))
        ...     def forward(self, batch):
        ...         return {"fake": torch.zeros_like(batch) + self.by}
        >>> shift = Shift()
        >>> trainer = AdversarialTrainer(shift, {"d": DiscriminatorTerm(module=nn.Linear(1, 1))}, lr=0.01)
        >>> result = trainer.fit([torch.ones(4, 1)], steps=3)
        >>> sorted(result.history)
        ['discriminator/d/adversarial', 'generator/d', 'loss', 'lr', 'samples']
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminators: Mapping[str, DiscriminatorTerm],
        losses: Sequence[LossTerm] = (),
        *,
        optimizer: OptimizerLike = ADAM,
        lr: float | None = 2e-4,
        discriminator_optimizer: OptimizerLike | None = None,
        discriminator_lr: float | None = None,
        critic_steps: int = 1,
    ) -> None:
        check_whole("critic_steps", critic_steps, least=1)
        if critic_steps > 1000:
            raise UsageError(f"critic_steps must be at most 1000, got {critic_steps}")
        if not discriminators and not losses:
            raise UsageError("the generator has nothing to learn from: give a discriminator or a loss")
        names = [term.name for term in losses]
        if len(set(names)) < len(names):
            raise UsageError(f"losses need names of their own, got {', '.join(names)}")
        self.generator, self.discriminators, self.losses = generator, dict(discriminators), tuple(losses)
        self.critic_steps = critic_steps
        self.modules = nn.ModuleDict({name: term.module for name, term in self.discriminators.items()})
        self.discriminator_optimizer: torch.optim.Optimizer | None = None
        trained = [p for p in generator.parameters() if p.requires_grad]
        if not trained:
            raise UsageError("the generator has no parameter that requires grad")
        self.optimizer = make_optimizer(optimizer, trained, lr)
        if parameters := [p for p in self.modules.parameters() if p.requires_grad]:
            settings = optimizer if discriminator_optimizer is None else discriminator_optimizer
            if settings is optimizer and isinstance(optimizer, torch.optim.Optimizer):
                raise UsageError("a ready optimizer holds the generator's parameters: give discriminator_optimizer too")
            rate = lr if discriminator_lr is None else discriminator_lr
            self.discriminator_optimizer = make_optimizer(settings, parameters, rate)
        self._done, self._figures = 0, dict[str, Tensor]()
        self._schedule: Callable[[int], float] = lambda step: 1.0

    def fit(
        self,
        batches: Iterable[Any],
        *,
        steps: int,
        schedule: str | Callable[[float], float] = "constant",
        warmup: int | float = 0,
        clip: Any = None,
        ema: float | torch.optim.swa_utils.AveragedModel | None = None,
        precision: str = "float32",
        checkpoint: Checkpoint | str | None = None,
        callbacks: Sequence[Any] = (),
        log_every: int = 20,
    ) -> FitResult:
        """Update the generator `steps` times; arguments are those of `fit`, `clip` and `ema` are the generator's.

        A second call goes on with the optimizers as the first one left them.

        Args:
            batches: anything iterable, drawn again when it ends.
            steps: updates of the generator in all.
            schedule, warmup: of the learning rates of generator and discriminators.
            clip: of the generator's gradient.
            ema: decay of an average of the generator's weights.
            precision: "float32" or "bfloat16"; a float16 would need a loss scale for each optimizer.
            checkpoint: where to save and what to go on from.
            callbacks: as `fit` takes them.
            log_every: steps between two reads of the figures.

        Raises:
            UsageError: an argument that `fit` refuses, or another precision.
            NotSupported: in several processes.
            Diverged: a loss became NaN or infinite; the message names which.
        """
        check_choice("precision", precision, ("float32", "bfloat16"))
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise NotSupported("adversarial training in several processes: train it in one")
        if self.critic_steps > 1:
            batches = _Grouped(batches, self.critic_steps)
        self._schedule = make_schedule(schedule, steps=steps, warmup=warmup)
        if self.discriminator_optimizer is not None:
            for group in self.discriminator_optimizer.param_groups:
                group.setdefault("initial_lr", group["lr"])
        self._done = 0
        parameters = [p for p in self.generator.parameters() if p.requires_grad]
        try:
            return fit(
                self.step, parameters, batches, steps=steps, optimizer=self.optimizer, schedule=schedule,
                warmup=warmup, clip=clip, ema=ema, precision=precision, checkpoint=checkpoint,
                callbacks=[self, *callbacks], module=self.generator, log_every=log_every,
            )  # fmt: skip
        except Diverged as error:
            broken = [name for name, value in self._figures.items() if not math.isfinite(float(value))]
            raise Diverged(f"{error} (not finite: {', '.join(broken)})" if broken else str(error)) from error

    def step(self, batch: Any, backward: Callable[[Tensor], None]) -> tuple[Tensor, dict[str, Tensor]]:
        """All updates of the discriminators on a batch, and the generator's loss, whose backward pass it runs.

        Args:
            batch: what the generator takes; with `critic_steps` above 1 a sequence of so many.
            backward: called with the generator's loss.
        """
        if self.critic_steps > 1:
            for part in batch:
                with torch.no_grad():
                    outputs = self.generator(part)
                figures, _ = self._discriminate(part, outputs)
            last = batch[-1]
            outputs = self.generator(last)  # new noise: the critic has not seen these samples
            fakes = {name: term.fake_inputs(last, outputs) for name, term in self.discriminators.items()}
        else:
            last, outputs = batch, self.generator(batch)
            figures, fakes = self._discriminate(last, outputs)
        with _frozen(self.modules):
            loss, parts = self._generator_loss(last, outputs, fakes)
        # Which parameters take part was fixed by the forward pass: the discriminators get no gradient.
        backward(loss)
        self._done += 1
        self._figures = {name: value.detach() for name, value in (figures | parts).items()}
        return loss, self._figures

    def _discriminate(self, batch: Any, outputs: Outputs) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
        """One update of every discriminator; the figures, and what each saw of the outputs, with its graph."""
        figures, fakes, total = dict[str, Tensor](), dict[str, tuple[Tensor, ...]](), []
        for name, term in self.discriminators.items():
            fakes[name] = term.fake_inputs(batch, outputs)
            loss, parts = term.discriminator_loss(batch, outputs, fakes[name])
            figures |= {f"discriminator/{name}/{part}": value for part, value in parts.items()}
            total.append(loss)
        if self.discriminator_optimizer is not None:
            rate = self._schedule(self._done)
            for group in self.discriminator_optimizer.param_groups:
                group["lr"] = group.get("initial_lr", group["lr"]) * rate
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            sum(total[1:], total[0]).backward()
            self.discriminator_optimizer.step()
            self.discriminator_optimizer.zero_grad(set_to_none=True)
            for term in self.discriminators.values():
                if term.constrain is not None:
                    term.constrain(term.module)
        return figures, fakes

    def _generator_loss(
        self, batch: Any, outputs: Outputs, fakes: Mapping[str, tuple[Tensor, ...]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the generator's losses, and each of them unweighted."""
        parts, weighted = dict[str, Tensor](), []
        for name, term in self.discriminators.items():
            parts[f"generator/{name}"] = value = term.generator_loss(fakes[name])
            weighted.append(term.weight * value)
        for content in self.losses:
            parts[f"loss/{content.name}"] = value = content.compute(batch, outputs)
            weighted.append(content.weight * value)
        return sum(weighted[1:], weighted[0]), parts

    def on_start(self, step: int, steps: int) -> None:
        self._done = step

    def state_dict(self) -> dict[str, Any]:
        """The discriminators and their optimizer, for checkpoints."""
        optimizer = self.discriminator_optimizer
        return {
            "discriminators": module_state(self.modules),
            "optimizer": None if optimizer is None else optimizer_state(optimizer),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        load_module(self.modules, state["discriminators"])
        if self.discriminator_optimizer is not None:
            load_optimizer(self.discriminator_optimizer, state["optimizer"])


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of a module takes part in what is computed inside; the graph still runs through it."""
    free = [p for p in module.parameters() if p.requires_grad]
    for parameter in free:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in free:
            parameter.requires_grad_(True)


class _Grouped:
    """Batches in lists of n, drawn again when they end."""

    def __init__(self, batches: Iterable[Any], n: int) -> None:
        self.batches, self.n = batches, n

    def __iter__(self) -> Iterator[list[Any]]:
        def endless() -> Iterator[Any]:
            while True:
                drawn = 0
                for batch in self.batches:
                    drawn += 1
                    yield batch
                if not drawn:
                    return

        stream = endless()
        while group := list(itertools.islice(stream, self.n)):
            if len(group) < self.n:
                return
            yield group

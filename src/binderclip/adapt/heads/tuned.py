"""Heads with trained parameters: one estimator around a small module, trained by the library's one loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from binderclip.adapt.heads.base import FewShotHead
from binderclip.adapt.heads.settings import check_setting
from binderclip.errors import BinderclipError, UsageError
from binderclip.fit import FitResult, fit
from binderclip.fit.optimizers import OptimizerLike
from binderclip.numeric import check_number
from binderclip.optim import GradientRule


class OutOfTime(BinderclipError):
    """Training was stopped by `stop_training_at`; the head is not fitted."""


_DEADLINE: ContextVar[float | None] = ContextVar("deadline", default=None)


@contextmanager
def stop_training_at(when: float) -> Iterator[None]:
    """Let every `TunedHead` that is still training at that time raise `OutOfTime`, looked at after each step.

    Args:
        when: on the clock of `time.monotonic()`.
    """
    token = _DEADLINE.set(when)
    try:
        yield
    finally:
        _DEADLINE.reset(token)


def _look_at_the_clock(step: int) -> None:
    deadline = _DEADLINE.get()
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTime(f"training stopped after {step} steps: its time is up")


class _Clock:
    after_step = staticmethod(_look_at_the_clock)


class Tunable(nn.Module):
    """What a `TunedHead` trains: parameters, logits, and named losses.

    Frozen parts (towers, banks of text features) are passed in, not registered, so `parameters()` are the trained ones.
    """

    def prepare(self, views: Float[Tensor, "N V ..."]) -> Float[Tensor, "N V ..."]:
        """What of the training pictures is the same at every step, computed once before the first; then x of `logits`.

        Args:
            views: of all pictures, as `TunedHead` gives them.
        """
        return views

    def logits(self, x: Float[Tensor, "B ..."], rows: Int[Tensor, "B"] | None = None) -> Float[Tensor, "B C"]:
        """Scores of a batch.

        Args:
            x: one view of each picture, as `TunedHead` gives it (features at unit length), after `prepare`.
            rows: which training pictures these are, for modules that keep something of each; None when predicting.
        """
        raise UsageError(f"{type(self).__name__} defines no logits")

    def losses(self, x: Float[Tensor, "B ..."], targets: Int[Tensor, "B"], rows: Int[Tensor, "B"]) -> dict[str, Tensor]:
        """Named losses; their sum is minimised, unless the head has a gradient rule that combines them otherwise."""
        return {"task": F.cross_entropy(self.logits(x, rows), targets)}


@dataclass(frozen=True)
class Training:
    """How a `TunedHead` trains.

    Args:
        lr: base learning rate.
        epochs: passes over the pictures; or `steps`.
        steps: optimizer steps; or `epochs`.
        batch_size: pictures a step; None: all of them.
        optimizer: as `fit` takes it.
        schedule: as `fit` takes it, over all steps.
        warmup: as `fit` takes it.
        floor: as `fit` takes it.
        groups: module -> parameter groups, as `optim.layerwise_lr_groups` makes them; None: one group.
        rule: combines named losses to gradients, as `optim.ProjectConflicting` does; None: the gradient of their sum.
        grad_transform: changes `.grad` in place before the step, as `fit` takes it.
        ema: decay of an average of the weights, or module -> `AveragedModel` of it; the average is then the result.
            None: the last weights.
        keep_best: where `fit` gets a validation split, keep the epoch that is best on it instead of the last one.
        seed: of batches, dropout and initialisation.
    """

    lr: float
    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = 32
    optimizer: OptimizerLike = "adamw"
    schedule: str | Callable[[float], float] = "cosine"
    warmup: int | float = 0
    floor: float = 0.0
    groups: Callable[[nn.Module], list[dict[str, Any]]] | None = None
    rule: GradientRule | None = None
    grad_transform: Callable[[list[Tensor]], Any] | None = None
    ema: float | Callable[[nn.Module], AveragedModel] | None = None
    keep_best: bool = False
    seed: int = 0
    callbacks: Sequence[Any] = ()

    def total(self, pictures: int) -> int:
        """Optimizer steps for so many pictures; 0 where nothing is to be trained.

        Raises:
            UsageError: both or neither of `epochs` and `steps`, or one below 0; a batch size below 1; counts that are
                no whole numbers.
        """
        if (self.epochs is None) == (self.steps is None):
            raise UsageError(f"give epochs or steps, one of them; got epochs={self.epochs}, steps={self.steps}")
        for name in ("lr", "epochs", "steps", "batch_size"):
            check_setting(name, getattr(self, name), whole=name != "lr")
        if self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")
        count = self.steps if self.steps is not None else self.epochs
        assert count is not None
        if count < 0:
            raise UsageError(f"{'steps' if self.steps is not None else 'epochs'} must be at least 0, not {count}")
        check_number("lr", self.lr, least=0)
        each = 1 if self.batch_size is None else -(-pictures // self.batch_size)
        return count if self.steps is not None else count * each


class _Batches:
    """Index batches: a fresh order each epoch; in epoch e every picture shows view e mod V."""

    def __init__(self, pictures: int, views: int, batch_size: int | None, seed: int) -> None:
        self.pictures, self.views = pictures, views
        self.size = pictures if batch_size is None else batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        view = self.epoch % self.views
        self.epoch += 1
        if self.size >= self.pictures:
            yield torch.arange(self.pictures), view
            return
        for rows in torch.randperm(self.pictures, generator=self.generator).split(self.size):
            yield rows, view


class _BestEpoch:
    """Keeps the parameters after the epoch that is best on held pictures; the first of equals."""

    def __init__(self, module: Tunable, x: Tensor, targets: Tensor, every: int) -> None:
        self.module, self.x, self.targets, self.every = module, x, targets, every
        self.accuracy, self.state = -1.0, {name: value.clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Measure at the end of an epoch."""
        if step % self.every:
            return
        self.module.eval()
        accuracy = float((self.module.logits(self.x).argmax(dim=-1) == self.targets).double().mean())
        self.module.train()
        if accuracy > self.accuracy:
            self.accuracy = accuracy
            self.state = {name: value.clone() for name, value in self.module.state_dict().items()}


def train_tunable(
    module: Tunable,
    views: Float[Tensor, "N V ..."],
    targets: Int[Tensor, "N"] | Float[Tensor, "N"],
    training: Training,
    held: tuple[Float[Tensor, "M ..."], Int[Tensor, "M"]] | None = None,
) -> FitResult | None:
    """Train a `Tunable` in place, by `fit`; the global random state is left as it was.

    Args:
        module: float32; its `parameters()` are trained.
        views: V views of each of N pictures.
        targets: class indices, or the numbers that the module's `losses` wants.
        training: how.
        held: other pictures, one view each, and their classes, for `Training.keep_best`.

    Returns:
        What `fit` returns, or None where there was no step to take.

    Raises:
        UsageError: see `Training`; a module without parameters.
        Diverged: the loss became NaN or infinite.
    """
    steps = training.total(len(views))
    parameters: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise UsageError(f"{type(module).__name__} has no parameters to train")
    device = parameters[0].device
    with torch.no_grad():
        views, targets = module.prepare(views.to(device)), targets.to(device)

    def step(batch: Any, backward: Callable[[Tensor], None]) -> tuple[Tensor, dict[str, Tensor]]:
        rows, view = batch[0].to(device), batch[1]
        # All pictures at once come in order, and then nothing has to be gathered.
        whole = len(rows) == len(views)
        x, y = (views[:, view], targets) if whole else (views[rows, view], targets[rows])
        if training.rule is not None:
            losses = dict(training.rule(lambda: module.losses(x, y, rows), parameters))
            total = _total(losses)
        else:
            losses = module.losses(x, y, rows)
            total = _total(losses)
            backward(total)
        return total.detach(), {f"loss/{name}": value for name, value in losses.items()} if len(losses) > 1 else {}

    best = None
    if held is not None and training.keep_best:
        with torch.no_grad():
            x_held = module.prepare(held[0].to(device)[:, None])[:, 0]
        size = len(views) if training.batch_size is None else training.batch_size
        best = _BestEpoch(module, x_held, held[1].to(device), -(-len(views) // size))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        module.train()
        result = None
        if steps:
            result = fit(
                step,
                module if training.groups is None else training.groups(module),
                _Batches(len(views), views.shape[1], training.batch_size, training.seed),
                steps=steps,
                optimizer=training.optimizer,
                lr=training.lr,
                schedule=training.schedule,
                warmup=training.warmup,
                floor=training.floor,
                grad_transform=training.grad_transform,
                ema=training.ema(module) if callable(training.ema) else training.ema,
                callbacks=[*training.callbacks, _Clock(), *([] if best is None else [best])],
                module=module,
            )
            if best is not None:
                module.load_state_dict(best.state)
            elif result.ema is not None:
                module.load_state_dict(result.ema.module.state_dict())
    module.eval()
    return result


def _total(losses: dict[str, Tensor]) -> Tensor:
    first, *others = losses.values()
    return sum(others, start=first)


def by_epoch(epochs: int, *, warmup: int = 0, warmup_lr: float = 0.0) -> Callable[[float], float]:
    """Cosine to 0 that changes once an epoch, as the prompt-learning codes step their schedulers.

    Args:
        epochs: in all.
        warmup: first epochs, at the constant rate `warmup_lr`.
        warmup_lr: as a fraction of the base rate.

    Returns:
        Multiplier as a function of progress in [0, 1].
    """
    half = torch.pi / max(epochs, 1)

    def rate(progress: float) -> float:
        epoch = min(int(progress * epochs + 1e-9), epochs - 1)
        return warmup_lr if epoch < warmup else 0.5 * (1.0 + float(torch.cos(torch.tensor(half * epoch))))

    return rate


def prompt_training(lr: float, epochs: int, batch_size: int, seed: int) -> Training:
    """Training as the prompt-learning codes have it: SGD, the first epoch at a rate of 1e-5, then `by_epoch`'s cosine.

    Args:
        lr: base learning rate.
        epochs: passes over the pictures.
        batch_size: pictures a step.
        seed: of batches.
    """
    # The first epoch at 1e-5 is Dassl's warm-up; where there is no second, it would be all of the training.
    warmup = 1 if epochs > 1 and lr > 0 else 0
    return Training(
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        optimizer={"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        schedule=by_epoch(epochs, warmup=warmup, warmup_lr=1e-5 / lr if warmup else 0.0),
        seed=seed,
    )


class TunedHead(FewShotHead):
    """Base of the heads that train parameters by gradient descent.

    A subclass builds its module from the checked training data (`_module`), says how to train it (`_training`), and
    takes over, as plain tensors, what prediction needs (`_adopt`). Then it is an estimator like any other: saved,
    cloned, and bit-equal when fitted again with the same seed.

    Attributes:
        history_: figures of the training steps by name; empty where there was none.
        n_trainable_: number of trained parameters.
    """

    transient: ClassVar[tuple[str, ...]] = ("history_",)
    history_: dict[str, Any]
    n_trainable_: int

    def _module(self, views: Float[Tensor, "N V ..."], targets: Int[Tensor, "N"]) -> Tunable:
        raise UsageError(f"{type(self).__name__} builds no module: use one of binderclip.adapt.METHODS")

    def _training(self) -> Training:
        raise UsageError(f"{type(self).__name__} has no training: use one of binderclip.adapt.METHODS")

    def _adopt(self, module: Tunable) -> None:
        """Keep what prediction needs, detached."""
        raise UsageError(f"{type(self).__name__} keeps nothing of its module")

    def _fit(self, views: Float[Tensor, "N V ..."], targets: Int[Tensor, "N"]) -> None:
        training = self._training()
        training.total(len(views))  # settings that cannot be meant are refused before anything is built
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            module = self._module(views, targets)
        self.n_trainable_ = sum(p.numel() for p in module.parameters() if p.requires_grad)
        held = None if self._held is None else (self._held[0].float(), self._held[1])
        result = train_tunable(module, views.float(), targets, training, held)
        self.history_ = {} if result is None else dict(result.history)
        with torch.no_grad():
            self._adopt(module)


@dataclass(kw_only=True, eq=False, repr=False)
class EpochHead(TunedHead):
    """Base of the heads that go through the examples a number of times while the rate falls to 0 by a cosine.

    Args:
        text_prior, classes, scale: see `FewShotHead`.
        lr: base learning rate of `optimizer`, which is the subclass's.
        epochs: passes over the examples; view e mod V in epoch e.
        batch_size: examples a step.
        seed: of initialisation and batches.
    """

    optimizer: ClassVar[OptimizerLike] = "adam"
    lr: float
    epochs: int
    batch_size: int = 256
    seed: int = 0
    # A setting of the heads that say so.
    keep_best: bool = field(default=False, init=False)

    def _training(self) -> Training:
        return Training(
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            keep_best=self.keep_best,
            seed=self.seed,
        )

"""The one training loop of every method."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from binderclip.errors import NotSupported, UsageError
from binderclip.fit.checkpoint import Checkpoint
from binderclip.fit.optimizers import PRECISIONS, OptimizerLike, autocast, make_optimizer, make_scaler
from binderclip.fit.records import Diverged, FitResult, History
from binderclip.fit.state import (
    load_module,
    load_optimizer,
    misfit,
    module_state,
    not_finite,
    optimizer_state,
    plain_module,
    random_state,
    set_random_state,
    sync_only,
)
from binderclip.models.files.devices import SLOW_HERE, emulated
from binderclip.optim import METHODS as CLIPS
from binderclip.optim import ClipLog, NonFiniteGradient, as_clip
from binderclip.optim import schedule as make_schedule

__all__ = ["fit"]


def fit(
    step: Callable[..., Any],
    params: nn.Module | Iterable[Any],
    batches: Iterable[Any],
    *,
    steps: int,
    optimizer: OptimizerLike = "adamw",
    lr: float | None = None,
    schedule: str | Callable[[float], float] = "cosine",
    warmup: int | float = 0,
    floor: float = 0.0,
    accumulate: int = 1,
    clip: Any = None,
    grad_transform: Callable[[list[Tensor]], Any] | None = None,
    ema: float | AveragedModel | None = None,
    precision: str = "float32",
    checkpoint: Checkpoint | str | None = None,
    callbacks: Sequence[Any] = (),
    module: nn.Module | None = None,
    log_every: int = 20,
) -> FitResult:
    """Train: draw a batch, get a loss, step; `steps` times.

    `fit(lambda batch: loss_of(model, batch), model, batches, steps=100, lr=1e-3)` is a whole training run. Losses and
    metrics stay on the device and are read every `log_every` steps, so nothing else waits for it.

    Args:
        step: batch -> loss; the loss is a 0-dim tensor, `(loss, metrics)`, or an object with `total` and `metrics`
            (a `LossOutput`). Metrics are 0-dim tensors or floats by name. A step with a parameter `backward` runs the
            backward pass itself, by calling it with the loss (`losses.contrastive_step`).
        params: what to train: a module, parameters, or parameter groups (as `optim.param_groups` gives them).
        batches: anything iterable, drawn again when it ends. Where it has `seek(n)`, a resumed run calls it with the
            number of batches already used; otherwise so many are drawn and dropped.
        steps: optimizer steps in all.
        optimizer: a name of `OPTIMIZERS`, `{"name": ..., **settings}`, a callable of the groups, or an optimizer.
        lr: base learning rate; a group's `lr_scale` multiplies it, its own `lr` replaces it.
        schedule: "cosine", "linear", "constant", or a multiplier as a function of progress in [0, 1].
        warmup: steps (int) or share of `steps` (float below 1) of linear warm-up.
        floor: smallest multiplier of the schedule.
        accumulate: batches for one optimizer step. The gradient is that of the mean of their losses: equal to one
            large batch for losses that are means over samples, but a contrastive loss compares a sample only with those
            of its own micro-batch.
        clip: a name of `optim.METHODS`, `{"name": ..., **settings}`, a number (a norm), a `Clip`, a list of these, a
            `ClipLog`, or None; attached to the optimizer, its last report is logged as `grad_norm` and `clip_scale`.
        grad_transform: called with the parameters between backward and clip; changes `.grad` in place.
        ema: decay of an exponential moving average of `module`, or a ready `AveragedModel` of it.
        precision: "float32", or "bfloat16" or "float16" by autocast (float16 with loss scaling).
        checkpoint: where to save and what to go on from; a folder name stands for `Checkpoint(folder)`.
        callbacks: see `Callback`.
        module: what a checkpoint saves and `ema` averages, where `params` is not itself a module; the wrapped one under
            DistributedDataParallel.
        log_every: steps between two reads of the figures.

    Raises:
        UsageError: an argument is wrong, or `batches` is empty or ends early.
        Diverged: the loss became NaN or infinite; no checkpoint is written after it. In one process on a CPU this is
            seen at that step, else when the figures are read. Steps that a clip skips are passed over, up to 50 in a
            row.
        CheckpointError: a checkpoint cannot be read or written.
    """
    if steps < 1 or accumulate < 1 or log_every < 1:
        raise UsageError(f"steps, accumulate and log_every must be at least 1, got {steps}, {accumulate}, {log_every}")
    run = _start(step, params, optimizer, lr, clip, ema, precision, checkpoint, callbacks, module, log_every)
    rate = make_schedule(schedule, steps=steps, warmup=warmup, floor=floor)
    base = [group.setdefault("initial_lr", group["lr"]) for group in run.optimizer.param_groups]
    first = run.restore()
    stream = _endless(batches, skip=first * accumulate)
    for callback in _having(callbacks, "on_start"):
        callback.on_start(first, steps)
    began, seen = time.perf_counter(), run.samples

    done = first
    while done < steps:
        for group, value in zip(run.optimizer.param_groups, base, strict=True):
            group["lr"] = value * rate(done)
        figures: dict[str, Any] = {}
        for part in range(accumulate):
            batch = next(stream)
            run.samples += _size(batch) * run.world
            with sync_only(run.module, last=part == accumulate - 1):
                loss, metrics = run.forward_backward(batch, precision, accumulate)
            _add(figures, {"loss": loss, **metrics}, 1 / accumulate)
        run.scaler.unscale_(run.optimizer)
        if grad_transform is not None:
            grad_transform(run.parameters)
        for callback in _having(callbacks, "before_step"):
            callback.before_step(done + 1)
        run.take_step(done + 1, figures)
        run.optimizer.zero_grad(set_to_none=True)
        if run.ema is not None:
            run.ema.update_parameters(plain_module(run.module))  # type: ignore[arg-type]
        done += 1
        run.history.add(done, run.optimizer.param_groups[0]["lr"], run.samples, figures | run.clip_figures())
        stop = [callback.after_step(done) for callback in _having(callbacks, "after_step")]
        if run.history.full:
            run.flush()
        if run.checkpoint and (done == steps or run.checkpoint.due(done)):
            run.save(done)
        if any(stop):
            break

    run.flush()
    seconds = time.perf_counter() - began
    speed = (run.samples - seen) / max(seconds, 1e-9)
    result = FitResult(done, seconds, speed, run.history.arrays(), first, run.ema)
    for callback in _having(callbacks, "on_end"):
        callback.on_end(result)
    run.finish()
    return result


@dataclass
class _Run:
    """The pieces of one run, and how they are saved."""

    step: Callable[..., Any]
    parameters: list[Tensor]
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    history: History
    module: nn.Module | None
    ema: AveragedModel | None
    clip: Any
    handle: Any
    checkpoint: Checkpoint | None
    callbacks: Sequence[Any]
    device: torch.device
    own_backward: bool = False
    world: int = 1
    samples: int = 0
    keepers: list[Any] = field(default_factory=list)

    def forward_backward(self, batch: Any, precision: str, accumulate: int) -> tuple[Tensor, Mapping[str, Any]]:
        """One micro-batch; its gradients are added to the parameters."""

        def backward(loss: Tensor) -> None:
            self.scaler.scale(loss / accumulate).backward()

        if self.own_backward:
            with autocast(precision, self.device):
                return _outcome(self.step(batch, backward=backward))
        with autocast(precision, self.device):
            loss, metrics = _outcome(self.step(batch))
        backward(loss)
        return loss, metrics

    def take_step(self, step: int, figures: dict[str, Any]) -> None:
        """Step the optimizer; what an attached clip refuses is told with the step's number."""
        try:
            self.scaler.step(self.optimizer)
        except NonFiniteGradient as error:
            self.history.add(step, self.optimizer.param_groups[0]["lr"], self.samples, figures)
            self.flush()
            raise Diverged(f"step {step}: {error}; {self.kept}") from error
        self.scaler.update()

    def clip_figures(self) -> dict[str, Any]:
        """What the clip reported, as one number each; of several clips the first norm and the product of the scales."""
        report = getattr(self.clip, "report", None)
        reports = [r for r in (report if isinstance(report, list) else [report]) if r is not None and len(r.scale)]
        if not reports:
            return {}
        scale = reports[0].scale.float().mean()
        for other in reports[1:]:
            scale = scale * other.scale.float().mean()
        skipped = torch.stack([r.skipped.float() for r in reports]).amax() if len(reports) > 1 else reports[0].skipped
        return {"grad_norm": reports[0].norm, "clip_scale": scale, "skipped": skipped.float()}

    @property
    def kept(self) -> str:
        """Which checkpoint is left, for messages."""
        return self.checkpoint.describe() if self.checkpoint else "there is no checkpoint"

    def flush(self) -> None:
        self.history.flush(self.kept)

    def save(self, step: int) -> None:
        # Reading the figures first makes sure that no state behind a NaN is ever saved; the last update may have made
        # one that no loss has seen yet.
        self.flush()
        module: Any = module_state(self.module) if self.module is not None else [p.detach() for p in self.parameters]
        if broken := not_finite(module, self.module, self.parameters):
            raise Diverged(
                f"parameter {broken} is not finite after step {step}; {self.kept}. Try a lower learning rate, a longer "
                "warm-up, a clip, or float32"
            )
        state = {
            "samples": self.samples,
            "module": module,
            "optimizer": optimizer_state(self.optimizer),
            "scaler": self.scaler.state_dict(),
            "ema": module_state(self.ema) if self.ema is not None else None,
            "random": random_state(),
            "history": self.history.state_dict(),
            "callbacks": [callback.state_dict() for callback in self.keepers],
        }
        assert self.checkpoint is not None
        self.checkpoint.save(step, state)

    def restore(self) -> int:
        """Put the newest checkpoint back; the number of steps it had done."""
        state = self.checkpoint.prepare(self._unfit) if self.checkpoint else None
        if state is None:
            return 0
        if self.module is not None:
            load_module(self.module, state["module"])
        else:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, state["module"], strict=True):
                    parameter.copy_(value)
        load_optimizer(self.optimizer, state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            load_module(self.ema, state["ema"])
        self.history.load_state_dict(state["history"])
        for callback, kept in zip(self.keepers, state["callbacks"], strict=True):
            callback.load_state_dict(kept)
        self.samples = int(state["samples"])
        set_random_state(state["random"])
        return int(state["step"])

    def _unfit(self, state: Mapping[str, Any]) -> str:
        """Why this run cannot go on from a state; "" where it can."""
        problem = misfit(state, self.module, self.parameters, self.optimizer)
        if problem:
            return problem
        if len(state["callbacks"]) != len(self.keepers):
            return f"it holds {len(state['callbacks'])} states of callbacks, the run has {len(self.keepers)}"
        if (self.ema is None) != (state["ema"] is None):
            return f"it was written {'with' if self.ema is None else 'without'} an average of the weights"
        return ""

    def finish(self) -> None:
        if self.handle is not None:
            self.handle.remove()


def _start(
    step: Callable[..., Any],
    params: Any,
    optimizer: OptimizerLike,
    lr: float | None,
    clip: Any,
    ema: float | AveragedModel | None,
    precision: str,
    checkpoint: Checkpoint | str | None,
    callbacks: Sequence[Any],
    module: nn.Module | None,
    log_every: int,
) -> _Run:
    """Build optimizer, clip, scaler and average; nothing has been computed yet."""
    if isinstance(params, nn.Module):
        module = module if module is not None else params
        params = [p for p in params.parameters() if p.requires_grad]
    built = make_optimizer(optimizer, params, lr)
    parameters = [p for group in built.param_groups for p in group["params"]]
    device = parameters[0].device
    autocast(precision, device)  # an unknown name is refused here
    if emulated(PRECISIONS[precision], device):
        warnings.warn(f"precision={precision!r}: {SLOW_HERE}", stacklevel=3)
    clip = make_clip(clip)
    names = None if module is None else plain_module(module).named_parameters()
    handle = None if clip is None else clip.attach(built, names=names)
    if isinstance(ema, float):
        if module is None:
            raise UsageError("ema needs the module it averages: pass a module as params, or module=")
        if any(hasattr(p, "device_mesh") for p in parameters):
            raise NotSupported("ema of a model sharded by fully_shard: train it with DDP, or without ema")
        if not 0 <= ema < 1:
            raise UsageError(f"ema is a decay in [0, 1), such as 0.999, got {ema}")
        ema = AveragedModel(plain_module(module), multi_avg_fn=get_ema_multi_avg_fn(ema))
    functions = [c for c in callbacks if inspect.isfunction(c) or inspect.isbuiltin(c) or inspect.ismethod(c)]
    return _Run(
        step=step,
        parameters=parameters,
        optimizer=built,
        scaler=make_scaler(precision, device),
        history=History(log_every, [*functions, *(c.on_step for c in _having(callbacks, "on_step"))]),
        module=module,
        ema=ema,
        clip=clip,
        handle=handle,
        checkpoint=Checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint,
        callbacks=callbacks,
        device=device,
        own_backward=_takes_backward(step),
        world=dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1,
        keepers=_having(callbacks, "state_dict"),
    )


def make_clip(clip: Any) -> Any:
    """A clip from a name, a number (`NormClip`), `{"name": ..., **settings}`, a list of these, a clip, or None.

    Raises:
        UsageError: unknown name, or settings that the clip does not take.
    """
    if clip is None or isinstance(clip, ClipLog):
        return clip
    if isinstance(clip, (list, tuple)):
        return as_clip([make_clip(one) for one in clip])
    if isinstance(clip, Mapping):
        name = clip.get("name")
        if name not in CLIPS:
            raise UsageError(f"clip {name!r} is unknown: choose one of {', '.join(sorted(CLIPS))}")
        try:
            return CLIPS[name](**{key: value for key, value in clip.items() if key != "name"})
        except TypeError as error:
            raise UsageError(f"clip {name!r}: {error}") from error
    return as_clip(clip)


def _takes_backward(step: Callable[..., Any]) -> bool:
    try:
        return "backward" in inspect.signature(step).parameters
    except (TypeError, ValueError):
        return False


def _endless(batches: Iterable[Any], skip: int) -> Iterator[Any]:
    """Batches for ever, the first `skip` left out."""
    if skip and hasattr(batches, "seek"):
        batches.seek(skip)
        skip = 0
    drawn = 0
    while True:
        before = drawn
        for batch in batches:
            drawn += 1
            if drawn > skip:
                yield batch
        if drawn == before:
            what = f"ended after {drawn} and cannot be drawn again" if drawn else "is empty"
            raise UsageError(f"batches {what}; pass a list, a DataLoader or another iterable that starts afresh")


def _outcome(value: Any) -> tuple[Tensor, Mapping[str, Any]]:
    if isinstance(value, Tensor):
        return value, {}
    if isinstance(value, tuple) and len(value) == 2:
        return value
    if hasattr(value, "total"):
        terms = {f"loss/{name}": term for name, term in getattr(value, "terms", {}).items()}
        return value.total, {**(terms if len(terms) > 1 else {}), **value.metrics}
    raise UsageError(f"step must return a loss, (loss, metrics) or a LossOutput, not {type(value).__name__}")


def _add(total: dict[str, Any], figures: Mapping[str, Any], share: float) -> None:
    for name, value in figures.items():
        value = value.detach() if isinstance(value, Tensor) else value
        # One micro-batch is the rule: leave its figures as they are instead of launching kernels for each.
        total[name] = value if share == 1 else total.get(name, 0.0) + value * share


def _size(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor."""
    if isinstance(batch, Mapping):
        return next((size for size in map(_size, batch.values()) if size), 0)
    if isinstance(batch, (tuple, list)):
        return next((size for size in map(_size, batch) if size), 0)
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    return len(batch) if hasattr(batch, "__len__") and not isinstance(batch, str) else 0


def _having(callbacks: Sequence[Any], method: str) -> list[Any]:
    return [callback for callback in callbacks if hasattr(callback, method)]

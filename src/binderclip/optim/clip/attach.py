"""Clipping that happens by itself before every step of an optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from binderclip.errors import NotSupported, UsageError
from binderclip.optim.clip.target import StepTarget
from binderclip.optim.clip.updates import UpdateClips
from binderclip.optim.gradients.collect import KeyedParameter, names_of
from binderclip.optim.gradients.measure import shard_cuts

__all__ = ["Attachment", "attach", "unwrap"]

_KEYS: WeakKeyDictionary[Optimizer, set[str]] = WeakKeyDictionary()

# a GradScaler that has already unscaled sets `grad_scale` to None and deletes it after the step: None is not absent
_ABSENT = object()


@runtime_checkable
class _Clipper(Protocol):
    def run(self, entries: Any, target: StepTarget | None) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Attachment:
    """The handle `attach` returns: `.remove()` undoes it; also a context manager.

    Args:
        clip: the clip.
        optimizer: the optimizer that steps.
        names: name of each parameter, by identity.
        saved: the optimizer whose state dict carries the clip's, where that is another one.
    """

    def __init__(
        self, clip: _Clipper, optimizer: Optimizer, names: dict[int, str], saved: Optimizer | None = None
    ) -> None:
        self.clip, self.optimizer, self.names = clip, optimizer, names
        self.saved = optimizer if saved is None else saved
        taken = _KEYS.setdefault(self.saved, set())
        # the first that is free: one from between the others may have been removed
        self.key = next(key for key in ("clip", *(f"clip{i + 1}" for i in range(len(taken)))) if key not in taken)
        taken.add(self.key)
        self._restore: list[tuple[str, Any]] | None = None
        self._updates: UpdateClips | None = None
        # a step under torch.compile must not be traced through the hooks: what they decide differs from step to step,
        # and a traced fused step would keep the scale it was traced with
        self._hooks = [
            optimizer.register_step_pre_hook(torch.compiler.disable(self._before)),
            optimizer.register_step_post_hook(torch.compiler.disable(self._after)),
            self.saved.register_state_dict_post_hook(self._save),
            self.saved.register_load_state_dict_pre_hook(self._load),
        ]

    def remove(self) -> None:
        """Detach; the optimizer steps as before, and its state dict no longer holds the clip's."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        _KEYS.get(self.saved, set()).discard(self.key)

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # left over if the previous step raised
        self._put_back()
        self._updates = None
        # args holds the optimizer itself first
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._clip()
            return None

        def clipped() -> Any:
            # the gradients come into being inside the closure, so that is where they must be clipped
            loss = closure()
            self._put_back()
            self._clip()
            return loss

        if len(args) > 1:
            return (args[0], clipped, *args[2:]), kwargs
        return args, {**kwargs, "closure": clipped}

    def _clip(self) -> None:
        entries: list[KeyedParameter] = []
        rates: list[Any] = []
        for number, group in enumerate(self.optimizer.param_groups):
            listed = group.get("param_names") or group.get("names") or ()
            for place, parameter in enumerate(group["params"]):
                name = self.names.get(id(parameter))
                if name is None:
                    name = listed[place] if place < len(listed) else str(len(entries))
                entries.append(KeyedParameter(name, parameter, f"group{number}"))
                rates.append(group.get("lr"))
        sharded = bool(shard_cuts([entry.parameter for entry in entries]))
        clips = getattr(self.clip, "clips", (self.clip,))
        excluded = any(getattr(clip, "exclude", ()) for clip in clips)
        target = StepTarget(self.optimizer, whole=not excluded and not sharded)
        if target.takes_flag:
            attributes = ("grad_scale", "found_inf")
            self._restore = [(name, getattr(self.optimizer, name, _ABSENT)) for name in attributes]
        later: list[Any] = [clip for clip in clips if getattr(clip, "where", "gradient") == "update"]
        with self._noting(done=not later):
            for clip in clips:
                if clip not in later:
                    clip.run(entries, target)
            if later:
                # a closure may be evaluated several times in one step, which starts at the first
                if self._updates is None:
                    self._updates = UpdateClips(later, entries, rates)
                self._updates.guard(entries, target)

    def _noting(self, *, done: bool) -> AbstractContextManager[None]:
        """A log's note of what happens inside, where the clip is watched by one."""
        noting = getattr(self.clip, "noting", None)
        return nullcontext() if noting is None else noting(done=done)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._put_back()
        updates, self._updates = self._updates, None
        if updates is not None:
            with self._noting(done=True):
                updates.finish()

    def _put_back(self) -> None:
        """Leave the optimizer's scaling attributes as they were found."""
        for name, value in self._restore or ():
            if value is not _ABSENT:
                setattr(self.optimizer, name, value)
            elif hasattr(self.optimizer, name):
                delattr(self.optimizer, name)
        self._restore = None

    def _save(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        state[self.key] = self.clip.state_dict()
        return state

    def _load(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        # a state saved without the clip leaves its memory alone
        saved = state.pop(self.key, None)
        if saved is not None:
            self.clip.load_state_dict(saved)
        return state


def unwrap(optimizer: Any) -> Optimizer:
    """The `torch.optim` optimizer inside a wrapper such as Accelerate's `AcceleratedOptimizer`.

    Raises:
        NotSupported: nothing inside has step hooks.
    """
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    reason = None
    if not isinstance(optimizer, Optimizer):
        reason = "it is no torch.optim.Optimizer"
    elif not hasattr(optimizer, "_optimizer_step_pre_hooks"):
        reason = "its constructor never called torch.optim.Optimizer.__init__, so it has no step hooks"
    elif not getattr(type(optimizer).step, "hooked", False):
        reason = "its step() does not run step hooks"
    if reason:
        raise NotSupported(
            f"cannot attach to {type(optimizer).__name__}: {reason}. Call clip(parameters) before its step() instead"
        )
    return optimizer


def _stepping(optimizer: Optimizer) -> Optimizer:
    """The optimizer whose `step` updates the weights: a two-step SAM leaves that to its base, in `second_step`."""
    if not hasattr(optimizer, "second_step"):
        return optimizer
    base = getattr(optimizer, "base_optimizer", None)
    if base is None:
        raise NotSupported(
            f"cannot attach to {type(optimizer).__name__}: it has second_step() but no base_optimizer whose step could "
            "be hooked. Call clip(parameters) before second_step() instead"
        )
    return unwrap(base)


def attach(clip: _Clipper, optimizer: Any, names: nn.Module | Iterable[tuple[str, Tensor]] | None = None) -> Attachment:
    """Clip before every step of an optimizer.

    A closure is wrapped, so that clipping follows its backward. Under a GradScaler with a fused optimizer, norms are
    those of the unscaled gradients and the factor goes into the optimizer's own division; a fused optimizer without a
    scaler gets it the same way. A sharpness-aware optimizer with `first_step` and `second_step` clips in the second,
    where its `base_optimizer` steps, and not the gradient that only says where to climb. The clip's state travels in
    `optimizer.state_dict()["clip"]` (torch.distributed.checkpoint drops unknown entries: save `clip.state_dict()`
    beside it there).

    Args:
        clip: a `Clip` or a list of them made by `as_clip`.
        optimizer: the optimizer, or a wrapper around one.
        names: the model, or `model.named_parameters()`; else the optimizer's own names, else positions.

    Returns:
        A handle with `.remove()`.

    Raises:
        NotSupported: an optimizer without step hooks, or with a `second_step` that does not step a `base_optimizer`.
        UsageError: tensors without names, as of `model.parameters()`; the optimizer in the place of the clip.
    """
    if isinstance(clip, Optimizer):
        raise UsageError("attach takes the clip first: attach(clip, optimizer)")
    inner = unwrap(optimizer)
    return Attachment(clip, _stepping(inner), names_of(names), saved=inner)

"""One operation in which parameters meet data, while it is recorded: what goes in, and what its gradient gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.privacy.per_sample.contributions import Contribution, Direct, Outer
from binderclip.privacy.per_sample.recorded import RecordedPass
from binderclip.privacy.per_sample.sources import Use

__all__ = ["Watch", "linear_like"]


class Watch:
    """An operation's sources, and its input as it was when it was used."""

    def __init__(self, recorder: RecordedPass, x: Tensor, what: str) -> None:
        self.recorder, self.x, self.version, self.what = recorder, x.detach(), x._version, what
        self.uses: list[Use] = []
        self.builders: list[Callable[[Tensor], Contribution]] = []

    def add(self, tensor: Tensor | None, build: Callable[[Tensor], Contribution]) -> Tensor | None:
        """The detached value of an argument; notes the use where it is a source."""
        source = self.recorder.sources.get(id(tensor)) if tensor is not None else None
        if source is None:
            return tensor.detach() if tensor is not None else None
        self.uses.append(self.recorder.use(source, self.what))
        self.builders.append(build)
        return source.value

    def done(self, out: Tensor) -> Tensor:
        """Hook the output."""
        if not self.uses:
            return out
        return self.recorder.on_gradient(out, self.uses, self._build)

    def _build(self, grad: Tensor) -> Sequence[Contribution]:
        if self.x._version != self.version:
            raise NotSupported(f"the input of {self.uses[0].what} was changed in place after it was used")
        built = [build(grad) for build in self.builders]
        # the graph keeps its hooks, and through them the inputs, for as long as the losses live
        self.x, self.builders = self.x.new_empty(0), []
        return built

    def rows(self, tensor: Tensor) -> Tensor:
        """(B, T, features)."""
        return self.recorder.positions(tensor, self.uses[0])

    def summed(self, tensor: Tensor) -> Direct:
        """Per-sample sum over the positions."""
        rows = self.rows(tensor)
        return Direct(rows[:, 0] if rows.shape[1] == 1 else rows.sum(1))


def linear_like(recorder: RecordedPass, x: Tensor, weight: Any, bias: Any, what: str) -> Tensor:
    """x W^T + b."""
    watch = Watch(recorder, x, what)
    w = watch.add(weight, lambda d: Outer(watch.rows(d), watch.rows(watch.x)))
    b = watch.add(bias, lambda d: watch.summed(d))
    return watch.done(F.linear(x, w, b))  # type: ignore[arg-type]

"""Segmentation metrics for loops that speak torchmetrics: collections, Lightning's logging, processes."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from binderclip.errors import MissingDependency, UsageError
from binderclip.segment.metrics.accumulator import Accumulator


def as_torchmetric(accumulator: Accumulator, *, scores: str | Sequence[str] | None = None, **compute: Any) -> Any:
    """A `torchmetrics.Metric` around an accumulator, for `MetricCollection`, Lightning's `self.log`, DDP.

    Its states are the accumulator's tensors, summed or joined over processes by torchmetrics. What the accumulator has
    seen so far is left out.

    Args:
        accumulator: any metric of this module.
        scores: fields of its result: one name gives a scalar, several a dictionary; all numbers of the result by
            default. Of no use for a metric whose result is a number (`SortedAP`).
        compute: options of its `compute`, such as `adaptive=True` of `CalibrationBins`.

    Returns:
        A metric with `update` as the accumulator's; `compute` gives float64 tensors on the metric's device.

    Raises:
        UsageError: something that is no accumulator; at `compute`, a field that its result does not have.
        MissingDependency: torchmetrics is not installed.

    Examples:
        >>> from binderclip.segment.metrics import IoU, SortedAP, as_torchmetric
        >>> metric = as_torchmetric(IoU(2), scores="miou")
        >>> metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """
    if not isinstance(accumulator, Accumulator):
        raise UsageError(f"give an accumulator of segment.metrics, such as IoU(21), not {type(accumulator).__name__}")
    chosen = scores if scores is None or isinstance(scores, str) else tuple(scores)
    return _kind()(accumulator, chosen, compute)


@lru_cache(maxsize=1)
def _kind() -> type:
    """The class, made when torchmetrics is there to be derived from."""
    try:
        import torchmetrics
    except ImportError as error:
        raise MissingDependency(f"torchmetrics is not installed: pip install torchmetrics ({error})") from error

    class AccumulatorMetric(torchmetrics.Metric):  # type: ignore[misc]
        """A torchmetrics metric whose states are those of an accumulator."""

        is_differentiable = False
        full_state_update = False

        def __init__(self, accumulator: Accumulator, scores: Any, options: dict[str, Any]) -> None:
            super().__init__()
            self.accumulator = copy.deepcopy(accumulator)
            self.accumulator.reset()
            self.scores, self.options = scores, options
            # Collections take metrics of equal states for one metric: other settings must have other names.
            mark = f"_{zlib.crc32(repr(accumulator).encode()):08x}"
            self.empty = self.accumulator.state_dict()
            self.names = {name: name + mark for name in self.empty}
            for name, value in self.empty.items():
                listed = name in accumulator.rows
                self.add_state(
                    self.names[name], default=[] if listed else value, dist_reduce_fx="cat" if listed else "sum"
                )

        def update(self, *args: Any, **context: Any) -> None:
            """As the accumulator's `update`."""
            part = self.accumulator
            part.reset()
            part.update(*args, **context)  # type: ignore[attr-defined]
            for name, value in part.state_dict().items():
                before, value = getattr(self, self.names[name]), value.to(self.device)
                if name in part.rows:
                    before.append(value)
                else:
                    setattr(self, self.names[name], before + value)

        def compute(self) -> Any:
            """The chosen scores."""
            whole = self.accumulator
            whole.load_state_dict({name: self._joined(name).cpu() for name in self.names})
            computed = whole.compute(**self.options)
            numbers = computed if isinstance(computed, float) else _numbers(computed)
            if isinstance(numbers, float):
                return self._tensor(numbers)
            names = list(numbers) if self.scores is None else self.scores
            missing = [n for n in ([names] if isinstance(names, str) else names) if n not in numbers]
            if missing:
                raise UsageError(f"{type(computed).__name__} has no {', '.join(missing)}; it has {', '.join(numbers)}")
            if isinstance(names, str):
                return self._tensor(numbers[names])
            return {name: self._tensor(numbers[name]) for name in names}

        def sync(self, *args: Any, **options: Any) -> None:
            """As torchmetrics', but a process that has seen nothing gives lists of the right type."""
            for name in self.accumulator.rows:
                if not getattr(self, self.names[name]):
                    setattr(self, self.names[name], [self.empty[name].to(self.device)])
            super().sync(*args, **options)

        def __reduce__(self) -> Any:
            return as_torchmetric, (self.accumulator,), self.__getstate__()

        def _joined(self, name: str) -> Tensor:
            value = getattr(self, self.names[name])
            if isinstance(value, Tensor):
                return value
            return torch.cat(value) if value else self.empty[name]

        def _tensor(self, value: float) -> Tensor:
            kind = torch.float32 if self.device.type == "mps" else torch.float64
            return torch.tensor(value, dtype=kind, device=self.device)

    return AccumulatorMetric


def _numbers(result: Any) -> dict[str, float]:
    values = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}

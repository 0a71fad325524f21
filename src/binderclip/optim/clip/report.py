"""What a clip says about one call."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["ClipReport", "empty_report"]


class ClipReport(NamedTuple):
    """What one call did; all tensors, so that reading it later costs no synchronisation now.

    Args:
        norm: the statistic of the whole gradient before clipping.
        stat: the statistic of each block: one for "global", one per group, tensor or unit. For "coordinate", the
            largest absolute value of each tensor.
        limit: what the threshold allowed.
        scale: the factor of each block, 1 where nothing was done. After a clamp, what the largest coordinate shrank by.
        clipped: which blocks exceeded their limit.
        skipped: whether the step was given up because the gradient was not finite.
        tensor_norms: the statistic per tensor, in the order of `names`.
        names: the tensors' keys (their names, else their positions).
    """

    norm: Float[Tensor, ""]
    stat: Float[Tensor, "blocks"]
    limit: Float[Tensor, "blocks"]
    scale: Float[Tensor, "blocks"]
    clipped: Bool[Tensor, "blocks"]
    skipped: Bool[Tensor, ""]
    tensor_norms: Float[Tensor, "tensors"]
    names: tuple[str, ...]

    def _largest(self, most: int) -> list[tuple[str, float]]:
        """(tensor, its norm), largest first."""
        pairs = zip(self.names, self.tensor_norms.tolist(), strict=False)
        return sorted(pairs, key=lambda row: -row[1])[:most]

    def _repr_html_(self) -> str:
        """Norm, limit and what was done, and the largest tensors, in a notebook; waits for the device."""
        from binderclip.display import table_html

        blocks = len(self.limit)
        done = (
            "skipped: the gradient was not finite" if bool(self.skipped) else f"{int(self.clipped.sum())} of {blocks}"
        )
        limit = f"{float(self.limit.min()):.4g}" if blocks else "none"
        scale = f"{float(self.scale.min()):.4g}" if blocks else "none"
        columns = ("norm", "smallest limit", "smallest factor", "blocks clipped")
        whole = table_html(columns, [(f"{float(self.norm):.4g}", limit, scale, done)])
        tensors = [(name, f"{norm:.4g}") for name, norm in self._largest(8)]
        return whole + table_html(("largest tensors", "norm"), tensors)

    def plot(self) -> Any:
        """A matplotlib figure: the norms of the largest tensors; waits for the device."""
        from binderclip.display import bars, new_figure

        rows = self._largest(20)
        figure = new_figure(7, 0.8 + 0.25 * max(2, len(rows)))
        axes = figure.subplots()
        bars(axes, [name for name, _ in rows], [norm for _, norm in rows])
        axes.set_xlabel("norm before clipping")
        return figure


def empty_report() -> ClipReport:
    """The report where nothing had a gradient."""
    zero, none = torch.zeros(()), torch.zeros(0)
    return ClipReport(zero, none, none, none, none.bool(), torch.tensor(False), none, ())

"""The threshold of a detector, from real pictures alone: so few false alarms, whatever happened to a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError


def false_alarm_threshold(logits: Mapping[str, Float[Tensor, "_"]], *, share: float = 0.05) -> float:
    """The least logit above which at most a share of real pictures lies, in each group of them.

    Of n logits of a group that is the ceil((n + 1) (1 - share))-th smallest, the quantile of split conformal
    prediction: a new real picture like those of the group lies above it with a probability of at most `share`. The
    largest over the groups is taken, so a kind of processing that looks generated more often than others decides.

    Args:
        logits: processing -> logits of real pictures after it, none of which the detector learned from.
        share: of false alarms, above 0 and below 1.

    Raises:
        UsageError: no group, one with too few pictures for so small a share, or logits that are not finite.

    Examples:
        >>> import torch
        >>> false_alarm_threshold({"plain": torch.arange(19.0), "blurred": torch.arange(19.0) - 7}, share=0.1)
        17.0
    """
    if not 0 < share < 1:
        raise UsageError(f"share {share} of false alarms must lie between 0 and 1")
    if not logits:
        raise UsageError("a threshold needs logits of real pictures")
    thresholds = []
    for name, values in logits.items():
        rank = math.ceil((len(values) + 1) * (1 - share))
        if rank > len(values):
            least = math.ceil(1 / share) - 1
            raise UsageError(f"{name!r}: {len(values)} real pictures, and a share of {share} needs at least {least}")
        if not bool(values.isfinite().all()):
            raise UsageError(f"{name!r}: logits hold NaN or infinite values")
        thresholds.append(float(values.double().sort().values[rank - 1]))
    return max(thresholds)

"""Losses whose gradient at the logits has a known bound for every sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["LIPSCHITZ_LOSSES", "cosine_loss", "hinge_loss", "hkr_loss", "kr_loss", "loss_constant", "mae_loss",
           "tau_cross_entropy"]  # fmt: skip


def tau_cross_entropy(logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"], tau: float = 1.0) -> Float[Tensor, "B"]:
    """Cross-entropy of `tau * logits`, divided by tau: the constant stays root 2 at every temperature.

    A 1-Lipschitz network has small logits, so tau well above 1 is needed for a sharp softmax.
    """
    return F.cross_entropy(tau * logits, labels, reduction="none") / tau


def cosine_loss(logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"], floor: float = 1.0) -> Float[Tensor, "B"]:
    """One minus the cosine of logits and one-hot label, with the norm taken as `floor` where it is smaller."""
    norm = torch.linalg.vector_norm(logits, dim=1).clamp(min=floor)
    return 1 - logits.gather(1, labels[:, None])[:, 0] / norm


def mae_loss(logits: Float[Tensor, "B 1"], targets: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Absolute error of one output."""
    return (_single(logits) - targets).abs()


def hinge_loss(logits: Float[Tensor, "B 1"], signs: Float[Tensor, "B"], margin: float = 1.0) -> Float[Tensor, "B"]:
    """max(0, margin - y z) of one output; `signs` are -1 or 1."""
    return (margin - signs * _single(logits)).clamp(min=0)


def kr_loss(logits: Float[Tensor, "B 1"], signs: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """-y z, the dual of the Wasserstein distance between both classes (Kantorovich and Rubinstein)."""
    return -signs * _single(logits)


def hkr_loss(
    logits: Float[Tensor, "B 1"], signs: Float[Tensor, "B"], alpha: float = 10.0, margin: float = 1.0
) -> Float[Tensor, "B"]:
    """KR loss plus alpha times the hinge loss."""
    return kr_loss(logits, signs) + alpha * hinge_loss(logits, signs, margin)


LIPSCHITZ_LOSSES: dict[str, Callable[..., Tensor]] = {
    "tau-ce": tau_cross_entropy,
    "cosine": cosine_loss,
    "mae": mae_loss,
    "hinge": hinge_loss,
    "kr": kr_loss,
    "hkr": hkr_loss,
}


def loss_constant(name: str, *, floor: float = 1.0, alpha: float = 10.0) -> float:
    """Largest norm of one sample's gradient at the logits.

    Args:
        name: a key of `LIPSCHITZ_LOSSES`.
        floor: of the cosine loss: 1 / floor.
        alpha: of HKR: alpha + 1.

    Raises:
        UsageError: an unknown loss, a floor that is not positive, a negative alpha.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """
    if not floor > 0 or not alpha >= 0:
        raise UsageError(f"floor must be positive and alpha at least 0, got {floor} and {alpha}")
    constants = {"tau-ce": math.sqrt(2), "cosine": 1 / floor, "mae": 1.0, "hinge": 1.0, "kr": 1.0, "hkr": alpha + 1}
    if name not in constants:
        raise UsageError(f"loss must be one of {', '.join(constants)}, got {name!r}")
    return constants[name]


def _single(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] != 1:
        raise UsageError(f"this loss takes one output a sample, (B, 1), not {tuple(logits.shape)}")
    return logits[:, 0]

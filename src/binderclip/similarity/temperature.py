"""The temperature at which a classifier's probabilities are likeliest."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special


def fit_temperature(logits: Float[np.ndarray, "N C"], targets: Int[np.ndarray, "N"], *, smooth: bool = True) -> float:
    """The T that makes softmax(logits / T) likeliest (Guo et al., On Calibration of Modern Neural Networks, 2017).

    Smooth: a share 1 / (N + 2) of each target goes to all classes alike, as in Platt's scaling: where every held-out
    picture was right, the likeliest T would be 0 and every later mistake certain.

    Args:
        logits: of pictures that the classifier was not fitted on.
        targets: class indices.
        smooth: without, it is the maximum of the likelihood itself.
    """
    count, classes = logits.shape
    soft = 1 / (count + 2) if smooth else 0.0
    target = np.full((count, classes), soft / classes)
    target[np.arange(count), targets] += 1 - soft

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float(np.mean(special.logsumexp(scaled, axis=1) - (target * scaled).sum(axis=1)))

    minimum = optimize.minimize_scalar(loss, bounds=(-12.0, 12.0), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(minimum.x))

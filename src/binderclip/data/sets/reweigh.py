"""Weights, and draws, under which groups and classes are independent."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int

from binderclip.errors import UsageError


def reweigh(y: Any, groups: Any) -> Float[np.ndarray, "N"]:
    """Weight each item by P(group) P(class) / P(group, class), so that no group says anything of the class any more.

    Under the weights every group has the class shares of the whole set. Where every combination occurs they sum to N; a
    combination that never occurs can get no weight, so that independence is then out of reach.

    Paper: Kamiran and Calders, Data preprocessing techniques for classification without discrimination (Knowledge and
    Information Systems 2012), as Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464) has it.

    Args:
        y: class of each item (N,), of any kind.
        groups: its group (N,), of any kind; for several attributes their combination.

    Returns:
        (N,) weights above 0, as `sample_weight` of `adapt.LinearProbe` and of scikit-learn's estimators takes them.

    Raises:
        UsageError: not of one length, or no item.

    Examples:
        >>> reweigh(["cat", "cat", "cat", "dog"], ["in", "in", "out", "out"]).round(2).tolist()
        [0.75, 0.75, 1.5, 0.5]
    """
    classes, owners = np.asarray(y), np.asarray(groups)
    if classes.ndim != 1 or classes.shape != owners.shape or not len(classes):
        raise UsageError(f"y and groups must both be (N,), N > 0; got {classes.shape} and {owners.shape}")
    _, c = np.unique(classes, return_inverse=True)
    _, g = np.unique(owners, return_inverse=True)
    joint = np.zeros((g.max() + 1, c.max() + 1))
    np.add.at(joint, (g, c), 1)
    expected = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True) / len(c)  # (G, C)
    return expected[g, c] / joint[g, c]


def balanced_rows(y: Any, groups: Any, n: int, *, seed: int = 0) -> Int[np.ndarray, "n"]:
    """Draw items so that every combination of class and group that occurs is drawn equally often.

    Each combination gives n / cells items, the first of them one more where that is not whole; its items are drawn
    without repeats until all were drawn, then again. The order is random, so that rows are batches as they stand.

    Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464), balanced sampling before
    training.

    Args:
        y: class of each item (N,), of any kind.
        groups: its group (N,), of any kind.
        n: items to draw.
        seed: of the draws.

    Raises:
        UsageError: not of one length, no item, or n below 1.

    Examples:
        >>> sorted(balanced_rows(["cat", "cat", "cat", "dog"], ["in", "in", "in", "in"], 4).tolist())[-2:]
        [3, 3]
    """
    pairs = list(zip(*(np.asarray(column).tolist() for column in (y, groups)), strict=False))
    if len(pairs) != len(y) or len(pairs) != len(groups) or not pairs or n < 1:
        raise UsageError(f"y and groups must both be (N,), N > 0, and n at least 1; got {len(y)}, {len(groups)}, {n}")
    rng = np.random.default_rng(seed)
    cells = [np.flatnonzero([pair == cell for pair in pairs]) for cell in dict.fromkeys(pairs)]
    drawn = []
    for number, rows in enumerate(cells):
        count = n // len(cells) + int(number < n % len(cells))
        rounds = [rng.permutation(rows) for _ in range(-(-count // len(rows)))]
        drawn.append(np.concatenate([*rounds, rows[:0]])[:count])
    return rng.permutation(np.concatenate(drawn)).astype(np.int64)

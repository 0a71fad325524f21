"""`make_private`: model, optimizer and data loader -> the same, private, under Opacus's argument names."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from binderclip.errors import UsageError
from binderclip.privacy.accounting.ledger import Accountant, noise_multiplier_for
from binderclip.privacy.accounting.sampling import PoissonSampler, collate_with_empty, unseeded
from binderclip.privacy.clipping.feedback import DiceFeedback
from binderclip.privacy.clipping.rules import AdaptiveClip, FlatClip, GroupClip, SensitivityRule
from binderclip.privacy.optimizer import PrivateOptimizer
from binderclip.privacy.per_sample.recorder import PerSampleRecorder

__all__ = ["DiceSGD", "PrivateParts", "make_private"]


class PrivateParts(NamedTuple):
    """What `make_private` gives.

    Attributes:
        model: the same module; its forward pass in training mode is recorded.
        optimizer: call `optimizer.backward(losses)` with losses (B,), then `optimizer.step()`.
        data_loader: Poisson batches.
        noise_multiplier: in force.
    """

    model: nn.Module
    optimizer: PrivateOptimizer
    data_loader: DataLoader[Any]
    noise_multiplier: float


def make_private(
    model: nn.Module,
    optimizer: Optimizer,
    data: DataLoader[Any] | Dataset[Any],
    *,
    noise_multiplier: float | None = None,
    target_epsilon: float | None = None,
    target_delta: float | None = None,
    epochs: int | None = None,
    max_grad_norm: float | list[float] = 1.0,
    clipping: Literal["flat", "per_layer", "adaptive"] | SensitivityRule = "flat",
    poisson_sampling: bool = True,
    batch_size: int | None = None,
    accountant: Accountant = "rdp",
    seed: int | None = None,
    **settings: Any,
) -> PrivateParts:
    """Make training private, with the noise given or found for a budget.

    Args:
        model: without layers that mix samples.
        optimizer: any `torch.optim` optimizer of it.
        data: a `DataLoader`, whose data set, batch size and collate function are taken; or a data set with
            `batch_size`.
        noise_multiplier: sigma; or else
        target_epsilon, target_delta, epochs: the budget that so many passes over the data may use.
        max_grad_norm: C; for "per_layer" one value for all together, or one for each parameter.
        clipping: "flat", "per_layer" (every parameter by itself), "adaptive" (private quantile), or a rule.
        poisson_sampling: False keeps the loader's own batches; no accountant proves epsilon for those.
        batch_size: expected, where `data` is a data set.
        accountant: that finds the noise.
        seed: of sampling and noise, for experiments; None: from the system.
        settings: of `PrivateOptimizer` (`feedback`, `controller`, `ledger`, `generator`, `check`).

    Raises:
        UsageError: neither or both of noise and budget, or values out of range.
        NotSupported: layers that mix samples.

    Examples:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.randn(64, 4), torch.randint(0, 3, (64,)))
        >>> net = nn.Linear(4, 3)
        >>> parts = make_private(net, torch.optim.SGD(net.parameters(), lr=0.1), data, batch_size=16,
        ...                      noise_multiplier=1.0, max_grad_norm=1.0, seed=0)
        >>> for x, y in parts.data_loader:
        ...     parts.optimizer.backward(nn.functional.cross_entropy(net(x), y, reduction="none"))
        ...     parts.optimizer.step()
        >>> parts.optimizer.ledger.entries[0].count
        4
    """
    loader = data if isinstance(data, DataLoader) else None
    dataset: Any = loader.dataset if loader is not None else data
    size = batch_size or (loader.batch_size if loader is not None else None)
    if size is None:
        raise UsageError("batch_size is needed where data is a data set or a loader without one")
    count = len(dataset)
    rate = min(1.0, size / count)
    steps = max(1, round(1 / rate))
    if (noise_multiplier is None) == (target_epsilon is None):
        raise UsageError("give noise_multiplier, or target_epsilon with target_delta and epochs")
    if target_epsilon is not None:
        if target_delta is None or epochs is None:
            raise UsageError("target_epsilon needs target_delta and epochs")
        noise_multiplier = noise_multiplier_for(target_epsilon, target_delta, rate, steps * epochs, accountant)
    assert noise_multiplier is not None
    if seed is not None:
        device = next(model.parameters()).device
        settings.setdefault("generator", torch.Generator(device).manual_seed(seed + 1))
    private = PrivateOptimizer(
        optimizer,
        _rule(clipping, max_grad_norm, model),
        noise_multiplier,
        rate * count,
        model=model,
        sample_rate=rate,
        **settings,
    )
    if loader is not None and not poisson_sampling:
        return PrivateParts(model, private, loader, noise_multiplier)
    sampler = PoissonSampler(count, rate, steps=steps, seed=unseeded() if seed is None else seed)
    private_loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate_with_empty(dataset, loader.collate_fn if loader is not None else None),
        num_workers=loader.num_workers if loader is not None else 0,
        pin_memory=loader.pin_memory if loader is not None else False,
    )
    return PrivateParts(model, private, private_loader, noise_multiplier)


def _rule(clipping: Any, max_grad_norm: Any, model: nn.Module) -> SensitivityRule:
    if isinstance(clipping, SensitivityRule):
        return clipping
    if clipping == "per_layer":
        return GroupClip.per_tensor(PerSampleRecorder(model).names, max_grad_norm)
    if isinstance(max_grad_norm, (list, tuple)):
        raise UsageError("a list of max_grad_norm goes with clipping='per_layer'")
    if clipping == "flat":
        return FlatClip(max_grad_norm)
    if clipping == "adaptive":
        return AdaptiveClip(max_grad_norm)
    raise UsageError(f"clipping must be 'flat', 'per_layer', 'adaptive' or a SensitivityRule, got {clipping!r}")


def DiceSGD(
    optimizer: Optimizer,
    C1: float = 1.0,
    C2: float = 1.0,
    *,
    noise_multiplier: float,
    expected_batch_size: float,
    convention: Literal["mean", "sum"] = "mean",
    **settings: Any,
) -> PrivateOptimizer:
    """DP-SGD without clipping bias: `PrivateOptimizer` with `DiceFeedback`.

    The error that clipping makes is kept and fed back under its own threshold, so the fixed point is that of the
    unclipped gradient for any C1; the noise is larger for it. Zhang et al., "Differentially Private SGD Without
    Clipping Bias: An Error-Feedback Approach", ICLR 2024, arXiv 2311.14632.

    Args:
        optimizer: SGD in the paper; any works.
        C1: clip norm of the samples. C2: of the error, C2 >= C1 recommended.
        noise_multiplier: sigma; noise on the sum is sigma * sqrt(C1^2 + 2 C2^2).
        expected_batch_size: as in `PrivateOptimizer`.
        convention: see `DiceFeedback`.
        settings: of `PrivateOptimizer`, `model` and `sample_rate` among them.

    Raises:
        UsageError: values out of range.
    """
    feedback = DiceFeedback(C2, convention=convention)
    return PrivateOptimizer(
        optimizer, FlatClip(C1), noise_multiplier, expected_batch_size, feedback=feedback, **settings
    )

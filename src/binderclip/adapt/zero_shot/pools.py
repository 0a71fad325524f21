"""Pools: how the cosines of an image with the K descriptors of a class become one logit a class."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.adapt.zero_shot.autoclip import Gradient, autoclip_scores, autoclip_weights
from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice


@runtime_checkable
class Pool(Protocol):
    """A reduction over descriptors without parameters to learn and without memory.

    `folds` says that the pool equals one averaged row a class, so that nothing needs (N, C, K) numbers;
    `log_probabilities` that what it returns are log-probabilities of the classes rather than scaled cosines.
    """

    folds: ClassVar[bool]
    log_probabilities: ClassVar[bool]

    def __call__(
        self,
        cosines: Float[Tensor, "N C K"],
        mask: Bool[Tensor, "C K"] | None = None,
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N C"]:
        """Logits: their softmax over classes is the probability.

        Args:
            cosines: of N images with K descriptors of C classes, anything where `mask` is False.
            mask: which descriptors there are; None: all.
            scale: factor on the cosines.
            features: unit image features, for pools that compare them with texts of their own.
        """
        ...


@dataclass(frozen=True)
class MeanPool:
    """The mean of the cosines: every descriptor counts the same for every image."""

    folds: ClassVar[bool] = True
    log_probabilities: ClassVar[bool] = False

    def __call__(
        self,
        cosines: Float[Tensor, "N C K"],
        mask: Bool[Tensor, "C K"] | None = None,
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N C"]:
        """Scaled means over the descriptors that there are."""
        if mask is None:
            return scale * cosines.mean(dim=-1)
        inside = mask.to(cosines.dtype)
        return scale * (cosines * inside).sum(dim=-1) / inside.sum(dim=-1)


@dataclass(frozen=True)
class MaxPool:
    """The largest cosine: a class is as likely as its best descriptor."""

    folds: ClassVar[bool] = False
    log_probabilities: ClassVar[bool] = False

    def __call__(
        self,
        cosines: Float[Tensor, "N C K"],
        mask: Bool[Tensor, "C K"] | None = None,
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N C"]:
        """Scaled maxima over the descriptors that there are."""
        there = cosines if mask is None else cosines.masked_fill(~mask, -torch.inf)
        return scale * there.amax(dim=-1)


@dataclass(frozen=True)
class AutoPool:
    """Weights over the descriptors that each image finds for itself by one gradient step; see `autoclip_scores`.

    Paper: AutoCLIP: Auto-tuning Zero-Shot Classifiers for Vision-Language Models (arXiv 2309.16414).

    Args:
        entropy: of the weights as a share of that of equal weights, in [0, 1].
        gradient: `post` or `pre`.
        sharpness: factor on the cosines inside the objective (the paper: 1); it does not touch the result's scale.

    Raises:
        UsageError: when called, for an entropy outside [0, 1] or an unknown gradient.
    """

    entropy: float = 0.85
    gradient: Gradient = "post"
    sharpness: float = 1.0
    folds: ClassVar[bool] = False
    log_probabilities: ClassVar[bool] = False

    def __call__(
        self,
        cosines: Float[Tensor, "N C K"],
        mask: Bool[Tensor, "C K"] | None = None,
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N C"]:
        """Scaled weighted means; gradients pass at fixed weights."""
        return scale * autoclip_scores(cosines, self.entropy, mask=mask, gradient=self.gradient, scale=self.sharpness)

    def weights(self, cosines: Float[Tensor, "N C K"], mask: Bool[Tensor, "C K"] | None = None) -> Float[Tensor, "N K"]:
        """What each image gave each descriptor."""
        return autoclip_weights(cosines, self.entropy, mask=mask, gradient=self.gradient, scale=self.sharpness)


@dataclass(frozen=True, eq=False)
class ContextPool:
    """Infers which context each image was taken in, and classifies given the context.

    Descriptor k of a class is the class in context k (see `attribute_product`). P(y|x) = sum_z P(z|x) P(y|x,z), where
    P(y|x,z) is a softmax over classes inside context z. Paper: More Context, Less Distraction: Visual Classification
    by Inferring and Conditioning on Contextual Attributes (arXiv 2308.01313).

    Args:
        temperature: divides the scaled cosines in P(z|x) only; large: every context counts the same.
        infer: "joint" takes P(z|x) from the class-and-context texts, summed over classes; a tensor (Z, d) of
            class-free context rows takes it from these.
        hard: only the likeliest context counts (a baseline).

    Raises:
        UsageError: when called, for a temperature not above 0, classes with different contexts, or context rows that
            do not fit.
    """

    temperature: float = 1.0
    infer: Literal["joint"] | Tensor | Any = "joint"
    hard: bool = False
    folds: ClassVar[bool] = False
    log_probabilities: ClassVar[bool] = True

    def __call__(
        self,
        cosines: Float[Tensor, "N C K"],
        mask: Bool[Tensor, "C K"] | None = None,
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N C"]:
        """Log-probabilities of the classes."""
        if mask is not None and not bool(mask.all()):
            raise UsageError("ContextPool needs every class in every context: build the bank with attribute_product")
        context = self.posterior(cosines, scale=scale, features=features)
        given = torch.log_softmax(scale * cosines, dim=1)
        if self.hard:
            best = context.argmax(dim=-1)[:, None, None].expand(-1, cosines.shape[1], 1)
            return given.gather(-1, best).squeeze(-1)
        return torch.logsumexp(given + context.unsqueeze(1), dim=-1)

    def posterior(
        self,
        cosines: Float[Tensor, "N C K"],
        *,
        scale: float = 1.0,
        features: Float[Tensor, "N d"] | None = None,
    ) -> Float[Tensor, "N K"]:
        """log P(z|x) of each image."""
        check_number("temperature", self.temperature, above=0)
        if isinstance(self.infer, str):
            if self.infer != "joint":
                raise UsageError(f"infer is 'joint' or a tensor (Z, d) of class-free context rows, not {self.infer!r}")
            return torch.log_softmax(torch.logsumexp(scale * cosines / self.temperature, dim=1), dim=-1)
        rows = torch.as_tensor(self.infer)
        width = None if features is None else features.shape[-1]
        if features is None or tuple(rows.shape) != (cosines.shape[-1], width):
            raise UsageError(
                f"infer has shape {tuple(rows.shape)}: {cosines.shape[-1]} contexts of width {width} are needed"
            )
        rows = torch.nn.functional.normalize(rows.to(features), dim=-1)
        return torch.log_softmax(scale * (features @ rows.T) / self.temperature, dim=-1)


POOLS: dict[str, type[Any]] = {"mean": MeanPool, "max": MaxPool, "auto": AutoPool, "context": ContextPool}


def resolve_pool(pool: str | Pool | None) -> Pool | None:
    """A pool by its name in `POOLS`, a pool as it is, or None.

    Raises:
        UsageError: an unknown name, or something that cannot be called.
    """
    if pool is None:
        return None
    if isinstance(pool, str):
        check_choice("pool", pool, POOLS)
        return POOLS[pool]()
    if not callable(pool) or isinstance(pool, type):
        raise UsageError(f"pool must be a name ({', '.join(POOLS)}) or a pool such as AutoPool(), not {pool!r}")
    return pool


def pool_record(pool: Pool | None) -> Any:
    """A shipped pool as plain values, [name, *settings], which files can hold; a tensor becomes None. Others stay."""
    for name, kind in POOLS.items():
        if type(pool) is kind:
            values = [getattr(pool, entry.name) for entry in fields(pool)]  # type: ignore[arg-type]
            return [name, *(None if isinstance(value, Tensor) else value for value in values)]
    return pool


def pool_of_record(record: Any, free: Tensor | None = None) -> Pool | None:
    """The pool again, with the tensor that the record left out."""
    if not isinstance(record, (list, tuple)):
        return record
    name, *values = record
    return POOLS[name](*(free if value is None else value for value in values))

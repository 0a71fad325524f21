"""The two basic losses as functions, on one process."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.losses.contrastive.links import (
    SigmoidLink,
    SoftmaxLink,
    block_side,
    check_features,
    check_loss_finite,
    make_plan,
)
from binderclip.losses.contrastive.share import Share
from binderclip.losses.contrastive.targets import Positives
from binderclip.similarity.geometry import Cosine, Inner

__all__ = ["info_nce", "sigmoid_loss"]


def info_nce(
    image: Float[Tensor, "B d"],
    text: Float[Tensor, "B d"],
    scale: float | Float[Tensor, ""] = 1 / 0.07,
    *,
    normalize: bool = True,
    smoothing: float = 0.0,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE: cross-entropy of finding each image's text among all texts, and the reverse, averaged.

    With similarities s_ij = scale * <image_i, text_j>, the loss is the mean over i of
    (logsumexp_j s_ij + logsumexp_j s_ji) / 2 - s_ii. The B x B matrix is never held when B exceeds `chunk`.

    Args:
        image, text: features; row i of one belongs to row i of the other.
        scale: the logit scale itself, not its logarithm.
        normalize: bring the features to unit length first (harmless if they already are).
        smoothing: label smoothing in [0, 1).
        chunk: side of a block; peak memory is chunk^2 plus a few B x d. None: 1,024 on a CPU, 4,096 elsewhere.

    Raises:
        UsageError: shapes that do not match, an empty batch, a single pair, or (on a CPU) features that are not finite.

    Examples:
        >>> features = torch.eye(4)
        >>> float(info_nce(features, features, scale=100.0))
        0.0

    Paper: Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020.
    """
    return _call(SoftmaxLink(), image, text, scale, None, normalize, smoothing, chunk)


def sigmoid_loss(
    image: Float[Tensor, "B d"],
    text: Float[Tensor, "B d"],
    scale: float | Float[Tensor, ""] = 10.0,
    bias: float | Float[Tensor, ""] | None = -10.0,
    *,
    normalize: bool = True,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """Pairwise sigmoid loss: each of the B x B pairs is classified as matching or not.

    With s_ij = scale * <image_i, text_j> + bias and z_ij = 1 on the diagonal, -1 elsewhere, the loss is
    -sum_ij log sigmoid(z_ij s_ij) / B. Value and gradient come from one pass over blocks.

    Args:
        image, text: features; row i of one belongs to row i of the other.
        scale: the logit scale itself.
        bias: added to every logit.
        normalize: bring the features to unit length first (harmless if they already are).
        chunk: side of a block, as in `info_nce`.

    Raises:
        UsageError: shapes that do not match, an empty batch, or (on a CPU) features that are not finite.

    Paper: Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343.
    """
    return _call(SigmoidLink(), image, text, scale, bias, normalize, 0.0, chunk)


def _call(
    link: SoftmaxLink | SigmoidLink,
    image: Tensor,
    text: Tensor,
    scale: float | Tensor,
    bias: float | Tensor | None,
    normalize: bool,
    smoothing: float,
    chunk: int | None,
) -> Tensor:
    check_features(image, text)
    geometry = Cosine() if normalize else Inner()
    a, b = geometry.embed(image, "image"), geometry.embed(text, "text")
    share = Share((len(a),))
    plan = make_plan(share, Positives(share), block_side(chunk, a.device), smoothing=smoothing, metrics=False)
    scale_ = torch.as_tensor(scale, device=a.device, dtype=a.dtype)
    bias_ = None if bias is None else torch.as_tensor(bias, device=a.device, dtype=a.dtype)
    loss, _ = link(a, b, scale_, bias_, plan)
    check_loss_finite(loss, {"image": image, "text": text})
    return loss

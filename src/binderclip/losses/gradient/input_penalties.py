"""Penalties on the gradient of a critic with respect to what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["gradient_penalty", "matching_aware_gradient_penalty", "r1_penalty"]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Float[Tensor, "B *shape"],
    fake: Float[Tensor, "B *shape"],
    weight: float = 10.0,
    target: float = 1.0,
    *,
    one_sided: bool = False,
    mix: Float[Tensor, " B"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Penalty that keeps a Wasserstein critic 1-Lipschitz: its gradient's norm shall be 1 between real and generated.

    weight mean_b (||grad D(x_b)||_2 - target)^2 at x_b = mix_b real_b + (1 - mix_b) fake_b, one mix for each SAMPLE;
    the norm is over all that a sample has. A critic with batch normalisation has no gradient of its own for a sample:
    give it layer normalisation or none.

    Args:
        critic: from samples to scores, of any shape; a sample's scores are summed.
        real: samples of the data.
        fake: generated ones; no gradient reaches them.
        weight: lambda, 10 for pictures, 0.1 for the paper's points in the plane.
        target: norm that is meant.
        one_sided: leave norms below the target alone, max(0, norm - target)^2.
        mix: shares of the real sample in [0, 1]; default drawn uniformly.
        generator: of `mix`, on the CPU or the samples' device; default torch's.

    Raises:
        UsageError: shapes that differ, no sample, weight or target negative or above a million, or a critic that does
            not depend on its samples.

    Paper: Improved Training of Wasserstein GANs (arXiv 1704.00028).

    Examples:
        >>> x = torch.randn(4, 3)
        >>> float(gradient_penalty(lambda points: 3 * points[:, 0], x, torch.zeros(4, 3)))
        40.0
    """
    if real.shape != fake.shape or real.ndim < 2 or not len(real):
        raise UsageError(
            f"real and fake must be samples of one shape (B, ...): {tuple(real.shape)}, {tuple(fake.shape)}"
        )
    check_number("weight", weight, least=0, most=1e6)
    check_number("target", target, least=0, most=1e6)
    if mix is None:
        mix = torch.rand(len(real), generator=generator, device=real.device, dtype=real.dtype)
    mix = mix.reshape(-1, *[1] * (real.ndim - 1))
    between = torch.lerp(fake.detach(), real.detach(), mix).requires_grad_()
    excess = torch.linalg.vector_norm(_gradients(critic(between), [between]), dim=1) - target  # (B,)
    return weight * (excess.relu() if one_sided else excess).square().mean()


def r1_penalty(logits: Tensor, inputs: Float[Tensor, "B *shape"], gamma: float = 1.0) -> Float[Tensor, ""]:
    """gamma / 2 mean_b ||grad D(x_b)||^2 at real samples: how steep a discriminator is on the data.

    Args:
        logits: of the discriminator, of any shape; a sample's are summed.
        inputs: what it was computed from; it required grad before.
        gamma: weight.

    Raises:
        UsageError: gamma negative or above a million, or logits that do not depend on the inputs.

    Paper: Which Training Methods for GANs do actually Converge? (arXiv 1801.04406).
    """
    check_number("gamma", gamma, least=0, most=1e6)
    return gamma / 2 * _gradients(logits, [inputs]).square().sum(1).mean()


def matching_aware_gradient_penalty(
    logits: Tensor,
    features: Float[Tensor, "B *shape"],
    sentence: Float[Tensor, "B D"],
    weight: float = 2.0,
    power: float = 6.0,
) -> Float[Tensor, ""]:
    """Flatten a conditional discriminator around real features with their own sentence.

    weight mean_b ||[dD/dfeatures_b ; dD/dsentence_b]||_2^power, both gradients as one vector. At these points lies the
    target of the generator, and a discriminator that is flat there lets it converge. Computed in float32 at least: a
    sixth power overflows in half precision.

    Args:
        logits: D(features, sentence) of real, matching pairs, of any shape; a sample's are summed.
        features: what D saw of the picture; it required grad before.
        sentence: the condition; it required grad before.
        weight: k.
        power: p, at least 2, where the penalty has a derivative at 0.

    Raises:
        UsageError: a weight negative or above a million, a power outside [2, 16], or logits that do not depend on both.

    Paper: GALIP: Generative Adversarial CLIPs for Text-to-Image Synthesis (arXiv 2301.12959).
    """
    check_number("weight", weight, least=0, most=1e6)
    check_number("power", power, least=2, most=16)
    # The power of the squared norm: a square root at 0 would have no derivative.
    return weight * (_gradients(logits, [features, sentence]).square().sum(1) ** (power / 2)).mean()


def _gradients(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Derivative of each sample's logits with respect to its inputs, side by side [B, D], with a graph."""
    if not all(one.requires_grad for one in inputs) or not logits.requires_grad:
        raise UsageError("a gradient penalty needs logits computed from inputs that require grad")
    try:
        # The sum, not the mean: each sample keeps its own derivative, whatever the batch.
        grads = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    except RuntimeError as error:
        if "not have been used in the graph" not in str(error):
            raise
        raise UsageError("the critic's logits do not depend on all the inputs that are penalised") from error
    flat = torch.cat([grad.flatten(1) for grad in grads], 1)
    return flat.float() if flat.dtype.itemsize < 4 else flat

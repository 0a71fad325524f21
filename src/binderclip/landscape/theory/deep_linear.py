"""Deep linear networks that interpolate noisy data: what gradient flow keeps, and the risk that is left."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number

__all__ = [
    "BenignOverfittingReport",
    "DeepLinearNet",
    "EffectiveRanks",
    "benign_overfitting_report",
    "effective_ranks",
    "excess_risk",
    "min_norm_interpolant",
]


@dataclass(frozen=True)
class EffectiveRanks:
    """How a covariance splits into directions that are learned and a tail that hides noise.

    Attributes:
        head: k, the number of leading eigenvalues: the first k whose tail has r_k >= b n; None where there is none.
        r: r_k = sum_{i>k} lambda_i / lambda_{k+1}.
        R: R_k = (sum_{i>k} lambda_i)^2 / sum_{i>k} lambda_i^2.
        tail: s_k = sum_{i>k} lambda_i.
        variance_rate: k / n + n / R_k, to which the risk that noise causes is proportional; infinite without k.
    """

    head: int | None
    r: float
    R: float
    tail: float
    variance_rate: float


@dataclass(frozen=True)
class BenignOverfittingReport:
    """What interpolation costs a deep linear network and the shallow one, beside each other.

    Attributes:
        risk: excess risk of the deep network's map, over the covariance itself and not over a sample.
        shallow_risk: that of the minimum-norm interpolant, which a network of depth 1 reaches from zero.
        null_risk: that of predicting zero.
        variance: the part of either that the noise causes; depth does not change it.
        bias: the deep network's risk where the targets have no noise. The risk of one draw of the noise has a cross
            term of both besides.
        shallow_bias: that of the minimum-norm interpolant.
        span_error: largest distance of the deep map from the minimum-norm one on the span of the inputs, relative to
            the length of the latter; nought at interpolation.
        ranks: of the covariance at this number of samples.
    """

    risk: float
    shallow_risk: float
    null_risk: float
    variance: float
    bias: float
    shallow_bias: float
    span_error: float
    ranks: EffectiveRanks


class DeepLinearNet(nn.Module):
    """A linear map as a product of matrices, W_L ... W_2 W_1, as it is trained from a scaled start.

    W_1 (width, inputs) starts at N(0, alpha^2), W_L (outputs, width) at N(0, beta^2), those between at the identity. A
    network of depth 1 starts at zero: it has no second matrix that a gradient could pass.

    Gradient flow keeps what the start has off the span of the data: W_1 (I - X^+ X) does not move, so that the
    interpolating map is the minimum-norm one plus W_L ... W_2 W_1(0) (I - X^+ X).

    Args:
        inputs: d, outputs: q. Both at least 1.
        depth: L, at least 1.
        width: m of the hidden layers; at least the outputs. Default: the inputs.
        alpha: standard deviation of the first layer's start.
        beta: that of the last one's.
        seed: of the start.
        dtype: float64 by default, since the identities are hidden by float32's rounding.

    Raises:
        UsageError: a size below 1, a width below the outputs, or a scale that is negative or not finite.

    Examples:
        >>> net = DeepLinearNet(20, depth=3, alpha=1e-3)
        >>> inputs, targets = torch.randn(5, 20).double(), torch.randn(5, 1).double()
        >>> _ = net.interpolate(inputs, targets)
        >>> torch.allclose(net(inputs), targets, atol=1e-3)
        True

    Paper: Deep Linear Networks can Benignly Overfit when Shallow Ones Do (arXiv 2209.09315).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        depth: int = 2,
        width: int | None = None,
        alpha: float = 1e-3,
        beta: float = 1.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        for name, size in {"inputs": inputs, "outputs": outputs, "depth": depth}.items():
            check_number(name, size, least=1)
        width = inputs if width is None else width
        check_number("width", width, least=outputs)
        check_number("alpha", alpha, least=0)
        check_number("beta", beta, least=0)
        generator = torch.Generator().manual_seed(seed)
        if depth == 1:
            layers = [torch.zeros(outputs, inputs, dtype=dtype)]
        else:
            first = alpha * torch.randn(width, inputs, generator=generator, dtype=dtype)
            last = beta * torch.randn(outputs, width, generator=generator, dtype=dtype)
            layers = [first, *(torch.eye(width, dtype=dtype) for _ in range(depth - 2)), last]
        self.layers = nn.ParameterList(layers)

    def forward(self, inputs: Float[Tensor, "N d"]) -> Float[Tensor, "N q"]:
        """Inputs through every layer; the map of all is `end_to_end`."""
        for weight in self.layers:
            inputs = inputs @ weight.T
        return inputs

    def end_to_end(self) -> Float[Tensor, "q d"]:
        """Theta = W_L ... W_1, detached."""
        theta = self.layers[-1].detach()
        for weight in reversed(list(self.layers)[:-1]):
            theta = theta @ weight.detach()
        return theta

    def balancedness(self) -> list[Float[Tensor, "m m"]]:
        """W_{l+1}^T W_{l+1} - W_l W_l^T of each pair of layers, which gradient flow conserves."""
        layers = [weight.detach() for weight in self.layers]
        return [after.T @ after - before @ before.T for before, after in pairwise(layers)]

    @torch.no_grad()
    def interpolate(
        self,
        inputs: Float[Tensor, "n d"],
        targets: Float[Tensor, "n q"],
        *,
        tolerance: float = 1e-8,
        step: float = 0.5,
        steps: int = 100_000,
    ) -> int:
        """Follow the gradient of ||Y - X Theta^T||^2 in short steps, to a fraction of the loss of predicting zero.

        The length of a step is `step` over the smoothness at hand, 2 |X X^T| sum_l prod_{j != l} |W_j|^2 in spectral
        norms, estimated again every 50 steps: long enough to end, short enough that what the flow conserves drifts
        little.

        Args:
            inputs: X.
            targets: Y.
            tolerance: of the loss, relative to ||Y||^2, that of predicting zero; that of the start may be another.
            step: of the smoothness's inverse; the flow is its limit at zero.
            steps: at most.

        Returns:
            The steps that it took.

        Raises:
            UsageError: shapes that do not fit, values that are not finite, no samples, or a setting out of range.
            NotSupported: the loss is still above the tolerance, as with more samples than inputs, or diverged.
        """
        check_number("tolerance", tolerance, above=0)
        check_number("step", step, above=0)
        inputs, targets = _checked(inputs, targets)
        layers = list(self.layers)
        if inputs.shape[1] != layers[0].shape[1] or targets.shape[1] != layers[-1].shape[0]:
            raise UsageError(
                f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} do not fit a map from"
                f" {layers[0].shape[1]} to {layers[-1].shape[0]} features"
            )
        X, Y = inputs.to(layers[0]), targets.to(layers[0])
        largest = torch.linalg.matrix_norm(X, 2).square()
        bound = tolerance * Y.square().sum()
        loss, rate = torch.zeros(()), torch.zeros(())
        for taken in range(steps + 1):
            hidden = [X]  # what each layer reads, (n, m)
            for weight in layers:
                hidden.append(hidden[-1] @ weight.T)
            residual = hidden.pop() - Y  # (n, q)
            loss = residual.square().sum()
            if loss <= bound:
                return taken
            if taken == steps or not loss.isfinite():
                break
            if taken % 50 == 0:
                norms = torch.stack([torch.linalg.matrix_norm(weight, 2).square() for weight in layers])
                others = [norms[torch.arange(len(layers)) != index].prod() for index in range(len(layers))]
                rate = step / (2 * largest * torch.stack(others).sum())
            gradient = 2 * residual  # of the loss by what the layer gives, (n, out)
            for weight, read in zip(reversed(layers), reversed(hidden), strict=True):
                earlier = gradient @ weight  # by what it reads, before the layer moves
                weight.sub_(rate * gradient.T @ read)
                gradient = earlier
        raise NotSupported(
            f"the loss is {float(loss):.3g} after {taken} steps and not below {float(bound):.3g}: more steps,"
            " a shorter step, or fewer samples than inputs"
        )


def min_norm_interpolant(inputs: Float[Tensor, "n d"], targets: Float[Tensor, "n q"]) -> Float[Tensor, "q d"]:
    """The linear map of least Frobenius norm among those that fit the targets best: (X^+ Y)^T.

    Args:
        inputs: X, one sample a row.
        targets: Y.

    Raises:
        UsageError: shapes that do not fit, values that are not finite, or no samples.

    Paper: as `DeepLinearNet`.
    """
    X, Y = _checked(inputs, targets)
    return (torch.linalg.pinv(X) @ Y).T


def effective_ranks(eigenvalues: Float[Tensor, "d"], samples: int, *, b: float = 1.0) -> EffectiveRanks:
    """Effective ranks of a covariance (Bartlett et al. 2020).

    Overfitting is benign where the tail s_k, k / n and n / R_k are small.

    Args:
        eigenvalues: of the covariance, at least 0, in any order.
        samples: n.
        b: the constant in r_k >= b n, which the theory leaves open.

    Raises:
        UsageError: no eigenvalue above 0, one that is negative or not finite, or a constant out of range.

    Paper: as `DeepLinearNet`.
    """
    check_number("samples", samples, least=1)
    check_number("b", b, above=0)
    spectrum = eigenvalues.detach().double().sort(descending=True).values
    if not (len(spectrum) and bool(spectrum.isfinite().all()) and spectrum[-1] >= 0 and spectrum[0] > 0):
        raise UsageError("eigenvalues of a covariance must be finite and at least 0, one of them above 0")
    spectrum = spectrum[spectrum > 0]
    tails = spectrum.flip(0).cumsum(0).flip(0)  # s_k for k = 0 ... d - 1
    squares = spectrum.square().flip(0).cumsum(0).flip(0)
    r, R = tails / spectrum, tails.square() / squares
    fits = (r >= b * samples).nonzero()
    if not len(fits):
        return EffectiveRanks(None, float(r[0]), float(R[0]), float(tails[0]), float("inf"))
    k = int(fits[0])
    return EffectiveRanks(k, float(r[k]), float(R[k]), float(tails[k]), float(k / samples + samples / R[k]))


def excess_risk(
    theta: Float[Tensor, "q d"], truth: Float[Tensor, "q d"], eigenvalues: Float[Tensor, "d"]
) -> Float[Tensor, ""]:
    """Excess risk E |x^T Theta - x^T Theta*|^2 of a linear map, over inputs whose covariance is diagonal.

    It is tr (Theta - Theta*) Sigma (Theta - Theta*)^T.

    Args:
        theta: the map. truth: Theta*.
        eigenvalues: the diagonal of Sigma.
    """
    return ((theta - truth).square() * eigenvalues).sum()


def benign_overfitting_report(
    net: DeepLinearNet,
    inputs: Float[Tensor, "n d"],
    noise: Float[Tensor, "n q"],
    truth: Float[Tensor, "q d"],
    eigenvalues: Float[Tensor, "d"],
    *,
    tolerance: float = 1e-8,
) -> BenignOverfittingReport:
    """Train a deep linear network to interpolate X Theta*^T + noise, and take its risk apart.

    The bias needs a run of its own, without the noise, from the same start: what the start leaves off the span of the
    data depends on the noise where the network has more than one layer.

    Args:
        net: at its start; it ends at the interpolant of the noisy targets.
        inputs: X, drawn with the covariance whose diagonal is `eigenvalues`.
        noise: omega.
        truth: Theta*.
        eigenvalues: diagonal of Sigma.
        tolerance: of the loss at which a run ends; see `DeepLinearNet.interpolate`.

    Raises:
        UsageError: what `DeepLinearNet.interpolate` and `effective_ranks` refuse.
        NotSupported: a run that does not interpolate.

    Paper: as `DeepLinearNet`.
    """
    ranks = effective_ranks(eigenvalues, len(inputs))
    clean = inputs @ truth.T
    start = [weight.detach().clone() for weight in net.layers]
    net.interpolate(inputs, clean, tolerance=tolerance)
    bias = excess_risk(net.end_to_end(), truth, eigenvalues)
    with torch.no_grad():
        for weight, value in zip(net.layers, start, strict=True):
            weight.copy_(value)
    net.interpolate(inputs, clean + noise, tolerance=tolerance)
    theta, shallow = net.end_to_end(), min_norm_interpolant(inputs, clean + noise)
    inverse = torch.linalg.pinv(inputs)  # (d, n)
    deviation = (theta - shallow) @ (inverse @ inputs)  # on the span of the data alone
    fitted = (inverse @ noise).T  # (q, d): what the noise adds to the minimum-norm map
    return BenignOverfittingReport(
        risk=float(excess_risk(theta, truth, eigenvalues)),
        shallow_risk=float(excess_risk(shallow, truth, eigenvalues)),
        null_risk=float(excess_risk(torch.zeros_like(truth), truth, eigenvalues)),
        variance=float((fitted.square() * eigenvalues).sum()),
        bias=float(bias),
        shallow_bias=float(excess_risk(min_norm_interpolant(inputs, clean), truth, eigenvalues)),
        span_error=float(deviation.norm() / shallow.norm()),
        ranks=ranks,
    )


def _checked(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Samples in rows, as many inputs as targets, all finite."""
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets) or not len(inputs):
        raise UsageError(
            f"inputs (n, d) and targets (n, q) must have the same number of rows, at least one, got"
            f" {tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    if not bool(inputs.isfinite().all() and targets.isfinite().all()):
        raise UsageError("inputs and targets must be finite")
    return inputs.detach(), targets.detach()

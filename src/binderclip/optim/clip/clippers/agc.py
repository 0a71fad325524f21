"""AGC: every output unit's gradient is limited relative to its weights."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from binderclip.numeric import check_number
from binderclip.optim.clip.clipping import Clip
from binderclip.optim.clip.threshold import Reading, Threshold

__all__ = ["AGC", "WeightRatio", "unit_dims"]


class WeightRatio(Threshold):
    """A limit in proportion to the same statistic of the block's weights.

    Args:
        clipping: largest ratio of gradient to weight, not negative; inf limits nothing.
        eps: lower bound of the weights' statistic, above 0, so that weights of zero can leave zero.

    Raises:
        UsageError: a value outside its range.

    Paper: High-Performance Large-Scale Image Recognition Without Normalization, arXiv 2102.06171.
    """

    def __init__(self, clipping: float = 0.01, eps: float = 1e-3) -> None:
        check_number("clipping", clipping, least=0, infinite=True)
        check_number("eps", eps, above=0)
        self.clipping, self.eps = clipping, eps

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """`clipping * max(weights, eps)`."""
        return self.clipping * reading.weights().clamp(min=self.eps)

    def __repr__(self) -> str:
        return f"WeightRatio({self.clipping:g}, eps={self.eps:g})"


def unit_dims(model: nn.Module) -> dict[str, int]:
    """The dimension that counts output units, for the parameters where it is not the first.

    Those are the weights of transposed convolutions, (inputs, outputs, ...). With `groups` above 1, whose outputs are
    spread over both dimensions, a unit is the slice of one output channel of every group.

    Args:
        model: the model whose named parameters are clipped.

    Returns:
        `unit_dim` for `AGC` or `Clip`.
    """
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {f"{name}.weight".lstrip("."): 1 for name, module in model.named_modules() if isinstance(module, kinds)}


class AGC(Clip):
    """Limit, for every output unit (row of a Linear, filter of a convolution), gradient norm over weight norm.

    Vectors and scalars are one unit each. The published training leaves the classifier out and clips everything else,
    biases too: `exclude="head.*"` with named parameters. The logit scale of a CLIP is a log-temperature whose size
    means nothing: exclude it as well. Small batches want more than the .01 of batch 4096: .04 to .16.

    Args:
        clipping: largest ratio, not negative.
        eps: lower bound of a unit's weight norm, above 0.
        settings: further arguments of `Clip`; `unit_dim={"up.*.weight": 1}` or `optim.unit_dims(model)` for transposed
            convolutions, whose first dimension counts inputs.

    Raises:
        UsageError: a value outside its range.

    Paper: High-Performance Large-Scale Image Recognition Without Normalization, arXiv 2102.06171.
    """

    def __init__(self, clipping: float = 0.01, eps: float = 1e-3, **settings: Any) -> None:
        fixed: dict[str, Any] = {"granularity": "unit", "eps": 1e-6, "eps_mode": "max"}
        super().__init__(WeightRatio(clipping, eps), **fixed | settings)

"""Activations of one bit in one time step: spikes above a threshold that follows the activations."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses.hoyer import hoyer_square
from binderclip.numeric import check_number, check_whole
from binderclip.optim.fake_quantization import Blocks, FixedRange, SpikeGrid, fake_quant
from binderclip.optim.surrogates import WindowSurrogate
from binderclip.settings import check_choice

__all__ = ["HoyerSpike"]


class HoyerSpike(nn.Module):
    """Spikes, 0 or 1, in the place of a ReLU: 1 where the potential reaches the Hoyer extremum of its layer.

    With potentials u = x / |v| and z = clamp(u, 0, 1), the threshold of a layer, or of each channel, is sum z^2 / sum
    z, at most 1; it is a constant for the gradient. Training takes that of the batch, evaluation the running mean. The
    derivative of a spike is 0.5 where 0 < u <= 2, and v learns through u.

    Args:
        num_features: channels, dimension 1 of the input.
        mode: `channel` has a threshold for every channel over batch and space, `layer` one, `fixed` has 1.
        momentum: weight of the newest threshold in the running mean.
        threshold_scale: the threshold is multiplied by it.
        literal: as the published code, which clamps the potentials in place: no gradient outside 0 < u < 1.

    Attributes:
        v: the trained scale, at first 1. Leave it out of weight decay.
        running_threshold: of shape (channels,), or (1,) for `layer`; 0 at first; not used by `fixed`.
        penalty: `losses.hoyer_square` of the last batch's z, which pushes potentials away from the threshold; None
            before.

    Raises:
        UsageError: a setting out of range, or an input of another number of channels.

    Examples:
        >>> spike = HoyerSpike(1, mode="layer")
        >>> spike(torch.tensor([[0.2], [0.4], [0.9]]))[:, 0].tolist()  # threshold 1.01 / 1.5
        [0.0, 0.0, 1.0]

    Paper: Hoyer regularizer is all you need for ultra low-latency spiking neural networks, arXiv 2212.10170.
    """

    running_threshold: Tensor

    def __init__(
        self,
        num_features: int,
        mode: Literal["channel", "layer", "fixed"] = "channel",
        *,
        momentum: float = 0.1,
        threshold_scale: float = 1.0,
        literal: bool = False,
    ) -> None:
        super().__init__()
        check_whole("num_features", num_features, least=1)
        check_choice("mode", mode, ("channel", "layer", "fixed"))
        check_number("momentum", momentum, above=0, most=1)
        check_number("threshold_scale", threshold_scale, above=0)
        self.num_features, self.mode, self.momentum, self.literal = num_features, mode, momentum, literal
        self.threshold_scale = threshold_scale
        self.surrogate = WindowSurrogate(0.0, 2.0, 0.5)
        self.v = nn.Parameter(torch.ones(()))
        self.register_buffer("running_threshold", torch.zeros(num_features if mode == "channel" else 1))
        self.penalty: Float[Tensor, ""] | None = None

    def forward(self, x: Float[Tensor, "B C *space"]) -> Float[Tensor, "B C *space"]:
        """Spikes, of the shape and dtype of `x`."""
        if x.ndim < 2 or x.shape[1] != self.num_features:
            raise UsageError(f"HoyerSpike has {self.num_features} channels, got an input of shape {tuple(x.shape)}")
        u = x / self.v.abs()
        clamped = u.clamp(0, 1)
        self.penalty = hoyer_square(clamped)
        blocks = Blocks(dim=1) if self.mode == "channel" else Blocks()
        threshold = self._threshold(blocks.split(clamped.detach())).to(x.dtype) * self.threshold_scale
        potentials = clamped if self.literal else u
        return fake_quant(potentials, FixedRange(0.0, threshold), SpikeGrid(), blocks=blocks, surrogate=self.surrogate)

    def _threshold(self, rows: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
        """The Hoyer extremum of each row, or what stands in its place."""
        if self.mode == "fixed":
            return torch.ones(1, device=rows.device)
        if not self.training:
            return self.running_threshold
        rows = rows.to(self.running_threshold.dtype)
        total = rows.sum(dim=1)
        # A channel without a positive potential has no extremum: the published code takes 1. A whole layer of them
        # keeps what it had.
        silent = torch.ones_like(total) if self.mode == "channel" else self.running_threshold
        threshold = torch.where(total == 0, silent, rows.square().sum(dim=1) / torch.where(total == 0, 1.0, total))
        self.running_threshold.lerp_(threshold, self.momentum)
        return threshold

    def extra_repr(self) -> str:
        """The settings."""
        return f"{self.num_features}, mode={self.mode!r}, threshold_scale={self.threshold_scale}"

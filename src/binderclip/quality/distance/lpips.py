"""LPIPS, the distance of two pictures in the maps of a network, and its shift-tolerant form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import CheckpointError, UsageError
from binderclip.fit import FitResult, fit
from binderclip.models.files.released import read_released
from binderclip.models.image_text.preprocess import float_batch
from binderclip.quality.distance.released import build_of, fill_released
from binderclip.quality.distance.two_afc import ChoiceLoss
from binderclip.quality.rows import ShuffledRows
from binderclip.quality.trunks import WIDTHS, Net, Variant, trunk_of
from binderclip.quality.weights import read_weights, take_over, write_weights, written_here

KIND = "LPIPS"
LEAST = 32
"""Pixels on either side."""


class LPIPS(nn.Module):
    """Learned perceptual distance: squared differences of unit feature maps, weighted by channel, summed over layers.

        d(x, y) = sum_l mean_hw sum_c w_lc (f_l(x)_c - f_l(y)_c)^2, f = F / (sqrt(sum_c F^2) + 1e-10), w >= 0

    Shift-tolerant (ST-LPIPS): the trunk is blurred wherever it is subsampled, so that a shift of a pixel or two, which
    nobody sees, does not change which of two pictures is nearer to a reference.

    Args:
        net: `lite0`, the bundled trunk as trained on ImageNet, or `alex` or `vgg`, whose weights are random until
            `fit_triplets` or `from_weights`.
        variant: `vanilla`, `antialiased` or `shift-tolerant`.
        widths: channels of the five maps of `alex` and `vgg`; default the networks' own.
        blur: numbers of the blur filter.
        seed: of random weights.

    Attributes:
        lower_better: True.
        weights: w of each layer, (C,); 1 until they are learned (LPIPS's "baseline", not calibrated on people).

    Raises:
        UsageError: an unknown net or variant, or widths that are not five.

    Papers: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric (arXiv 1801.03924); Shift-tolerant
    Perceptual Similarity Metric (arXiv 2207.13686). `lpips` and the official code take images in [-1, 1] unless
    `normalize=True`; here they are in [0, 1].

    Examples:
        >>> metric = LPIPS("alex", widths=(8, 8, 8, 8, 8))
        >>> x = torch.rand(2, 3, 64, 64)
        >>> metric(x, x).tolist()
        [0.0, 0.0]
    """

    lower_better = True

    def __init__(
        self,
        net: Net = "lite0",
        variant: Variant = "shift-tolerant",
        *,
        widths: Sequence[int] | None = None,
        blur: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, known in (("net", net, get_args(Net)), ("variant", variant, get_args(Variant))):
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown: one of {', '.join(known)}")
        if widths is not None and (net == "lite0" or len(widths) != 5):
            raise UsageError(f"widths {tuple(widths)}: five numbers, for alex and vgg")
        self.net, self.variant, self.blur = net, variant, blur
        self.widths = tuple(WIDTHS[net] if widths is None else widths)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trunk = trunk_of(net, variant, self.widths, blur)
        self.weights = nn.ParameterList([torch.ones(width) for width in self.widths])
        self.eval()

    def maps(self, images: Float[Tensor, "B 3 H W"]) -> list[Tensor]:
        """Maps (B, C, h, w) of each layer, every place of unit length; keep those of a reference to use them again.

        Raises:
            UsageError: no such images, or values that are NaN or clearly outside [0, 1]; these are not looked at where
                gradients are taken on an accelerator, which would have to be waited for.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise UsageError(f"images must be float (B, 3, H, W) in [0, 1], not {images.dtype} {tuple(images.shape)}")
        float_batch(images)
        return [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in self.trunk(images)]

    def between(self, a: Sequence[Tensor], b: Sequence[Tensor], *, dropout: float = 0.0) -> Float[Tensor, "B L"]:
        """The distance of each layer, from maps."""
        distances = []
        for x, y, weight in zip(a, b, self.weights, strict=True):
            each = F.dropout((x - y).square(), dropout)  # (B, C, h, w)
            distances.append(torch.einsum("bchw,c->b", each, weight) / (each.shape[2] * each.shape[3]))
        return torch.stack(distances, dim=1)

    def forward(
        self, images: Float[Tensor, "B 3 H W"], reference: Float[Tensor, "#B 3 H W"], *, per_layer: bool = False
    ) -> Float[Tensor, "B"] | Float[Tensor, "B L"]:
        """Distances, lower is nearer; symmetric.

        Args:
            images, reference: in [0, 1], of one size; one reference may stand for all.
            per_layer: the summands of the five layers instead.

        Raises:
            UsageError: other shapes, pictures too small for the network, or as `maps`.
        """
        if images.shape[1:] != reference.shape[1:] or len(reference) not in (1, len(images)):
            raise UsageError(f"images {tuple(images.shape)} and reference {tuple(reference.shape)} must be of one size")
        height, width = images.shape[-2:]
        if min(height, width) < LEAST:
            raise UsageError(f"pictures of {height} x {width} pixels are too small: {LEAST} on either side at least")
        distances = self.between(self.maps(images), self.maps(reference))
        return distances if per_layer else distances.sum(1)

    def fit_triplets(
        self,
        reference: Float[Tensor, "N 3 H W"],
        first: Float[Tensor, "N 3 H W"],
        second: Float[Tensor, "N 3 H W"],
        preferred: Float[Tensor, "N"],
        *,
        steps: int,
        lr: float = 1e-4,
        batch_size: int = 50,
        dropout: float = 0.5,
        seed: int = 0,
        **options: Any,
    ) -> FitResult:
        """Learn trunk (that of `lite0` rests) and weights from people's choices, as the papers do.

        Adam with betas (0.5, 0.999), its rate constant for half of the steps and linear to 0 behind; after every step
        weights below 0 become 0.

        Args:
            reference, first, second: triplets of one size, in [0, 1].
            preferred: share of people to whom the second picture was nearer, in [0, 1].
            steps: of the optimizer; the papers' ten passes over 150,000 triplets.
            lr, batch_size: triplets a step.
            dropout: of squared differences, channel by channel and place by place.
            seed: of batches, dropout and the loss's perceptron.
            options: of `binderclip.fit.fit`.

        Raises:
            UsageError: shapes that do not fit, shares outside [0, 1], or pictures as `maps` refuses them.
        """
        if not reference.shape == first.shape == second.shape or preferred.shape != reference.shape[:1]:
            shapes = ", ".join(str(tuple(part.shape)) for part in (reference, first, second, preferred))
            raise UsageError(f"three equal batches of pictures and as many choices are needed, not {shapes}")
        if not bool(((preferred >= 0) & (preferred <= 1)).all()):
            raise UsageError("preferred must lie in [0, 1]: the share of people to whom the second was nearer")
        with torch.no_grad():
            for part in (reference, first, second):
                float_batch(part)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loss = ChoiceLoss().to(reference.device)

            def step(rows: Tensor) -> Tensor:
                maps = [self.maps(part[rows]) for part in (reference, first, second)]
                near, far = (self.between(one, maps[0], dropout=dropout).sum(1) for one in maps[1:])
                return loss(near, far, preferred[rows].to(near))

            learned = [p for p in self.parameters() if p.requires_grad] + list(loss.parameters())
            adam = {"name": "adam", "betas": (0.5, 0.999)}
            return fit(
                step, learned, ShuffledRows(len(reference), batch_size, seed), steps=steps, lr=lr, optimizer=adam,
                schedule=lambda done: min(1.0, 2 - 2 * done), callbacks=[_NotNegative(self.weights)], **options,
            )  # type: ignore[arg-type] # fmt: skip

    def _learned(self) -> dict[str, Tensor]:
        state = self.state_dict()
        return state if self.net != "lite0" else {name: v for name, v in state.items() if not name.startswith("trunk")}

    def save_weights(self, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
        """Write trunk (of `lite0` nothing) and weights as safetensors, with the net, its variant and widths."""
        tensors = {name: value.to(dtype) for name, value in self._learned().items()}
        settings: dict[str, Any] = {"net": self.net, "variant": self.variant, "widths": self.widths, "blur": self.blur}
        return write_weights(path, tensors, KIND, **settings)

    @classmethod
    def from_weights(cls, path: str | Path, *, trunk: str | Path | None = None) -> LPIPS:
        """A metric of `save_weights`, or of the authors' files.

        Of LPIPS those are `alex.pth` and `vgg.pth` of version 0.1, which hold the linear weights alone, or the
        `state_dict` of `lpips.LPIPS`; of ST-LPIPS `alex_shift_tolerant.pth` and the like. Network, variant and blur are
        read from names and shapes. Version 0.0 looks the same and asks for pictures without normalisation: not for it.

        Args:
            path: of the file; nothing in it is run.
            trunk: torchvision's weights of the network, for a file of linear weights alone.

        Raises:
            CheckpointError: the file cannot be read, belongs to another metric or network, or lacks a trunk.
            UsageError: a trunk for a file of `save_weights`.
        """
        if not written_here(path):
            state = read_released(path)
            metric = cls(**build_of(state, path))
            fill_released(metric, state, path, trunk)
            return metric
        if trunk is not None:
            raise UsageError(f"{path} was written by save_weights and knows its network: leave trunk out")
        weights = read_weights(path, KIND, need=("net", "variant", "widths", "blur"))
        net, variant, widths, blur = (weights.settings[name] for name in ("net", "variant", "widths", "blur"))
        try:
            metric = cls(net, variant, widths=None if net == "lite0" else widths, blur=blur)
        except (TypeError, UsageError) as error:
            raise CheckpointError(f"{path} cannot be read as weights of {KIND}: {error}") from error
        take_over(metric._learned(), weights)
        return metric


@dataclass(frozen=True)
class _NotNegative:
    """Keeps weights at 0 or above after every step."""

    weights: nn.ParameterList

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for weight in self.weights:
            weight.clamp_(min=0)

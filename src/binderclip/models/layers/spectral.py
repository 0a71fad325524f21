"""Linear and convolution layers of spectral norm at most 1, kept orthogonal by exact projection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.models.layers.lipschitz import LipschitzLayer, check_sizes

__all__ = ["SpectralConv2d", "SpectralLinear", "largest_singular_value", "orthonormalised"]


def largest_singular_value(matrix: Float[Tensor, "m n"]) -> float:
    """Spectral norm, exact up to rounding: the root of the largest eigenvalue of the smaller Gram matrix, in float64.

    Power iteration approaches it from below, which a proof can't use.
    """
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).detach().double()
    return float(torch.linalg.eigvalsh(tall.T @ tall)[-1].clamp(min=0).sqrt())


def orthonormalised(matrix: Float[Tensor, "m n"], iterations: int = 15) -> Float[Tensor, "m n"]:
    """Nearby matrix of spectral norm at most 1 whose other singular values are pulled to 1 (Bjorck and Bowie).

    `W <- 1.5 W - .5 W W'W`, after division by the spectral norm. All iterates are W times a polynomial of its Gram
    matrix, so the loop runs on the small Gram matrix alone. The end is a division by the exact norm where that
    exceeds 1, with room for the rounding to the matrix's own precision.

    Args:
        matrix: any shape; rows or columns, whichever are fewer, become orthonormal.
        iterations: 0 leaves the directions alone and only scales a norm above 1 down to 1.
    """
    tall = (matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T).detach().double()
    if iterations > 0:
        gram = tall.T @ tall
        top = float(torch.linalg.eigvalsh(gram)[-1])
        if top > 0:
            eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            gram, factor = gram / top, eye / math.sqrt(top)
            for _ in range(iterations):
                if float((gram - eye).abs().max()) < 1e-12:
                    break
                step = 1.5 * eye - 0.5 * gram
                factor, gram = factor @ step, step @ gram @ step
                gram = 0.5 * (gram + gram.T)
            tall = tall @ factor
    room = 1 + math.sqrt(tall.shape[1]) * torch.finfo(matrix.dtype).eps
    tall = tall / max(1.0, largest_singular_value(tall) * room)
    return (tall if matrix.shape[0] >= matrix.shape[1] else tall.T).to(matrix.dtype)


class SpectralLinear(LipschitzLayer):
    """Linear layer without bias whose weight has spectral norm at most 1 (after `project`): 1-Lipschitz.

    One sample's weight gradient is an outer product, so its norm is at most (input norm) x (output gradient norm).
    Starts orthogonal: then no norm shrinks on the way back and the bounds stay tight.

    Args:
        in_features, out_features: sizes.
        iterations: Bjorck steps of `project`; 0 only scales a norm above 1 back to 1.

    Raises:
        UsageError: a size below 1 or iterations below 0.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(self, in_features: int, out_features: int, *, iterations: int = 15) -> None:
        super().__init__()
        check_sizes(iterations, in_features=in_features, out_features=out_features)
        self.in_features, self.out_features, self.iterations = in_features, out_features, iterations
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.orthogonal_(self.weight)
        with torch.no_grad():
            self.weight.copy_(orthonormalised(self.weight, 0))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... e"]:
        if x.ndim != 2:
            raise NotSupported(f"SpectralLinear takes (batch, features), not {tuple(x.shape)}: put nn.Flatten() before")
        return F.linear(x, self.weight)

    def back_params(self, x: float, g: float) -> dict[str, float]:
        return {"weight": x * g}

    @torch.no_grad()
    def project(self) -> None:
        self.weight.copy_(orthonormalised(self.weight, self.iterations))

    def spectral_norm(self) -> float:
        return largest_singular_value(self.weight)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, iterations={self.iterations}"


class SpectralConv2d(LipschitzLayer):
    """Zero-padded convolution without bias that is 1-Lipschitz: its kernel matrix has norm at most 1, times a constant.

    A pixel lies in at most `ceil(kh/s) ceil(kw/s)` windows, so cutting an image into windows stretches norms by at most
    the root of that number. The kernel, as a matrix (out, in kh kw), is projected to spectral norm 1, and the forward
    divides by that root. The parameter gradient of one sample is then at most (input norm) x (output gradient norm).

    Args:
        in_channels, out_channels: sizes.
        kernel_size: odd side, or (height, width).
        stride: of the window, both directions.
        size: (h, w) of the input; needed for `released` alone.
        released: use the released code's constant for stride 1, which counts windows on average over the image instead
            of at most. It lets the operator exceed norm 1 (by 0.5% for a smooth 3 x 3 kernel on 8 x 8); the bounds
            here account for the excess.
        iterations: Bjorck steps of `project`.

    Raises:
        UsageError: an even kernel, a size below 1, `released` without `size`.

    Paper: DP-SGD Without Clipping: The Lipschitz Neural Network Way (arXiv 2305.16202).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        released: bool = False,
        iterations: int = 15,
    ) -> None:
        super().__init__()
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        check_sizes(iterations, in_channels=in_channels, out_channels=out_channels, kernel=min(kh, kw), stride=stride)
        if kh % 2 == 0 or kw % 2 == 0:
            raise UsageError(f"kernel_size must be odd, not {kernel_size}")
        if released and size is None:
            raise UsageError("released=True needs size=(h, w): its constant depends on the image")
        self.kernel, self.stride, self.iterations = (kh, kw), stride, iterations
        self.padding = ((kh - 1) // 2, (kw - 1) // 2)
        self.windows = math.ceil(kh / stride) * math.ceil(kw / stride)
        self.coefficient = 1 / math.sqrt(self.windows)
        if released and stride == 1 and size is not None:
            ratios = [n / (k * n - (k - 1) / 2 * ((k - 1) / 2 + 1)) for k, n in zip((kh, kw), size, strict=True)]
            self.coefficient = math.sqrt(ratios[0] * ratios[1])
        self.size = size if released else None
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kh, kw))
        nn.init.orthogonal_(self.weight)
        with torch.no_grad():
            self.weight.copy_(orthonormalised(self.weight.flatten(1), 0).view_as(self.weight))

    @property
    def lipschitz(self) -> float:
        """Proved constant: 1, or a little more for `released`."""
        return self.coefficient * math.sqrt(self.windows)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h2 w2"]:
        if self.size is not None and tuple(x.shape[-2:]) != tuple(self.size):
            raise UsageError(f"this convolution's constant is for images of {self.size}, not {tuple(x.shape[-2:])}")
        return F.conv2d(x, self.coefficient * self.weight, stride=self.stride, padding=self.padding)

    def out_bound(self, x: float) -> float:
        return x * self.lipschitz

    def back_input(self, x: float, g: float) -> float:
        return g * self.lipschitz

    def back_params(self, x: float, g: float) -> dict[str, float]:
        return {"weight": self.lipschitz * x * g}

    @torch.no_grad()
    def project(self) -> None:
        self.weight.copy_(orthonormalised(self.weight.flatten(1), self.iterations).view_as(self.weight))

    def spectral_norm(self) -> float:
        return largest_singular_value(self.weight.flatten(1))

    def extra_repr(self) -> str:
        out_channels, in_channels = self.weight.shape[:2]
        return f"{in_channels}, {out_channels}, {self.kernel}, stride={self.stride}, iterations={self.iterations}"

"""Similarity geometries: what it means for two features to be alike.

A geometry owns the normalisation, so features enter the losses as the encoders give them. Whatever it is, its pairwise
similarity is a function of one number, of the dot product of two vectors, which is what lets the losses walk over it in
blocks:

    s(x, y) = factor * f(<left(x), right(y)>)

For the negative squared distance, left(x) = (sqrt(2) x, -|x|^2, 1), right(y) = (sqrt(2) y, 1, -|y|^2) and f is the
identity; on the hyperboloid f is an inverse hyperbolic cosine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.settings import check_choice
from binderclip.similarity.bounds import between
from binderclip.similarity.dot_functions import DotFunction, NegativeArc, NegativeArcosh, NegativeRoot

__all__ = [
    "SIMILARITIES",
    "ArcLength",
    "Cosine",
    "Euclidean",
    "Inner",
    "Lorentz",
    "LorentzInner",
    "ParameterAverage",
    "Similarity",
    "SquaredEuclidean",
    "SquaredLorentz",
    "at_least_float32",
    "geometry_named",
]

_CLIP_SCALE = 1 / 0.07


def at_least_float32(x: Tensor) -> Tensor:
    """Half-precision features are compared in float32; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@runtime_checkable
class ParameterAverage(Protocol):
    """What a loss that is spread over processes hands its geometry (`losses.contrastive.share.Share`)."""

    def average(self, parameter: Tensor) -> Tensor:
        """The parameter, with a gradient that is averaged over the processes."""
        ...


class Similarity(nn.Module):
    """A geometry: subclass it and say how a feature is embedded, and how two embedded ones are compared.

    `modality` ("image", "text", or "query" for a text that asks) is there for geometries that treat the sides
    differently; all but "image" are texts. A geometry that can say when one point entails another has `cone_angles`.

    Attributes:
        of_dot: f, None for the identity.
        spherical: whether lengths of features mean nothing, so that class prototypes may be normalised.
        angular: whether directions alone count, so that what needs cosines of unit vectors may take them.
        initial_scale: the logit scale that training starts from.
        share: how the batch is spread over processes, set by the loss at every call; gradients of learned parameters
            of the geometry are averaged over it, so they are complete in every process.
    """

    of_dot: DotFunction | None = None
    spherical = False
    angular = False
    initial_scale = _CLIP_SCALE
    share: ParameterAverage | None = None

    def settings(self) -> dict[str, Any]:
        """Arguments that make this geometry again; what it learned are its parameters."""
        return {}

    def signature(self) -> str:
        """A text that two geometries share when they compare alike: class, settings and learned values."""
        learned = {name: value.tolist() for name, value in self.state_dict().items()}
        return json.dumps([type(self).__qualname__, self.settings(), learned], sort_keys=True)

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to points of this geometry; float32 or better."""
        return at_least_float32(x)

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """What stands on the left of the dot product."""
        return a

    def right(self, b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """What stands on the right of the dot product."""
        return b

    def factor(self) -> Float[Tensor, ""] | float:
        """What f is multiplied by."""
        return 1.0

    def similarity(self, u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """From dot products of left and right vectors to similarities."""
        return self.factor() * (u if self.of_dot is None else self.of_dot.value(u))

    def forward(self, a: Float[Tensor, "n e"], b: Float[Tensor, "m e"]) -> Float[Tensor, "n m"]:
        """Similarity of every embedded row of `a` with every embedded row of `b`."""
        return self.similarity(self.left(a) @ self.right(b).T)

    def offset(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n"]:
        """What every cosine of a feature is lowered by, whatever it is compared with: 0 where no hubs are corrected.

        For geometries of cosines (`angular`): their similarity is the cosine less the offsets of both sides.
        """
        return at_least_float32(x).new_zeros(x.shape[:-1])

    def paired(self, a: Float[Tensor, "*n e"], b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n"]:
        """Similarity of row i of `a` with row i of `b`."""
        return self.similarity((self.left(a) * self.right(b)).sum(-1))

    def cone_angles(
        self, apex: Float[Tensor, "n e"], point: Float[Tensor, "n e"], radius: float
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Angle of each point seen from its apex, away from the axis through the origin, and the cone's half-angle.

        Raises:
            UsageError: the geometry has no cones.
        """
        raise UsageError(
            f"{type(self).__name__} has no entailment cones: use a Euclidean or a Lorentz geometry, or Inner"
        )


class Cosine(Similarity):
    """Cosine of the angle between two features: they are brought to unit length first."""

    spherical = True
    angular = True

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to unit vectors; normalising twice changes nothing."""
        return F.normalize(at_least_float32(x), dim=-1)


class ArcLength(Cosine):
    """Negative angle between two features in radians: minus their distance along the unit sphere ("elliptic").

    Paper: Embedding Geometries of Contrastive Language-Image Pre-Training (arXiv 2409.13079).
    """

    of_dot = NegativeArc()


class _Flat(Similarity):
    """Features times a fixed scale, in flat space, with Euclidean entailment cones.

    Args:
        scale: factor on every feature; None: 1 / sqrt(d), so that features of unit variance have length about 1.

    Raises:
        UsageError: a scale that is not positive.
    """

    def __init__(self, scale: float | None = None) -> None:
        super().__init__()
        if scale is not None and not 0 < scale < math.inf:
            raise UsageError(f"the features' scale must be positive, got {scale}")
        self.scale = scale

    def settings(self) -> dict[str, Any]:
        """The features' scale."""
        return {"scale": self.scale}

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"scale={self.scale}"

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features times the scale."""
        return at_least_float32(x) * (x.shape[-1] ** -0.5 if self.scale is None else self.scale)

    def cone_angles(
        self, apex: Float[Tensor, "n e"], point: Float[Tensor, "n e"], radius: float
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Euclidean cones (Ganea et al., arXiv 1804.01882): apex x, axis from the origin through x, half-angle
        arcsin(radius / |x|).
        """
        away = point - apex
        lengths = apex.norm(dim=-1) * away.norm(dim=-1)  # (n,)
        return _angle((away * apex).sum(-1), lengths), _half_angle(radius, apex.norm(dim=-1))


class Inner(_Flat):
    """Inner product of the features, scaled by `scale` first (default: as they are).

    Args:
        scale: factor on every feature; None: 1 / sqrt(d), as p153's Euclidean inner product has it.

    Raises:
        UsageError: a scale that is not positive.
    """

    def __init__(self, scale: float | None = 1.0) -> None:
        super().__init__(scale)


class SquaredEuclidean(_Flat):
    """Negative squared distance, the geometry of EuCLIP.

    Scaled by the logit scale and put through a softmax it is a Gaussian kernel; image-to-text rows do not see the
    length of the image. Logits of unit vectors are those of cosines at twice the scale, less a constant.

    Args:
        scale: factor on every feature; None: 1 / sqrt(d).

    Raises:
        UsageError: a scale that is not positive.

    Paper: Embedding Geometries of Contrastive Language-Image Pre-Training (arXiv 2409.13079).
    """

    initial_scale = 1.0

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """(sqrt(2) x, -|x|^2, 1)."""
        square = a.square().sum(-1, keepdim=True)
        return torch.cat([math.sqrt(2) * a, -square, torch.ones_like(square)], -1)

    def right(self, b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """(sqrt(2) y, 1, -|y|^2)."""
        square = b.square().sum(-1, keepdim=True)
        return torch.cat([math.sqrt(2) * b, torch.ones_like(square), -square], -1)


class Euclidean(SquaredEuclidean):
    """Negative distance. Below the root of the precision (3e-4 in float32) it has no gradient.

    Args:
        scale: factor on every feature; None: 1 / sqrt(d).

    Raises:
        UsageError: a scale that is not positive.

    Paper: Embedding Geometries of Contrastive Language-Image Pre-Training (arXiv 2409.13079).
    """

    of_dot = NegativeRoot()
    initial_scale = _CLIP_SCALE


class Lorentz(Similarity):
    """Negative geodesic distance on the hyperboloid of curvature -c (MERU's geometry).

    A feature, times a learned scale of its modality, is a tangent vector at the hyperboloid's origin and is put on it
    by the exponential map: x_s = sinh(sqrt(c) |x|) / (sqrt(c) |x|) x with time x_t = sqrt(1/c + |x_s|^2). With the
    Lorentz inner product L = <x_s, y_s> - x_t y_t the distance is arccosh(-c L) / sqrt(c).

    Args:
        curvature: initial c; kept in [c/10, 10 c].
        learnable: whether the curvature and the scales of the modalities are trained; the scales start at 1 / sqrt(d)
            and are at most 1.

    Raises:
        UsageError: a curvature that is not positive.

    Paper: Hyperbolic Image-Text Representations (arXiv 2304.09172); its place among others: arXiv 2409.13079.
    """

    of_dot: DotFunction | None = NegativeArcosh()
    # beyond it the hyperbolic sine leaves no digits for anything else; the bound is MERU's
    _LONGEST = math.asinh(2.0**15)

    def __init__(self, curvature: float = 1.0, *, learnable: bool = True) -> None:
        super().__init__()
        if not 0 < curvature < math.inf:
            raise UsageError(f"the curvature must be positive, got {curvature}")
        self.initial_curvature = float(curvature)
        self._low, self._high = math.log(curvature / 10), math.log(curvature * 10)
        self.log_curvature = nn.Parameter(torch.tensor(math.log(curvature)), requires_grad=learnable)
        self.log_image_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)
        self.log_text_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def settings(self) -> dict[str, Any]:
        """The curvature that training started from, whose tenth and tenfold bound the learned one."""
        return {"curvature": self.initial_curvature}

    def _read(self, parameter: nn.Parameter) -> Tensor:
        return parameter if self.share is None else self.share.average(parameter)

    def curvature(self) -> Float[Tensor, ""]:
        """c, where the space has curvature -c."""
        return between(self._read(self.log_curvature), self._low, self._high).exp()

    def factor(self) -> Float[Tensor, ""] | float:
        """1 / sqrt(c), which takes distances at curvature -1 to those at -c."""
        return self.curvature().rsqrt()

    def embed(self, x: Float[Tensor, "*n d"], modality: str = "image") -> Float[Tensor, "*n e"]:
        """Raw features to the space part of points on the hyperboloid."""
        x = at_least_float32(x)
        log_scale = self._read(self.log_image_scale if modality == "image" else self.log_text_scale)
        # the scale relative to 1 / sqrt(d), at most sqrt(d)
        scale = between(log_scale - 0.5 * math.log(x.shape[-1]), -math.inf, 0.0).exp()
        root = self.curvature().to(x.dtype).sqrt()
        x = x * scale.to(x.dtype)
        angle = (root * x.norm(dim=-1, keepdim=True)).clamp(torch.finfo(x.dtype).eps, self._LONGEST)
        return x * (angle.sinh() / angle)

    def _coordinates(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """Space and time of points, in units in which the curvature is -1."""
        space = point * self.curvature().to(point.dtype).sqrt()
        return space, (1 + space.square().sum(-1, keepdim=True)).sqrt()

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """sqrt(c) (-x_s, x_t), so that the dot product is -c L."""
        space, time = self._coordinates(a)
        return torch.cat([-space, time], -1)

    def right(self, b: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """sqrt(c) (y_s, y_t)."""
        return torch.cat(self._coordinates(b), -1)

    def cone_angles(
        self, apex: Float[Tensor, "n e"], point: Float[Tensor, "n e"], radius: float
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Hyperbolic cones, as in MERU: half-angle arcsin(2 radius / (sqrt(c) |x_s|))."""
        (x, x_time), (y, y_time) = self._coordinates(apex), self._coordinates(point)
        inner = (x * y).sum(-1) - (x_time * y_time).squeeze(-1)  # c L, (n,)
        upper = y_time.squeeze(-1) + x_time.squeeze(-1) * inner
        floor = 4 * torch.finfo(inner.dtype).eps
        lengths = x.norm(dim=-1) * (inner.square() - 1).clamp_min(floor).sqrt()
        return _angle(upper, lengths), _half_angle(2 * radius, x.norm(dim=-1))


class SquaredLorentz(Lorentz):
    """Negative squared geodesic distance on the hyperboloid; for the settings see `Lorentz`."""

    of_dot = NegativeArcosh(2)
    initial_scale = 1.0

    def factor(self) -> Float[Tensor, ""] | float:
        """1 / c, which takes squared distances at curvature -1 to those at -c."""
        return self.curvature().reciprocal()


class LorentzInner(Lorentz):
    """Lorentz inner product of two points on the hyperboloid, at most -1/c; for the settings see `Lorentz`."""

    of_dot = None

    def factor(self) -> Float[Tensor, ""] | float:
        """1 / c."""
        return self.curvature().reciprocal()

    def left(self, a: Float[Tensor, "*n e"]) -> Float[Tensor, "*n k"]:
        """sqrt(c) (x_s, -x_t), so that the dot product is c L."""
        return -super().left(a)


def _angle(upper: Tensor, lengths: Tensor) -> Tensor:
    """arccos(upper / lengths), with a gradient wherever the quotient is not exactly parallel or opposite."""
    tiny = torch.finfo(upper.dtype).tiny
    bound = 1 - 4 * torch.finfo(upper.dtype).eps
    return (upper / lengths.clamp_min(tiny)).clamp(-bound, bound).acos()


def _half_angle(radius: float, lengths: Tensor) -> Tensor:
    """arcsin(min(1, radius / length))."""
    bound = 1 - 4 * torch.finfo(lengths.dtype).eps
    return (radius / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)).clamp_max(bound).asin()


SIMILARITIES: dict[str, Callable[..., Similarity]] = {
    "cosine": Cosine,
    "arc": ArcLength,
    "inner": Inner,
    "euclidean": Euclidean,
    "squared-euclidean": SquaredEuclidean,
    "lorentz": Lorentz,
    "lorentz-inner": LorentzInner,
    "squared-lorentz": SquaredLorentz,
}


def geometry_named(similarity: str | Similarity | None) -> Similarity:
    """A geometry by its name in `SIMILARITIES`, or as it is; None is the cosine.

    Raises:
        UsageError: an unknown name.
    """
    if similarity is None:
        return Cosine()
    if isinstance(similarity, Similarity):
        return similarity
    check_choice("similarity", similarity, SIMILARITIES)
    return SIMILARITIES[similarity]()

"""What an attack varies and where it may go: balls around the clean image, inside the range of pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.robust.checks import check_box, check_images
from binderclip.settings import check_choice

Start = Literal["clean", "random"]


@runtime_checkable
class Feasible(Protocol):
    """A parametrisation of images and the set its parameters may take."""

    def init(self, clean: Tensor, start: Start, generator: torch.Generator) -> Tensor:
        """First parameters, feasible."""

    def image(self, clean: Tensor, theta: Tensor) -> Tensor:
        """The images that parameters stand for, differentiable."""

    def project(self, clean: Tensor, theta: Tensor) -> Tensor:
        """The nearest feasible parameters."""


@dataclass(frozen=True)
class _Ball:
    """Images themselves, within `eps` of the clean ones: first the ball, then the box, and both hold at the end.

    The clean image lies in the box, so clamping to it only brings pixels nearer to the clean ones.
    """

    eps: float
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_number("eps", self.eps, least=0)
        check_box(self.box)

    def init(self, clean: Tensor, start: Start, generator: torch.Generator) -> Tensor:
        """The clean images, or random ones of the ball."""
        if _checked(start) == "clean":
            return clean.clone()
        return self.project(clean, clean + self.draw(clean, generator))

    def image(self, clean: Tensor, theta: Tensor) -> Tensor:
        """The parameters are the images."""
        return theta

    def project(self, clean: Tensor, theta: Tensor) -> Tensor:
        """Into the ball, then into the box."""
        return self.shrink(theta - clean).add_(clean).clamp_(*self.box)

    def draw(self, clean: Tensor, generator: torch.Generator) -> Tensor:
        """A random perturbation inside the ball."""
        raise NotImplementedError

    def shrink(self, delta: Tensor) -> Tensor:
        """The nearest perturbation inside the ball, as a new tensor."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linf(_Ball):
    """No pixel changes by more than `eps`.

    Args:
        eps: radius in the units of the images.
        box: range of pixels.

    Raises:
        UsageError: a radius that is negative or not finite, an empty box; when attacked, images outside the box.
    """

    def draw(self, clean: Float[Tensor, "B *size"], generator: torch.Generator) -> Float[Tensor, "B *size"]:
        """Uniform in the ball."""
        return self.eps * (2 * torch.rand(clean.shape, generator=generator).to(clean) - 1)

    def shrink(self, delta: Float[Tensor, "B *size"]) -> Float[Tensor, "B *size"]:
        """Clamp."""
        return delta.clamp(-self.eps, self.eps)


@dataclass(frozen=True)
class L2(_Ball):
    """The Euclidean length of the change of an image is at most `eps`.

    Args:
        eps: radius in the units of the images, over all pixels and channels of one image.
        box: range of pixels.

    Raises:
        UsageError: a radius that is negative or not finite, an empty box; when attacked, images outside the box.
    """

    def draw(self, clean: Float[Tensor, "B *size"], generator: torch.Generator) -> Float[Tensor, "B *size"]:
        """Uniform in the ball: a uniform direction, and a length whose power of the dimension is uniform."""
        noise = torch.randn(clean.shape, generator=generator).flatten(1)
        length = torch.rand(len(noise), 1, generator=generator) ** (1 / noise.shape[1])
        return (self.eps * length * noise / noise.norm(dim=1, keepdim=True)).reshape(clean.shape).to(clean)

    def shrink(self, delta: Float[Tensor, "B *size"]) -> Float[Tensor, "B *size"]:
        """Scale down what is too long."""
        length = delta.flatten(1).norm(dim=1).clamp(min=1e-30)
        return delta * per_image(self.eps / length, delta).clamp(max=1)


@dataclass(frozen=True)
class Free:
    """Images themselves, clamped to the range of pixels where they are looked at: nothing bounds their change.

    Args:
        box: range of pixels. A random start is uniform in it.

    Raises:
        UsageError: an empty box; when attacked, images outside the box.
    """

    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_box(self.box)

    def init(self, clean: Float[Tensor, "B *size"], start: Start, generator: torch.Generator) -> Tensor:
        """The clean images, or uniform noise of their shape."""
        if _checked(start) == "clean":
            return clean.clone()
        low, high = self.box
        return low + (high - low) * torch.rand(clean.shape, generator=generator).to(clean)

    def image(self, clean: Tensor, theta: Float[Tensor, "B *size"]) -> Float[Tensor, "B *size"]:
        """Clamped."""
        return theta.clamp(*self.box)

    def project(self, clean: Tensor, theta: Float[Tensor, "B *size"]) -> Float[Tensor, "B *size"]:
        """As they are."""
        return theta


@dataclass(frozen=True)
class Latent:
    """Images that a decoder makes of latents; nothing bounds the latents.

    Args:
        decode: latents (B, *size) to images in `box`, differentiable; an `nn.Module` is frozen meanwhile.
        size: of one latent.
        uniform: a random start is uniform in [0, 1], else standard normal. There is no clean one.
        box: range of pixels.

    Raises:
        UsageError: an empty box; when used, a clean start, or pictures of the decoder of another shape or range.
    """

    decode: Callable[[Tensor], Tensor]
    size: tuple[int, ...]
    uniform: bool = True
    box: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_box(self.box)

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The decoder, where it is a module."""
        return (self.decode,) if isinstance(self.decode, nn.Module) else ()

    def init(self, clean: Tensor, start: Start, generator: torch.Generator) -> Tensor:
        """Random latents, one an image, whose pictures are looked at."""
        if _checked(start) == "clean":
            raise UsageError("a latent has no clean start: pass start='random'")
        shape = (len(clean), *self.size)
        drawn = torch.rand(shape, generator=generator) if self.uniform else torch.randn(shape, generator=generator)
        latents = drawn.to(clean)
        with torch.no_grad():
            check_images("pictures of the decoder", self.image(clean, latents), self.box)
        return latents

    def image(self, clean: Tensor, theta: Tensor) -> Tensor:
        """Decoded."""
        images = self.decode(theta)
        if images.shape != clean.shape:
            raise UsageError(f"the decoder gives {tuple(images.shape)} where images are {tuple(clean.shape)}")
        return images

    def project(self, clean: Tensor, theta: Tensor) -> Tensor:
        """As they are."""
        return theta


def _checked(start: Start) -> Start:
    check_choice("start", start, ("clean", "random"))
    return start


def per_image(values: Shaped[Tensor, "B"], like: Shaped[Tensor, "B *size"]) -> Tensor:
    """One number an image, shaped to broadcast."""
    return values.reshape(-1, *[1] * (like.ndim - 1))

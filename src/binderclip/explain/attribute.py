"""The one path of every gradient method: target -> signal at a site -> channel reduction -> ensemble -> Attribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.attribution import Attribution, Finish
from binderclip.explain.observed import Observed, Observer, Place
from binderclip.explain.placement import Box, render, whole
from binderclip.explain.targets import Score, resolve

Reduction = Literal["sum", "max-abs", "abs-sum", "l2"]


@dataclass(frozen=True)
class SiteSignal:
    """A signal at one place: (B, h, w, C), signed, and the part of the image it covers."""

    values: Tensor
    box: Box


Measure: TypeAlias = "Callable[[Tensor], list[SiteSignal]]"


class Signal(Protocol):
    """What is read off one pass, with its channels; stateless."""

    def __call__(
        self, seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]
    ) -> list[Float[Tensor, "B h w C"]]: ...


class Ensemble(Protocol):
    """Repeats a measurement over perturbed images and averages; it decides whether before or after the reduction."""

    def __call__(
        self, measure: Measure, reduce: Callable[[Tensor], Tensor], images: Float[Tensor, "B 3 H W"]
    ) -> list[SiteSignal]: ...


def gradient(seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
    """The gradient of the score at each place."""
    return seen.grads(score, places)


def pooled_gradient_times_value(seen: Observed, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
    """Each channel weighted by its gradient's spatial mean: the terms of Grad-CAM."""
    grads = seen.grads(score, places)
    return [g.mean(dim=(1, 2), keepdim=True) * seen.value(p) for g, p in zip(grads, places, strict=True)]


def single(measure: Measure, reduce: Callable[[Tensor], Tensor], images: Tensor) -> list[SiteSignal]:
    """No ensemble: the images as they are."""
    return [SiteSignal(reduce(found.values), found.box) for found in measure(images)]


@dataclass(frozen=True)
class Crops:
    """The mean of maps over crops and their reflections, each put back at its place (ten-crop averaging).

    Four corner crops and the centre one, each also mirrored; `n` of them in the order centre, mirrored centre, corner,
    mirrored corner and so on. A pixel is averaged over the crops that show it.

    Args:
        n: number of crops, 1 to 10.
        share: side of a crop as a share of the image's.
    """

    n: int = 10
    share: float = 0.875

    def __call__(self, measure: Measure, reduce: Callable[[Tensor], Tensor], images: Tensor) -> list[SiteSignal]:
        size = (images.shape[-2], images.shape[-1])
        height, width = (max(1, round(side * self.share)) for side in size)
        down, right = size[0] - height, size[1] - width
        corners = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
        total = torch.zeros(len(images), *size, device=images.device)
        count = torch.zeros(size, device=images.device)
        for index in range(self.n):
            (top, left), mirrored = corners[index // 2], index % 2 == 1
            crop = images[..., top : top + height, left : left + width]
            found = measure(crop.flip(-1) if mirrored else crop)
            drawn = torch.stack([render(reduce(site.values), site.box, (height, width)) for site in found]).sum(dim=0)
            total[:, top : top + height, left : left + width] += drawn.flip(-1) if mirrored else drawn
            count[top : top + height, left : left + width] += 1
        return [SiteSignal(total / count.clamp(min=1), whole(size))]


def reduce_channels(values: Float[Tensor, "B h w C"], how: Reduction) -> Float[Tensor, "B h w"]:
    """Channels -> one value a place.

    Raises:
        UsageError: an unknown reduction.
    """
    if how == "sum":
        return values.sum(dim=-1)
    if how == "max-abs":
        return values.abs().amax(dim=-1)
    if how == "abs-sum":
        return values.abs().sum(dim=-1)
    if how == "l2":
        return values.norm(dim=-1)
    raise UsageError(f"reduce must be sum, max-abs, abs-sum or l2, not {how!r}")


def attribute(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    signal: Signal = gradient,
    layers: Place | Sequence[Place] | None = "input",
    reduce: Reduction = "sum",
    ensemble: Ensemble = single,
    finish: Finish = "signed",
    method: str = "attribution",
) -> Attribution:
    """Explain images by a signal; the named methods are points in these options.

    Args:
        model: an `ImageTextModel` (text targets), a `Predictor`, or any module from images (B, C, H, W) to logits.
        images: one image or several of one size, anything the model takes; for a plain module its own input tensor.
        target: see `targets.resolve`; resolved on the clean images.
        signal: what is read off each pass.
        layers: `"input"`, block indices of a tower, names of submodules; None for the last spatial layer.
        reduce: how channels become one value.
        ensemble: over perturbed images.
        finish: what happens to signs when maps are drawn.
        method: name in the result.

    Raises:
        UsageError: a target, layer or image that does not fit, said by name.
        NotSupported: a model whose layers cannot be seen.
    """
    observer = Observer(model)
    batch = observer.images(images)
    with observer.ready():
        if layers is None:
            layers = observer.default_place(batch)
        places = [layers] if isinstance(layers, (int, str)) else list(layers)
        clean = observer.run(batch, places)
        score: Score = resolve(model, target, clean.outputs.detach())

        def measure(perturbed: Tensor) -> list[SiteSignal]:
            seen = clean if perturbed is batch else observer.run(perturbed, places)
            found = signal(seen, score(seen.outputs), places)
            return [SiteSignal(values.float(), seen.boxes[p]) for values, p in zip(found, places, strict=True)]

        value = score(clean.outputs).detach()
        sites = ensemble(measure, lambda values: reduce_channels(values, reduce), batch)
    size = (batch.shape[-2], batch.shape[-1])
    return Attribution(
        tuple(site.values.detach() for site in sites), tuple(site.box for site in sites), size, value, method, finish
    )

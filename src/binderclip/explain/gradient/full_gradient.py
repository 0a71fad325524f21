"""FullGrad: a score as the sum of an input term and one term for every bias of the network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribution import Attribution
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.passes import NoisyCopies
from binderclip.explain.engine.placement import Box, input_box, whole
from binderclip.explain.engine.targets import Score, resolve
from binderclip.explain.engine.term_grids import TensorLayout, layout_of, on_grid
from binderclip.explain.gradient.bias_tape import AFFINE, recorded
from binderclip.settings import check_choice

Variant = Literal["full", "simple", "smooth"]
#: Relative to the score, and to the sum of the terms' sizes, whose cancellation costs digits.
TOLERANCE, ROUNDING = 1e-3, 1e-4


@dataclass(frozen=True)
class BiasTerm:
    """What one bias of the network adds to the score.

    Attributes:
        step: its place among the operations of the pass.
        name: of the submodule; empty outside of any.
        op: the operation, such as `conv2d`, `batch_norm`, `gelu` or `scaled_dot_product_attention`.
        implicit: whether it is the bias of a non-linearity at this image rather than a layer's own.
        values: gradient times bias, of the shape of the operation's output, the image first.
        gradient: of the same shape.
        layout: where its axes lie in the image; None for a term without a place there.
    """

    step: int
    name: str
    op: str
    implicit: bool
    values: Float[Tensor, "B *size"]
    gradient: Float[Tensor, "B *size"]
    layout: TensorLayout | None

    def total(self) -> Float[Tensor, "B"]:
        """Its part of each image's score."""
        return self.values.flatten(1).double().sum(1)


@dataclass(frozen=True)
class FullGradients:
    """A score taken apart: `value = sum of input + sum over terms`.

    Attributes:
        input: gradient times image, signed.
        terms: of all biases, in the order of the pass.
        value: (B,) the score of each image.
        box: the part of the image that the terms inside the network cover.
    """

    input: Float[Tensor, "B C H W"]
    terms: tuple[BiasTerm, ...]
    value: Float[Tensor, "B"]
    box: Box

    def total(self) -> Float[Tensor, "B"]:
        """The sum of everything, in float64."""
        return self.input.flatten(1).double().sum(1) + sum(term.total() for term in self.terms)

    def completeness_error(self) -> Float[Tensor, "B"]:
        """How far the sum is from the score, relative to the score."""
        value = self.value.double()
        return ((self.total() - value).abs() / value.abs().clamp(min=1e-12)).float()


def full_gradients(model: Any, images: Any, target: Any = None, *, implicit: bool = True) -> FullGradients:
    """Split a score exactly into `gradient x image` and `gradient x bias` for every bias in the network.

    A network of convolutions, batch norms and ReLUs is piecewise linear: its score is the input term plus one term a
    layer's effective bias (a batch norm's is `bias - mean * weight / sqrt(var + eps)`). Every other operation `h` has
    an implicit bias at this input, `h(z) - J z`; with those the sum holds for any network: layer norms, GELUs,
    attention, positions, the class token, clamping. A cosine does not change with the length of its features, so its
    own implicit bias carries the whole score and all other terms sum to zero.

    Memory holds the activations of all biased operations several times: explain large sets in parts.

    Args:
        model: an `ImageTextModel` (text targets), a `Predictor`, or any module from images (B, C, H, W) to logits.
        images: one image or several of one size, anything the model takes; for a plain module its own input tensor.
            Pixels count from black, so a model's normalisation is a term of its own (`sub`).
        target: see `targets.resolve`; resolved on the images. A logit, not a probability.
        implicit: whether terms of non-linearities are given. Without them the sum holds for piecewise linear networks
            only; a warning says how much is missing elsewhere, and where it is.

    Raises:
        UsageError: a target or image that does not fit, said by name.
        NotSupported: an operation without a forward derivative in torch.

    Examples:
        >>> parts = full_gradients(model, images, "a cat")  # doctest: +SKIP
        >>> parts.completeness_error()  # doctest: +SKIP

    Paper: Full-Gradient Representation for Neural Network Visualization (arXiv 1905.00780).
    """
    observer = Observer(model)
    batch = observer.images(images)
    with observer.ready(fast=False):
        score = _resolved(observer, batch, target)
        gradients = _decomposed(observer, batch, target, score)
    if not bool(_complete(gradients).all()):
        worst = float(gradients.completeness_error().max())
        warnings.warn(
            f"the terms miss the score by up to {worst:.1%}: some operation of {type(model).__name__} is not seen as a "
            "torch function (a custom autograd function, compiled or scripted code), or its precision is too low",
            stacklevel=2,
        )
    if implicit:
        return gradients
    kept = replace(gradients, terms=tuple(term for term in gradients.terms if not term.implicit))
    if not bool(_complete(kept).all()):
        missing = list(dict.fromkeys(term.op for term in gradients.terms if term.implicit))
        warnings.warn(
            f"without implicit biases the terms miss the score by up to {float(kept.completeness_error().max()):.1%}: "
            f"the rest is in {', '.join(missing[:6])}; implicit=True gives it",
            stacklevel=2,
        )
    return kept


@dataclass(frozen=True)
class FullGrad:
    """Importance of pixels and of every bias that lies in the image, added up in one map.

    `psi(gradient x image) + sum over spatial terms of psi(gradient x bias)`, where psi takes magnitudes and brings each
    tensor of each image to [0, 1], channels together; channels are summed afterwards, and maps are resized with aligned
    corners. The terms behind it add up to the score, see `Attribution.completeness_error`.

    Args:
        variant: `full`; `simple`, with the gradient at each bias instead of gradient times bias; `smooth`, with all
            terms averaged over noisy copies before psi.
        implicit: whether the biases of non-linearities count, see `full_gradients`; nothing changes for ReLU networks.
        n_samples: noisy copies of `smooth`.
        level: their standard deviation as a share of the image's range.
        seed: of the noise.

    Raises:
        UsageError: an unknown variant, a setting out of range; when called, see `full_gradients`.

    Examples:
        >>> maps = FullGrad()(model, images, "a cat").maps()  # doctest: +SKIP

    Paper: Full-Gradient Representation for Neural Network Visualization (arXiv 1905.00780).
    """

    variant: Variant = "full"
    implicit: bool = True
    n_samples: int = 25
    level: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, ("full", "simple", "smooth"))
        NoisyCopies(self.n_samples, self.level, self.seed)

    def plan(self) -> None:
        """It watches every operation of a pass, so it shares none with other methods."""
        return

    def __call__(self, model: Any, images: Any, target: Any = None) -> Attribution:
        """Explain images; see `full_gradients` for the arguments."""
        observer = Observer(model)
        batch = observer.images(images)
        size = (batch.shape[-2], batch.shape[-1])
        if self.variant == "smooth":
            gradients, first = self._smoothed(observer, batch, target)
        else:
            gradients = full_gradients(model, batch, target, implicit=self.implicit)
            first = gradients.input.permute(0, 2, 3, 1)
        maps, boxes = [_psi(first)], [whole(size) if tuple(first.shape[1:3]) == size else gradients.box]
        for term in gradients.terms:
            tensor = on_grid(term.gradient if self.variant == "simple" else term.values, term.layout)
            if tensor is not None:
                maps.append(_psi(tensor))
                boxes.append(gradients.box)
        return Attribution(
            tuple(maps), tuple(boxes), size, gradients.value, "fullgrad", "abs", align_corners=True,
            accounted=gradients.total(), promised=gradients.value, seen=gradients.box,
        )  # fmt: skip

    def _smoothed(self, observer: Observer, batch: Tensor, target: Any) -> tuple[FullGradients, Tensor]:
        """Mean terms over noisy copies of the model's input, and the input term with its channels summed."""
        passes = NoisyCopies(self.n_samples, self.level, self.seed, batch=1)
        mean: FullGradients | None = None
        with observer.ready(fast=False):
            fitted = observer.fit(batch).detach()
            score = _resolved(observer, batch, target)
            for number, step in enumerate(passes(observer, fitted)):
                assert step.added is not None
                part = _decomposed(observer, step.images + step.added, target, score)
                running = partial(_mean, before=number)
                mean = part if mean is None else _joined([mean, part], running)
        assert mean is not None
        terms = tuple(t for t in mean.terms if self.implicit or not t.implicit)
        return replace(mean, terms=terms), mean.input.sum(1)[..., None]


def _resolved(observer: Observer, batch: Tensor, target: Any) -> Score:
    dense = getattr(target, "on", "outputs") == "dense"
    with torch.no_grad():
        return resolve(observer.model, target, observer.run(batch, way=_way(observer)).readable(dense))


def _way(observer: Observer) -> str:
    """Through the tower where there is one: its tokens are known, and the image is always the first axis."""
    try:
        return "hooks" if observer.backbone is None else observer.way([observer.backbone.image_tower.depth - 1])
    except NotSupported:
        return "hooks"


def _decomposed(observer: Observer, batch: Tensor, target: Any, score: Score) -> FullGradients:
    """All terms: of all images at once where every term can be split by image, else of one after the other."""
    gradients = _taped(observer, batch, target, score)
    if gradients is not None and (len(batch) == 1 or bool(_complete(gradients).all())):
        return gradients
    # Some layers put images along another axis; a single one cannot be mixed up with others.
    count = len(batch)

    def alone(outputs: Tensor, index: int) -> Tensor:
        return score(outputs.expand(count, *outputs.shape[1:]))[index : index + 1]

    single = [_taped(observer, batch[i : i + 1], target, partial(alone, index=i)) for i in range(count)]
    if gradients is not None and not all(one is not None and bool(_complete(one).all()) for one in single):
        return gradients
    return _joined([one for one in single if one is not None], torch.cat)


def _taped(observer: Observer, batch: Tensor, target: Any, score: Score) -> FullGradients | None:
    """One pass and one backward; None where a term cannot be split by image."""
    network = observer.backbone.visual if observer.backbone is not None else observer.model
    with recorded(network if isinstance(network, torch.nn.Module) else None) as tape:
        seen = observer.run(batch, way=_way(observer))
        seen.bind(score, getattr(target, "on", "outputs") == "dense", batch)
        value = seen.score()
    edges = [get_gradient_edge(seen.images), *(entry.edge for entry in tape.entries)]
    first, *gradients = torch.autograd.grad(value.sum(), edges, allow_unused=True)
    if first is None:
        raise UsageError("the target does not depend on the images")
    size = (batch.shape[-2], batch.shape[-1])
    box = whole(size) if observer.preprocess is None else input_box(observer.preprocess, size)
    fed = size if observer.preprocess is None else observer.preprocess.size
    tokens = None if seen.tokens is None else (seen.tokens.grid, seen.tokens.prefix)
    terms = []
    for entry, gradient in zip(tape.entries, gradients, strict=True):
        if gradient is None:
            continue
        slope, bias = (_by_image(t, entry.op, len(batch)) for t in (gradient, entry.bias.expand_as(gradient)))
        if slope is None or bias is None:
            return None
        layout = layout_of(entry.op, tuple(slope.shape), fed[0] / fed[1], tokens)
        terms.append(BiasTerm(entry.step, entry.name, entry.op, entry.op not in AFFINE, slope * bias, slope, layout))
    return FullGradients((first * seen.images).detach(), tuple(terms), value.detach(), box)


def _by_image(tensor: Tensor, op: str, count: int) -> Tensor | None:
    """The image as the first axis; None where it is not known which axis that is."""
    if op == "multi_head_attention_forward" and tensor.ndim == 3:
        return tensor.transpose(0, 1)
    if not tensor.ndim or tensor.shape[0] % count:
        return None
    return tensor if tensor.shape[0] == count else tensor.reshape(count, -1)


def _complete(gradients: FullGradients) -> Bool[Tensor, "B"]:
    """Whether each image's terms add up to its score, as far as rounding lets them."""
    sizes = gradients.input.flatten(1).double().sum(1).abs() + sum(term.total().abs() for term in gradients.terms)
    missed = (gradients.total() - gradients.value.double()).abs()
    return missed <= TOLERANCE * gradients.value.double().abs() + ROUNDING * sizes


def _joined(parts: Sequence[FullGradients], merge: Callable[[list[Tensor]], Tensor]) -> FullGradients:
    """Terms of several passes, matched by their operations: one that has no bias in some of them has zeros there."""
    terms: dict[int, list[BiasTerm | None]] = {}
    for index, part in enumerate(parts):
        for term in part.terms:
            terms.setdefault(term.step, [None] * len(parts))[index] = term
    merged = []
    for step in sorted(terms):
        some = next(term for term in terms[step] if term is not None)
        filled = [t or replace(some, values=0 * some.values, gradient=0 * some.gradient) for t in terms[step]]
        values, gradient = merge([t.values for t in filled]), merge([t.gradient for t in filled])
        merged.append(replace(some, values=values, gradient=gradient))
    inputs, values = merge([part.input for part in parts]), merge([part.value for part in parts])
    return FullGradients(inputs, tuple(merged), values, parts[0].box)


def _mean(values: list[Tensor], before: int) -> Tensor:
    """The mean of `before` tensors, and one more."""
    old, new = values
    return old + (new - old) / (before + 1)


def _psi(values: Float[Tensor, "B h w C"]) -> Float[Tensor, "B h w"]:
    """Magnitudes, from 0 to 1 within each image, channels and places together; then the sum over channels."""
    flat = values.float().abs().flatten(1)
    flat = flat - flat.amin(1, keepdim=True)
    return (flat / (flat.amax(1, keepdim=True) + 1e-6)).view_as(values).sum(-1)

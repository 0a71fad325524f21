"""Train input gradients to point where a person would expect: perceptually aligned gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses.contrastive.loss import LossOutput
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["GradientAlignmentLoss", "class_gradients"]

Of = Literal["loss", "logit"]
Directions: TypeAlias = Callable[[Tensor, Tensor], Tensor]
# Factor of the published program in front of the cosine term; part of what a weight means.
FACTOR = 10.0


class GradientAlignmentLoss:
    """Cross-entropy plus a term that turns each input gradient towards a given direction of its class.

    With G_t = -dCE(f(x), t)/dx, the direction in which the network thinks x becomes class t, and a direction g(x, t),

        L = CE(f(x), y) + weight * 10 * (1 - mean_{x,t} cos(G_t, g(x, t))),

    over some classes t of each image, drawn without replacement. No adversarial example takes part; robustness is said
    to follow. The gradient of the second term is one of second order: about 2 + 3 k passes instead of one.

    Args:
        directions: `(images, classes (B, k)) -> (B, k, C, H, W)`, such as `robust.PAGTargets`.
        weight: lambda; the paper takes 1.5 for a ResNet-18, 3.0 for a ViT. 0 is plain cross-entropy, bit by bit.
        classes_per_image: k; never more than there are classes.
        of: `"loss"`, as the published program, or `"logit"`, as the paper writes it: G_t = df_t(x)/dx.
        augment: random crops and the like, inside f: the gradient is that of the image before it. Keep the geometry, or
            directions no longer fit.
        seed: of the draw of classes.

    Call it with `(model, images, labels)`, and optionally `directions=` as a tensor (B, K, C, H, W) of all classes.

    Raises:
        UsageError: a setting out of range; directions of another shape than the images.

    Examples:
        >>> loss = GradientAlignmentLoss(PAGTargets("class_mean", images, labels))  # doctest: +SKIP
        >>> fit(lambda batch: loss(net, *batch), net, batches, steps=500, lr=1e-2)  # doctest: +SKIP

    With batch normalisation in training mode the images of a batch share statistics, so gradients are not quite those
    of single images; the published program accepts this.

    Paper: Do Perceptually Aligned Gradients Imply Adversarial Robustness? (arXiv 2207.11378).
    """

    def __init__(
        self,
        directions: Directions | None = None,
        *,
        weight: float = 1.5,
        classes_per_image: int = 3,
        of: Of = "loss",
        augment: Callable[[Tensor], Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        check_number("weight", weight, least=0)
        check_number("classes_per_image", classes_per_image, least=1)
        check_choice("of", of, ("loss", "logit"))
        self.directions, self.weight, self.classes_per_image = directions, float(weight), classes_per_image
        self.of, self.augment = of, augment
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Float[Tensor, "B *size"],
        labels: Int[Tensor, "B"],
        *,
        directions: Float[Tensor, "B K *size"] | None = None,
    ) -> LossOutput:
        """The loss of one batch: terms "cross_entropy" and "alignment" (weighted), metric "cosine".

        Raises:
            UsageError: no directions where the weight is above 0, or some of another shape.
        """
        seen = self.augment or _same
        if self.weight == 0:
            entropy = F.cross_entropy(model(seen(images)), labels)
            return LossOutput(entropy, {"cross_entropy": entropy}, {})
        leaf = images.detach().requires_grad_()
        logits = model(seen(leaf))
        entropy = F.cross_entropy(logits, labels)
        classes = self._draw(len(images), logits.shape[1]).to(images.device)
        targets = self._directions(images, classes, directions)
        cosine = gradient_cosines(_gradients(logits, leaf, classes, self.of, create_graph=True), targets).mean()
        alignment = self.weight * FACTOR * (1 - cosine)
        terms = {"cross_entropy": entropy, "alignment": alignment}
        return LossOutput(entropy + alignment, terms, {"cosine": cosine.detach()})

    def __repr__(self) -> str:
        return (
            f"GradientAlignmentLoss(weight={self.weight:g}, classes_per_image={self.classes_per_image}, of={self.of!r})"
        )

    def _draw(self, batch: int, classes: int) -> Int[Tensor, "B k"]:
        order = torch.rand(batch, classes, generator=self.generator).argsort(dim=1)
        return order[:, : self.classes_per_image]

    @torch.no_grad()
    def _directions(self, images: Tensor, classes: Tensor, given: Tensor | None) -> Tensor:
        if given is not None:
            if given.ndim != images.ndim + 1 or given.shape[0] != len(images) or given.shape[1] <= int(classes.max()):
                raise UsageError(f"directions are {tuple(given.shape)}; give one a class, (B, K, *size of an image)")
            chosen = given[torch.arange(len(images), device=given.device)[:, None], classes]
        elif self.directions is not None:
            chosen = self.directions(images.detach(), classes)
        else:
            raise UsageError("GradientAlignmentLoss needs directions, when it is made or when it is called")
        if chosen.shape != (*classes.shape, *images.shape[1:]):
            raise UsageError(
                f"directions are {tuple(chosen.shape)}; for images {tuple(images.shape)} and {classes.shape[1]} classes"
                f" each they must be {(*classes.shape, *images.shape[1:])}"
            )
        return chosen


def class_gradients(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B *size"],
    classes: Int[Tensor, "B k"],
    *,
    of: Of = "loss",
    create_graph: bool = False,
) -> Float[Tensor, "B k *size"]:
    """For each image and class, the direction in the image that the model takes for more of that class.

    One forward pass, one backward pass for each of the k columns; images do not interact (unless the model lets them).

    Args:
        model: images to logits, used in the mode it is in.
        images: a batch.
        classes: k classes of each image.
        of: `"loss"` gives -dCE/dx, `"logit"` the gradient of the logit.
        create_graph: whether the result can be differentiated again.

    Raises:
        UsageError: an unknown `of`, or classes that are not (B, k) indices.
    """
    check_choice("of", of, ("loss", "logit"))
    if classes.ndim != 2 or len(classes) != len(images) or classes.is_floating_point():
        raise UsageError(f"classes must be (B, k) indices for {len(images)} images, not {tuple(classes.shape)}")
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        return _gradients(model(leaf), leaf, classes, of, create_graph)


def gradient_cosines(a: Float[Tensor, "B k *size"], b: Float[Tensor, "B k *size"]) -> Float[Tensor, "B k"]:
    """Cosine of two directions; 0 where one of them vanishes."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    return F.cosine_similarity(a.flatten(2).to(dtype), b.flatten(2).to(dtype), dim=2, eps=1e-8)


def _gradients(logits: Tensor, leaf: Tensor, classes: Tensor, of: Of, create_graph: bool) -> Tensor:
    scores = logits.log_softmax(dim=1) if of == "loss" else logits
    gradients = []
    for column in range(classes.shape[1]):
        total = scores.gather(1, classes[:, column : column + 1]).sum()
        last = column == classes.shape[1] - 1
        (gradient,) = torch.autograd.grad(total, leaf, create_graph=create_graph, retain_graph=create_graph or not last)
        gradients.append(gradient)
    return torch.stack(gradients, dim=1)


def _same(images: Tensor) -> Tensor:
    return images

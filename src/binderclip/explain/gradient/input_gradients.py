"""Input gradients as attributions of single coordinates, and how well they point towards classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.losses import class_gradients
from binderclip.losses.gradient.alignment import gradient_cosines
from binderclip.models.layers.freezing import frozen

Of = Literal["loss", "logit"]
CHUNK = 256


def input_gradient(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B *size"],
    target: Int[Tensor, "B"] | int | None = None,
    *,
    of: Of = "loss",
) -> Float[Tensor, "B *size"]:
    """Magnitude of the gradient at every coordinate of the images, channels kept: the attribution that DiffROAR tests.

    `Saliency` reduces channels and draws maps; this is the bare quantity. For one class, "loss" and "logit" may rank
    coordinates differently.

    Args:
        model: images to logits (a `Predictor` or a plain module); put into eval mode meanwhile.
        images: in the space the model takes.
        target: class of each image, or one for all; None: the predicted class.
        of: `"loss"`, cross-entropy of the target, or `"logit"`.

    Raises:
        UsageError: an unknown `of`, or not one class an image.

    Paper: Do Input Gradients Highlight Discriminative Features? (arXiv 2102.12781).
    """
    with frozen(*_modules(model)):
        if target is None:
            with torch.no_grad():
                target = model(images).argmax(dim=1)
        classes = torch.as_tensor(target, device=images.device)
        if classes.ndim > 1 or (classes.ndim == 1 and len(classes) != len(images)):
            raise UsageError(f"target must be one class, or one an image, not {tuple(classes.shape)}")
        columns = classes.expand(len(images))[:, None]
        return class_gradients(model, images, columns, of=of)[:, 0].detach().abs()


def gradient_alignment(
    model: Callable[[Tensor], Tensor],
    images: Float[Tensor, "B *size"],
    directions: Callable[[Tensor, Tensor], Tensor] | Float[Tensor, "B K *size"],
    *,
    classes: Int[Tensor, "B k"] | None = None,
    of: Of = "loss",
) -> Float[Tensor, "B"]:
    """How perceptually aligned a model's input gradients are: mean cosine with given directions, one value an image.

    1 where every class's gradient points exactly where it should; an image whose directions have nothing to do with the
    gradients has 0 on average, +-1 / sqrt(size).

    Args:
        model: images to logits; put into eval mode meanwhile.
        images: held-out ones, in the space the model takes.
        directions: `(images, classes) -> (B, k, *size)`, such as `robust.PAGTargets`, or ready ones for `classes`.
        classes: k classes of each image; default all of them.
        of: `"loss"` compares -dCE(f(x), t)/dx, `"logit"` the gradient of the logit.

    Raises:
        UsageError: directions of another shape than the gradients.

    Paper: Do Perceptually Aligned Gradients Imply Adversarial Robustness? (arXiv 2207.11378).
    """
    alignments = []
    with frozen(*_modules(model)):
        for start in range(0, len(images), CHUNK):
            part = slice(start, start + CHUNK)
            batch = images[part]
            if classes is None:
                with torch.no_grad():
                    count = model(batch[:1]).shape[1]
                chosen = torch.arange(count, device=images.device).expand(len(batch), count)
            else:
                chosen = classes[part]
            gradients = class_gradients(model, batch, chosen, of=of)
            targets = directions[part] if isinstance(directions, Tensor) else directions(batch, chosen)
            if targets.shape != gradients.shape:
                raise UsageError(f"directions are {tuple(targets.shape)}, gradients {tuple(gradients.shape)}")
            alignments.append(gradient_cosines(gradients, targets).mean(dim=1))
    return torch.cat(alignments).detach()


def _modules(model: object) -> list[nn.Module]:
    return [model] if isinstance(model, nn.Module) else []

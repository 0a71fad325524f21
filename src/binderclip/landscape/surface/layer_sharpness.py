"""The sharpness of a model layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.landscape.sharpness.measures import worst_case_sharpness
from binderclip.landscape.sharpness.neighbourhood import Neighbourhood
from binderclip.landscape.surface.layers import chosen_layers
from binderclip.landscape.surface.moving import FixedBatches, Progress


@dataclass(frozen=True)
class LayerSharpness:
    """How far the loss rises where one layer alone is perturbed.

    Attributes:
        layers: names, in the model's order.
        values: S_l, the rise of each, mean over batches; 0 or more.
        whole: S of all these layers perturbed together, in the same ball; None where it was left out.
        neighbourhood: norm, scale and radius in words.
    """

    layers: tuple[str, ...]
    values: Float[Tensor, "layers"]
    whole: float | None
    neighbourhood: str

    def mean(self, layers: Iterable[str]) -> float:
        """Mean over some of the layers, such as the stragglers.

        Raises:
            UsageError: none, or one that was not measured.
        """
        chosen = list(layers)
        if not chosen or (unknown := [layer for layer in chosen if layer not in self.layers]):
            raise UsageError(f"no sharpness of {unknown[0]!r} was measured" if chosen else "a mean over no layer")
        return float(self.values[[self.layers.index(layer) for layer in chosen]].mean())


def normalised_logit_loss(model: nn.Module, batch: Any) -> Float[Tensor, ""]:
    """Mean cross-entropy of a batch (inputs, labels), each sample's logits divided by their L2 norm first.

    The scale of the logits changes no prediction, and so does not count.

    Args:
        model: called with the inputs; gives logits [n, classes].
        batch: inputs and labels [n].
    """
    inputs, labels = batch
    return nn.functional.cross_entropy(nn.functional.normalize(model(inputs), dim=-1), labels)


def layerwise_sharpness(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    rho: float = 0.002,
    steps: int = 20,
    whole: bool = True,
    loss: Callable[[nn.Module, Any], Tensor] = normalised_logit_loss,
    seed: int = 0,
    progress: Progress | None = None,
) -> LayerSharpness:
    """Adaptive worst-case sharpness with one layer's weights in the perturbed set at a time, all others fixed.

    The set is |delta_i| <= rho |w_i|, so layers of any size can be compared, as they could not in an l2 ball. Each
    value is `worst_case_sharpness` with Auto-PGD. The model is in evaluation mode meanwhile; weights, buffers and modes
    are put back bit for bit.

    Args:
        model: such as one between a pre-trained and a fine-tuned model, see `interpolate_weights`.
        batches: see `loss_line`; 8 of 128 samples in the paper.
        layers: names of `weight_layers`; default all that require a gradient.
        rho: radius relative to each weight, above 0; 0.0005 to 0.008 for CLIP.
        steps: of ascent; each costs a forward and a backward pass a batch and layer.
        whole: measure all these layers together as well.
        loss: from model and batch to the mean loss, with its graph; default `normalised_logit_loss`.
        seed: of the ascent.
        progress: called with (layers done, layers in all); the whole counts as one.

    Raises:
        UsageError: an unknown layer, no data, no layer that requires a gradient, a radius that is not above 0, or what
            `worst_case_sharpness` refuses.

    Paper: In Search of the Successful Interpolation: On the Role of Sharpness in CLIP Generalization (arXiv
    2410.16476).
    """
    from binderclip.numeric import check_number

    check_number("rho", rho, above=0)
    named = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    chosen = chosen_layers(model, None if layers is None else list(layers))
    parts = {layer: {name: named[name] for name in names if name in named} for layer, names in chosen.items()}
    parts = {layer: part for layer, part in parts.items() if part}
    if not parts:
        raise UsageError("none of these layers has a weight that requires a gradient")
    data = FixedBatches(model, batches, loss)
    sets = list(parts.values())
    if whole:
        sets.append({name: weight for part in parts.values() for name, weight in part.items()})
    modes = [(module, module.training) for module in model.modules()]
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    values, words = [], ""
    model.eval()
    try:
        for part in sets:
            ball = Neighbourhood(part, rho, norm="linf", scale="weight")
            result = worst_case_sharpness(lambda batch: loss(model, batch), data.batches, ball, steps=steps, seed=seed)
            values.append(result.mean)
            words = ball.text
            if progress is not None:
                progress(len(values), len(sets))
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)
    together = values.pop() if whole else None
    return LayerSharpness(tuple(parts), torch.tensor(values, dtype=torch.float64), together, words)

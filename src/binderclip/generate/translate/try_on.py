"""What `SequentialFlow` is trained by: the fit of both warps, smoothness of each, the layout, and its adversary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.generate.translate.gan_loss import GANLoss
from binderclip.generate.translate.terms import DiscriminatorTerm, LossTerm, Outputs
from binderclip.losses.restoration.flows import layer_order, total_variation
from binderclip.vision.flow_fields import resize_flow, warp

__all__ = ["layout_discriminator", "try_on_losses"]

Distance = Callable[[Tensor, Tensor], Tensor]
Batch = Mapping[str, Tensor]


def try_on_losses(
    *,
    perceptual: Distance = F.l1_loss,
    smoothness: float = 2.0,
    depth_smoothness: float = 1.0,
    layout: float = 10.0,
    intermediate: bool = True,
) -> list[LossTerm]:
    """The losses of `SequentialFlow` beside the adversary's.

    The batch needs, beside the model's inputs, `worn_mask` [B, 1, H, W] and `worn` [B, 3, H, W], the garment as it is
    seen on the body, 0 elsewhere, `layout` [B, H, W], the true classes, and `excluded` [B, 1, H, W], 1 where the
    garment would be seen if it were not tucked in: there the smooth flows are free (equations 8 and 9).

    Terms: `mask` 10 |mask - truth| after the second warp, and after the smooth flow where it is not free; `texture` the
    same with the distance of pictures; with `intermediate` the coarser flows too, at weights 1/2, 1/4, ...;
    `smooth` total variation of all smooth flows, `depth_smooth` that of the second warp, `order` its `layer_order`,
    `layout` cross-entropy. Without the second warp, every loss is of the one flow and nothing is excluded.

    Args:
        perceptual: distance of pictures; VGG-19's features as published, absolute error by default.
        smoothness: weight of the smooth flows' total variation.
        depth_smoothness: of the second warp's; half of the published 2, since there half of what it averages is the
            flow of a depth that is not looked at.
        layout: weight of the cross-entropy.
        intermediate: with the fit of the coarser flows.

    Raises:
        UsageError: a weight that is not finite.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).
    """

    def fit(batch: Batch, outputs: Outputs, part: slice, truth: str, distance: Distance) -> Tensor:
        return _fit(batch, outputs, part, batch[truth], distance, intermediate)

    terms = [
        LossTerm("mask", 10.0, lambda b, o: fit(b, o, slice(3, 4), "worn_mask", F.l1_loss)),
        LossTerm("texture", 1.0, lambda b, o: fit(b, o, slice(3), "worn", perceptual)),
        LossTerm("smooth", smoothness, lambda b, o: torch.stack([total_variation(f) for f in o["flows"]]).sum()),
        LossTerm("depth_smooth", depth_smoothness, _depth_variation),
        LossTerm("order", 1.0, _order),
        LossTerm("layout", layout, lambda b, o: F.cross_entropy(o["layout"], b["layout"])),
    ]
    return terms


def layout_discriminator(module: nn.Module, *, classes: int, weight: float = 1.0) -> DiscriminatorTerm:
    """The adversary of the layout: least squares on garment, body and the layout's probabilities, stacked.

    Args:
        module: from [B, 4 + body channels + classes, H, W] to logits.
        classes: of the layout.
        weight: of its part in the generator's loss.

    Raises:
        UsageError: a weight out of range.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).
    """

    def stacked(batch: Batch, layout: Tensor) -> Tensor:
        return torch.cat([batch["cloth"], batch["cloth_mask"], batch["body"], layout], 1)

    def real(batch: Any, outputs: Outputs) -> Tensor:
        return stacked(batch, F.one_hot(batch["layout"], classes).movedim(-1, 1).to(batch["cloth"].dtype))

    def fake(batch: Any, outputs: Outputs) -> Tensor:
        return stacked(batch, outputs["layout"].softmax(1))

    return DiscriminatorTerm(module=module, loss=GANLoss("lsgan"), real=real, fake=fake, weight=weight)


def _fit(batch: Batch, outputs: Outputs, part: slice, truth: Tensor, distance: Distance, intermediate: bool) -> Tensor:
    """The distance of the garment after both warps, after the smooth one, and after each coarser flow."""
    tears = outputs["depth_flow"] is not None
    counted = 1 - batch["excluded"] if tears else torch.ones_like(batch["excluded"])
    error = distance(outputs["warped"][:, part], truth)
    if tears:
        error = error + distance(outputs["smooth"][:, part] * counted, truth * counted)
    if intermediate:
        source = torch.cat([batch["cloth"], batch["cloth_mask"]], 1)[:, part]
        size = (truth.shape[-2], truth.shape[-1])
        for distant, flow in enumerate(outputs["flows"][-2::-1], start=1):
            moved = warp(source, resize_flow(flow, size))
            error = error + distance(moved * counted, truth * counted) / 2**distant
    return error


def _depth_variation(batch: Batch, outputs: Outputs) -> Tensor:
    flow = outputs["depth_flow"]
    return outputs["warped"].new_zeros(()) if flow is None else total_variation(flow)


def _order(batch: Batch, outputs: Outputs) -> Tensor:
    flow = outputs["depth_flow"]
    if flow is None:
        return outputs["warped"].new_zeros(())
    return layer_order(flow[:, 2:], F.interpolate(batch["worn_mask"], flow.shape[-2:], mode="nearest"))

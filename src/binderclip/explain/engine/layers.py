"""Several layers of a network: which ones to read, and one map from the maps of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribution import Attribution, _normalized
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.places import Place, to_grid
from binderclip.numeric import check_number


def stage_layers(model: Any, images: Any, count: int = 4) -> list[Place]:
    """The layers at which the stages of a network end, early ones first.

    A network with feature maps of several resolutions (also one below a transformer, as in `small`) has a stage a
    resolution. Its end is the last block (a submodule with parts of its own that holds no other stage) whose output has
    it, or else the last part that has; where maps begin with channels first, later ones with channels last are tokens.
    A plain transformer tower has no stages: blocks spread evenly over its depth are taken, the last one among them.
    Costs one forward of one image.

    Args:
        model: an `ImageTextModel`, a `Predictor` or a module.
        images: as for `attribute`; the first one is run.
        count: how many, the last ones; fewer where there are not so many.

    Returns:
        Names of submodules, or block indices.

    Raises:
        UsageError: `count` below 1.
        NotSupported: one resolution only, and no tower whose blocks could be taken.
    """
    check_number("count", count, least=1)
    observer = Observer(model)
    with observer.ready():
        names = _ends(observer, observer.images(images)[:1])
    if len(names) > 1:
        return list(names[-count:])
    if observer.backbone is not None:
        try:
            depth = observer.backbone.image_tower.depth
        except NotSupported:
            depth = 0
        if depth:
            count = min(count, depth)
            return [depth * (k + 1) // count - 1 for k in range(count)]
    raise NotSupported(f"{type(model).__name__} has no feature maps of several resolutions: name layers=[...]")


def _ends(observer: Observer, image: Float[Tensor, "1 3 H W"]) -> list[str]:
    """For each resolution on the way down, the name of the layer that ends it."""
    endings: list[tuple[str, bool, bool, tuple[int, int]]] = []
    aspect = image.shape[-2] / image.shape[-1]

    def note(name: str, whole: bool) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                height, width = to_grid(output, name, aspect).shape[1:3]
                if min(height, width) > 1:
                    endings.append((name, whole, tuple(output.shape[1:3]) == (height, width), (height, width)))

        return hook

    network = observer._network()
    handles = [
        module.register_forward_hook(note(name, any(True for _ in module.children())))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            observer._forward(image)
    finally:
        for handle in handles:
            handle.remove()
    ends: dict[tuple[int, int], str] = {}
    blocks: dict[tuple[int, int], str] = {}
    smallest = float("inf")
    for name, whole, last, side in endings:
        if last != endings[0][2]:
            continue
        # What is larger than something before it (heads of attention, a decoder) is no stage on the way down.
        if side[0] * side[1] <= smallest:
            smallest = side[0] * side[1]
            ends[side] = name
            if whole and not any(end.startswith(f"{name}.") for other, end in blocks.items() if other != side):
                blocks[side] = name
    return list((ends | blocks).values())


def combine_layers(
    maps: Attribution | Sequence[Float[Tensor, "B H W"]], weights: Sequence[float] | None = None
) -> Float[Tensor, "B H W"]:
    """The weighted geometric mean of maps brought to [0, 1] one by one: high where every layer is.

    Zero in one layer with a weight is zero in the result; a constant map counts as zero. In order it equals the
    product.

    Args:
        maps: one (B, H, W) a layer, of one shape; or an attribution of several layers, each drawn at the image's size.
        weights: one a layer, at least 0, such as each layer's accuracy in the pointing game; None for equal ones.

    Raises:
        UsageError: no maps, shapes that differ, or weights that do not fit.

    Paper: There and Back Again: Revisiting Backpropagation Saliency Methods (arXiv 2004.02866).
    """
    if isinstance(maps, Attribution):
        maps = layer_maps(maps)
    if not len(maps) or any(m.ndim != 3 or m.shape != maps[0].shape for m in maps):
        raise UsageError(f"maps must have one shape (B, H, W), one a layer; got {[tuple(m.shape) for m in maps][:6]}")
    shares = [1.0] * len(maps) if weights is None else [float(w) for w in weights]
    if len(shares) != len(maps) or not all(0 <= w < float("inf") for w in shares) or sum(shares) <= 0:
        raise UsageError(f"weights {shares[:6]}: give {len(maps)}, one a layer, none negative and not all zero")
    total = torch.zeros_like(maps[0], dtype=torch.float32)
    for values, weight in zip(maps, shares, strict=True):
        if weight:  # 0 times the logarithm of 0 would be no number
            total = total + weight / sum(shares) * _normalized(values.float(), signed=False).log()
    return total.exp()


def layer_maps(attribution: Attribution) -> list[Float[Tensor, "B H W"]]:
    """The map of each layer of an attribution by itself, at the size of the images."""
    sites = zip(attribution.layers, attribution.boxes, strict=True)
    return [replace(attribution, layers=(v,), boxes=(box,), combine="sum").maps() for v, box in sites]

"""Does a map depend on what the model has learned? Its weights are shuffled, layer by layer from the top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.attribution import blank_maps
from binderclip.explain.engine.observed import Observer
from binderclip.explain.engine.targets import is_image_text
from binderclip.explain.faithfulness.perturbation import maps_of
from binderclip.explain.faithfulness.retrain import standard_error


@dataclass(frozen=True)
class Randomisation:
    """How alike maps stay while weights are lost: 1 for a method that does not look at the model.

    Attributes:
        layers: what was shuffled at each step, besides everything before it.
        correlation: Spearman's, of each image's map with the one of the intact model, after each step.
        absolute: the same of the magnitudes.
        floor: the correlation with the intact model's map of the next image: what any two maps of this method share.
        blank: images whose map of the intact model has one value everywhere. Nothing can be unlike it: their
            correlations are NaN, and in no mean.
    """

    layers: tuple[tuple[str, ...], ...]
    correlation: Float[Tensor, "S B"]
    absolute: Float[Tensor, "S B"]
    floor: Float[Tensor, "B"]
    blank: Bool[Tensor, "B"]

    @property
    def mean(self) -> Float[Tensor, "S"]:
        """Over the images whose map is not blank."""
        return self.correlation[:, ~self.blank].mean(dim=1)

    @property
    def standard_error(self) -> Float[Tensor, "S"]:
        """Of the mean; zero for a single image."""
        return standard_error(self.correlation[:, ~self.blank])


def parameter_randomisation(
    model: Any,
    images: Any,
    target: Any = None,
    *,
    method: Callable[[Any, Any, Any], Any],
    layers: Sequence[str] | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> Randomisation:
    """Shuffle the weights of one layer after the other, from the output to the input, and compare the maps.

    A map that stays the same shows the image, not the model. The entries of every parameter are permuted, so each layer
    keeps its values' distribution. The model's weights are put back bit for bit, also after an error.

    Args:
        model, images, target: as in `attribute`; None is the class that the intact model predicts.
        method: a callable `(model, images, target)` that returns an `Attribution` or maps (B, H, W).
        layers: names of submodules (all that is in them) in the order of shuffling; None: every layer that has
            parameters of its own, last to first as they ran.
        steps: group the layers evenly into so many steps; None for one a layer.
        seed: of the permutations.

    Raises:
        UsageError: no such layer, a layer without parameters, steps out of range.
        NotSupported: the model is no module.

    Paper: Sanity Checks for Saliency Maps (arXiv 1810.03292).
    """
    observer = Observer(model)
    network = model if observer.backbone is None else observer.backbone.visual
    if not isinstance(network, nn.Module):
        raise NotSupported(f"{type(model).__name__} is no torch module, so its weights cannot be shuffled")
    pictures = observer.images(images)
    groups = _groups(observer, network, pictures, layers)
    count = len(groups) if steps is None else steps
    if not 1 <= count <= len(groups):
        raise UsageError(f"steps={steps}: there are {len(groups)} layers to shuffle, give 1 to {len(groups)}")
    if target is None and not is_image_text(model):
        with observer.ready(), torch.no_grad():
            target = observer.run(pictures).outputs.argmax(dim=-1).tolist()
    draw = maps_of(method)
    intact = draw(model, pictures, target)
    generator = torch.Generator().manual_seed(seed)
    similarities: list[tuple[Tensor, Tensor]] = []
    named: list[tuple[str, ...]] = []
    with _kept(network):
        for part in np.array_split(np.arange(len(groups)), count):
            for index in part:
                _shuffle(groups[index][1], generator)
            maps = draw(model, pictures, target)
            similarities.append((rank_correlation(intact, maps), rank_correlation(intact.abs(), maps.abs())))
            named.append(tuple(groups[index][0] for index in part))
    blank = blank_maps(intact).cpu()
    return Randomisation(
        tuple(named),
        torch.stack([signed for signed, _ in similarities]).masked_fill(blank, torch.nan),
        torch.stack([absolute for _, absolute in similarities]).masked_fill(blank, torch.nan),
        rank_correlation(intact, intact.roll(1, 0)).masked_fill(blank | blank.roll(1, 0), torch.nan),
        blank,
    )


def rank_correlation(first: Float[Tensor, "B H W"], second: Float[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Spearman's rank correlation of two maps of each image, equal values sharing their ranks; 0 for a constant map.

    Raises:
        UsageError: shapes that differ.
    """
    if first.shape != second.shape:
        raise UsageError(f"maps {tuple(first.shape)} and {tuple(second.shape)} must have one shape")
    a, b = (rankdata(maps.detach().flatten(1).cpu().numpy(), axis=1) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return torch.from_numpy((a * b).sum(axis=1) / np.where(scale > 0, scale, 1)).float()


def _groups(
    observer: Observer, network: nn.Module, pictures: Tensor, layers: Sequence[str] | None
) -> list[tuple[str, list[nn.Parameter]]]:
    """(name, parameters) of each layer in the order of shuffling; a parameter belongs to the first that has it."""
    modules = dict(network.named_modules())
    if layers is not None:
        for name in layers:
            if name not in modules or not list(modules[name].parameters()):
                raise UsageError(f"layer {name!r}: {type(network).__name__} has no such submodule with parameters")
        groups = [(name, list(modules[name].parameters())) for name in layers]
    else:
        ran = _order(observer, network, pictures)
        owned: dict[str, list[nn.Parameter]] = {}
        for name, module in modules.items():
            # A module that a fused operation bypasses belongs to the one around it.
            owner = name
            while owner not in ran and owner:
                owner = owner.rpartition(".")[0]
            owned.setdefault(owner, []).extend(module.parameters(recurse=False))
        groups = [(name, owned[name]) for name in reversed(ran) if owned.get(name)]
    seen: set[int] = set()
    out = []
    for name, parameters in groups:
        fresh = [p for p in dict.fromkeys(parameters) if id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh:
            out.append((name, fresh))
    if not out:
        raise UsageError(f"{type(network).__name__} has no parameters to shuffle")
    return out


def _order(observer: Observer, network: nn.Module, pictures: Tensor) -> list[str]:
    """Names of the modules in the order in which they (first) ended."""
    ended: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: ended.append(name))
        for name, module in network.named_modules()
    ]
    try:
        with observer.ready(), torch.no_grad():
            observer.run(pictures[:1], way="hooks")
    finally:
        for handle in handles:
            handle.remove()
    # What lies directly in a network whose own forward was not used (a projection, say) is taken for its top.
    return list(dict.fromkeys([*ended, ""]))


@torch.no_grad()
def _shuffle(parameters: Sequence[nn.Parameter], generator: torch.Generator) -> None:
    for parameter in parameters:
        order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
        parameter.copy_(parameter.flatten()[order].view_as(parameter))


@contextmanager
def _kept(network: nn.Module) -> Iterator[None]:
    kept = [(parameter, parameter.detach().clone()) for parameter in network.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept:
                parameter.copy_(value)

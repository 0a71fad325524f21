"""One instrumented forward of any model: images, output, and the tensors at chosen places.

Three kinds of model are seen alike: an image-text model (output: image features), a `Predictor` that stands on one
(output: logits), and any other module (output: logits). A place is `"input"`, a block index of a transformer tower
(the tokens after that block's first norm), or the name of a submodule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.placement import Box, input_box, whole
from binderclip.explain.targets import is_image_text

Place: TypeAlias = int | str


@dataclass
class Observed:
    """One forward pass.

    Attributes:
        images: the leaf (B, 3, H, W).
        outputs: features or logits.
        values: recorded tensors by place, as they took part in the pass.
        spatial: for each place, the function that brings its tensor (or gradient) to (B, h, w, C).
        boxes: for each place, the part of the image it covers.
    """

    images: Tensor
    outputs: Tensor
    values: dict[Place, Tensor]
    spatial: dict[Place, Callable[[Tensor], Tensor]]
    boxes: dict[Place, Box]

    def value(self, place: Place) -> Float[Tensor, "B h w C"]:
        """The tensor at a place, channels last."""
        return self.spatial[place](self.values[place].detach())

    def grads(self, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Float[Tensor, "B h w C"]]:
        """Gradients of the sum of scores at several places, in one backward; samples do not interact."""
        if score.shape != (len(self.images),):
            raise UsageError(f"a target must give one number an image, ({len(self.images)},), not {tuple(score.shape)}")
        found = torch.autograd.grad(score.sum(), [self.values[place] for place in places], allow_unused=True)
        out = []
        for place, gradient in zip(places, found, strict=True):
            if gradient is None:
                raise UsageError(f"the target does not depend on {place!r}: choose an earlier layer")
            out.append(self.spatial[place](gradient))
        return out


class Observer:
    """Runs a model for attribution: in eval mode, with frozen weights, everything restored afterwards."""

    def __init__(self, model: Any) -> None:
        if not callable(model) and not is_image_text(model):
            raise UsageError(f"cannot explain {type(model).__name__}: give an ImageTextModel, a Predictor or a module")
        self.model = model
        self.backbone = _image_text_part(model)
        part = self.backbone
        if part is None and hasattr(model, "module"):
            part = model
        self.preprocess: Any = getattr(part, "preprocess", None)

    def images(self, images: Any) -> Float[Tensor, "B 3 H W"]:
        """Anything that is an image, or a list of equally large ones, as a float batch.

        Raises:
            UsageError: images of different sizes, or (for plain modules) something other than a float batch.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            batch = images[None] if images.ndim == 3 else images
            if batch.ndim != 4:
                raise UsageError(f"images must be (B, 3, H, W) or (3, H, W), not {tuple(images.shape)}")
            return batch.detach().to(self.device)
        from binderclip.data import open_image, to_tensor

        many = isinstance(images, (list, tuple)) or (hasattr(images, "ndim") and images.ndim == 4)
        tensors = [
            item if isinstance(item, Tensor) and item.is_floating_point() else to_tensor(open_image(item))
            for item in (images if many else [images])
        ]
        if not tensors:
            raise UsageError("images is empty: give at least one")
        sizes = {tuple(tensor.shape[-2:]) for tensor in tensors}
        if len(sizes) > 1:
            raise UsageError(f"images have different sizes ({sorted(sizes)[:3]}): explain them one by one")
        return torch.stack(tensors).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        parameters = getattr(self.model, "parameters", None)
        first = next(iter(parameters()), None) if parameters else None
        return torch.device("cpu") if first is None else first.device

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Eval mode and frozen weights, restored on leaving."""
        modules = [m for m in (self.model, self.backbone) if isinstance(m, nn.Module)]
        with ExitStack() as stack:
            for module in modules:
                stack.enter_context(_frozen(module))
            stack.enter_context(torch.enable_grad())
            yield

    def run(self, images: Float[Tensor, "B 3 H W"], places: Sequence[Place]) -> Observed:
        """One forward with the tensors at `places`."""
        leaf = images.detach().clone().requires_grad_()
        size = (images.shape[-2], images.shape[-1])
        values: dict[Place, Tensor] = {"input": leaf}
        spatial: dict[Place, Callable[[Tensor], Tensor]] = {"input": lambda t: t.permute(0, 2, 3, 1)}
        inner = [place for place in places if place != "input"]
        box = whole(size) if self.preprocess is None else input_box(self.preprocess, size)
        if any(isinstance(place, int) for place in inner):
            outputs = self._through_tower(leaf, inner, values, spatial)
        else:
            outputs = self._through_hooks(leaf, [str(place) for place in inner], values, spatial)
        boxes = {place: whole(size) if place == "input" else box for place in values}
        return Observed(leaf, outputs, values, spatial, boxes)

    def default_place(self, images: Float[Tensor, "B 3 H W"]) -> Place:
        """The last spatial place: the last block of a transformer tower, else the last feature map of the network.

        Raises:
            NotSupported: the network has no feature map to show.
        """
        if self.backbone is not None:
            try:
                return self.backbone.image_tower.depth - 1
            except NotSupported:
                pass
        return self._last_map(images)

    def _through_tower(self, leaf: Tensor, places: list[Place], values: dict, spatial: dict) -> Tensor:
        from binderclip.models.towers import Record, Recorder, Site

        if self.backbone is None or not all(isinstance(place, int) for place in places):
            raise UsageError(f"layers {places}: block indices are for image-text models, names for other modules")
        tower = self.backbone.image_tower
        blocks = [int(place) % tower.depth if -tower.depth <= int(place) < tower.depth else -1 for place in places]
        if -1 in blocks:
            raise UsageError(f"layer {places[blocks.index(-1)]}: the tower has {tower.depth} blocks")
        recorder = Recorder(Record("ln1", layers=blocks), tower.depth)
        tokens = tower.embed(self.preprocess.normalize(self.preprocess.fit(leaf)).to(self.backbone.dtype))
        last = tower.run(tokens, record=recorder)
        features = tower.project(tower.pool(last)).float()
        for place, block in zip(places, blocks, strict=True):
            values[place] = recorder.values[Site("ln1", block)]
            grid, prefix = tokens.grid, tokens.prefix
            spatial[place] = lambda t, g=grid, p=prefix: t[:, p:].unflatten(1, g)
        return features if self.model is self.backbone else self.model.from_features(features)

    def _through_hooks(self, leaf: Tensor, names: list[str], values: dict, spatial: dict) -> Tensor:
        network = self._network()
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                raise UsageError(f"{type(network).__name__} has no submodule {name!r}")
        handles = [modules[name].register_forward_hook(_keeper(values, name)) for name in names]
        try:
            outputs = self._forward(leaf)
        finally:
            for handle in handles:
                handle.remove()
        for name in names:
            if name not in values:
                raise UsageError(f"submodule {name!r} did not run, or its output is no tensor")
            spatial[name] = _spatial(values[name], name, leaf.shape[-2] / leaf.shape[-1])
        return outputs

    def _forward(self, images: Tensor) -> Tensor:
        if self.preprocess is None:
            return self.model(images)
        # Not through the model's own face: an image that is being optimised may leave [0, 1] for a while.
        pixels = self.preprocess.normalize(self.preprocess.fit(images))
        if self.backbone is None:
            return self.model.module(pixels)
        features = self.backbone.encode_pixels(pixels)
        return features if self.model is self.backbone else self.model.from_features(features)

    def _network(self) -> nn.Module:
        if self.backbone is not None:
            return self.backbone.visual
        if not isinstance(self.model, nn.Module):
            raise NotSupported(f"{type(self.model).__name__} is no torch module, so its layers cannot be seen")
        return self.model

    def _last_map(self, images: Tensor) -> str:
        maps: list[tuple[str, int, torch.Size]] = []

        def note(name: str) -> Callable[..., None]:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim in (3, 4):
                    maps.append((name, output.ndim, output.shape))

            return hook

        network = self._network()
        handles = [m.register_forward_hook(note(n)) for n, m in network.named_modules() if n]
        try:
            with torch.no_grad():
                self._forward(images[:1])
        finally:
            for handle in handles:
                handle.remove()
        spatial = [i for i, (_, ndim, s) in enumerate(maps) if ndim == 4 and min(s[-2:]) > 1]
        if not spatial:
            raise NotSupported(f"{type(network).__name__} has no feature map to show: name one with layer=")
        if sum(ndim == 3 for _, ndim, _ in maps[spatial[-1] + 1 :]) > 2:
            raise NotSupported(
                f"{type(network).__name__} goes on with tokens after its last feature map: name the layer, for a timm "
                "ViT layer='blocks.11.norm1'"
            )
        return maps[spatial[-1]][0]


def _image_text_part(model: Any) -> Any:
    if is_image_text(model):
        return model
    inner = getattr(model, "model", None)
    return inner if is_image_text(inner) and hasattr(model, "from_features") else None


def _keeper(values: dict[Place, Tensor], name: str) -> Callable[..., Any]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return None
        values[name] = output
        # What follows gets a copy: an in-place operation must not overwrite the record.
        return output.clone()

    return hook


def _spatial(value: Tensor, name: str, aspect: float) -> Callable[[Tensor], Tensor]:
    """How a recorded value becomes (B, h, w, C): feature maps, channels first or last, and square tokens."""
    if value.ndim == 4:
        _, a, b, c = value.shape
        # Patch embeddings and some networks keep channels last; read as channels first their map would be a sliver.
        if not 1 / 2 <= b / c / aspect <= 2 and 4 / 5 <= a / b / aspect <= 5 / 4:
            return lambda t: t
        return lambda t: t.permute(0, 2, 3, 1)
    if value.ndim == 3:
        length = value.shape[1]
        for prefix in range(min(length, 9)):
            side = round((length - prefix) ** 0.5)
            if side > 1 and side * side == length - prefix:
                return lambda t: t[:, prefix:].unflatten(1, (side, side))
    raise UsageError(f"layer {name!r} gives {tuple(value.shape)}: neither a feature map (B, C, h, w) nor square tokens")


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    grads = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.eval()
        for parameter, _ in grads:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, wanted in grads:
            parameter.requires_grad_(wanted)
        for part, mode in modes:
            part.training = mode

"""One instrumented forward of any model: images, output, and the tensors at chosen places.

Three kinds of model are seen alike: an image-text model (output: image features), a `Predictor` that stands on one
(output: logits), and any other module (output: logits). A place is `"input"`, a block index of a transformer tower
(the tokens after that block's first norm), a `models.Site` such as `Site("heads", -1)`, or the name of a submodule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError
from binderclip.explain.engine.placement import Box, input_box, whole
from binderclip.explain.engine.places import Place, last_map, site_of, to_grid, tokens_to_grid
from binderclip.explain.engine.targets import is_image_text
from binderclip.fit.optimizers import autocast
from binderclip.models.checks import refuse_image_text_module
from binderclip.models.layers.fast_gradients import fast_gradients
from binderclip.settings import check_choice

Way: TypeAlias = str
"""`tower` (through our view of the blocks) or `hooks` (the library's own forward)."""


@dataclass
class Observed:
    """One forward pass.

    Attributes:
        images: the leaf (B, 3, H, W).
        outputs: features or logits.
        values: recorded tensors by place, as they took part in the pass, in their own shapes.
        spatial: for each place, the function that brings its tensor (or gradient) to (B, h, w, C).
        boxes: for each place, the part of the image it covers.
        wanted: places whose gradients the first backward fetches.
        tokens: after the last block, where a tower ran.
    """

    images: Tensor
    outputs: Tensor
    values: dict[Place, Tensor]
    spatial: dict[Place, Callable[[Tensor], Tensor]]
    boxes: dict[Place, Box]
    wanted: tuple[Place, ...] = ()
    tokens: Any = None
    tower: Any = None
    _again: Callable[[Tensor], Observed] | None = None
    _score: tuple[Callable[[Tensor], Tensor], bool, int] | None = None
    _scores: Tensor | None = None
    _found: dict[Place, Tensor | None] = field(default_factory=dict)

    def value(self, place: Place) -> Float[Tensor, "B h w C"]:
        """The tensor at a place, channels last."""
        return _full(self.spatial[place](self.values[place].detach()))

    def raw(self, place: Place) -> Tensor:
        """The tensor at a place in its own shape."""
        return self.values[place].detach()

    def grads(self, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Float[Tensor, "B h w C"]]:
        """Gradients of the sum of scores at several places, channels last; samples do not interact.

        The first call fetches all `wanted` places in one backward, so that later ones are free.
        """
        return [_full(self.spatial[p](g)) for p, g in zip(places, self.raw_grads(score, places), strict=True)]

    def raw_grads(self, score: Float[Tensor, "B"], places: Sequence[Place]) -> list[Tensor]:
        """Like `grads`, in the places' own shapes."""
        if score.shape != (len(self.images),):
            raise UsageError(f"a target must give one number an image, ({len(self.images)},), not {tuple(score.shape)}")
        missing = [p for p in dict.fromkeys([*places, *self.wanted]) if p not in self._found]
        if any(p in missing for p in places):
            fetched = torch.autograd.grad(score.sum(), [self.values[p] for p in missing], allow_unused=True)
            self._found.update(zip(missing, fetched, strict=True))
        out = []
        for place in places:
            gradient = self._found[place]
            if gradient is None:
                raise UsageError(f"the target does not depend on {place!r}: choose an earlier layer")
            out.append(gradient)
        return out

    def readable(self, dense: bool) -> Tensor:
        """What targets are computed from: features or logits, or the dense map in the shared space (B, E, h, w)."""
        if not dense:
            return self.outputs
        if self.tokens is None:
            raise NotSupported("a patch target needs an image-text model with a transformer tower")
        return self.tower.dense(self.tokens).float()

    def bind(self, score: Callable[[Tensor], Tensor], dense: bool, batch: Tensor) -> None:
        """Say what is explained; the score of B images is applied to each of several copies of them."""
        self._score = (score, dense, len(batch))

    def score(self) -> Float[Tensor, "N"]:
        """The scores of this pass, computed once."""
        if self._scores is None:
            assert self._score is not None
            score, dense, count = self._score
            outputs = self.readable(dense)
            self._scores = torch.cat([score(part) for part in outputs.split(count)])
        return self._scores

    def score_of(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "N"]:
        """The scores of other images, without gradients; of one image for all, it is run once."""
        assert self._again is not None
        assert self._score is not None
        with torch.no_grad():
            score, dense, count = self._score
            outputs = self._again(images).readable(dense)
            return score(outputs.expand(count, *outputs.shape[1:]) if len(images) == 1 else outputs)


class Observer:
    """Runs a model for attribution: in eval mode, with frozen weights, everything restored afterwards.

    Args:
        model: see above.
        precision: `float32`, or `bfloat16` for passes under autocast: outputs, scores, and signals stay float32.
    """

    def __init__(self, model: Any, precision: str = "float32") -> None:
        check_choice("precision", precision, ("float32", "bfloat16"))
        self.precision = precision
        if not callable(model) and not is_image_text(model):
            raise UsageError(f"cannot explain {type(model).__name__}: give an ImageTextModel, a Predictor or a module")
        self.model = model
        self.backbone = _image_text_part(model)
        part = self.backbone
        if part is None and hasattr(model, "module"):
            part = model
        self.preprocess: Any = getattr(part, "preprocess", None)

    def images(self, images: Any) -> Float[Tensor, "B C H W"]:
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
    def ready(self, *, fast: bool = True) -> Iterator[None]:
        """Eval mode, frozen weights and layers with a fast backward, restored on leaving.

        Args:
            fast: False for who watches single operations: those of fast layers are hidden in one.
        """
        modules = {id(m): m for m in (self.model, self.backbone) if isinstance(m, nn.Module)}
        with ExitStack() as stack:
            for module in modules.values():
                stack.enter_context(_frozen(module))
                if fast:
                    stack.enter_context(fast_gradients(module))
            stack.enter_context(torch.enable_grad())
            yield

    def fit(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The images at the model's input size, in [0, 1] (before normalisation)."""
        return images if self.preprocess is None else self.preprocess.fit(images)

    def way(self, places: Sequence[Place], dense: bool = False) -> Way:
        """How places can be seen: `tower`, `hooks`, or `any` where there is nothing but the input.

        Raises:
            UsageError: block indices and names of submodules together, or blocks of a model that has none.
        """
        inner = [place for place in places if place != "input"]
        blocks = [place for place in inner if not isinstance(place, str)]
        if blocks and len(blocks) < len(inner):
            raise UsageError(f"layers {inner}: block indices and names of submodules cannot be seen in one pass")
        if blocks and self.backbone is None:
            raise UsageError(
                f"layers {inner}: block indices are for image-text models; {type(self.model).__name__} has submodules: "
                f"{self._named_layers()}"
            )
        if dense and inner and not blocks:
            raise UsageError(f"layers {inner}: a patch target needs block indices, not names of submodules")
        return "tower" if blocks or dense else "hooks" if inner else "any"

    def run(
        self,
        images: Float[Tensor, "B C H W"],
        places: Sequence[Place] = (),
        *,
        values: Sequence[Place] = (),
        way: Way | None = None,
        added: Float[Tensor, "B 3 h w"] | None = None,
    ) -> Observed:
        """One forward.

        Args:
            images: any size.
            places: whose gradients are wanted.
            values: recorded besides.
            way: see `way`; None for what the places need.
            added: added to the model's input after resizing, before normalisation.
        """
        leaf = images.detach().clone().requires_grad_(torch.is_grad_enabled())
        size = (images.shape[-2], images.shape[-1])
        seen = Observed(leaf, leaf, {"input": leaf}, {"input": _channels_last}, {}, tuple(places))
        inner = list(dict.fromkeys(place for place in [*places, *values] if place != "input"))
        box = whole(size) if self.preprocess is None else input_box(self.preprocess, size)
        way = way or self.way(inner)
        with autocast(self.precision, leaf.device):
            if way == "tower":
                seen.outputs = self._through_tower(leaf, inner, seen, added)
            else:
                seen.outputs = self._through_hooks(leaf, [str(place) for place in inner], seen, added)
        seen.outputs = _full(seen.outputs)
        seen.boxes = {place: whole(size) if place == "input" else box for place in seen.values}
        seen._again = lambda other: self.run(other, way=way)
        return seen

    def default_place(self, images: Float[Tensor, "B C H W"]) -> Place:
        """The last spatial place: the last block of a transformer tower, else the last feature map of the network.

        Where a classifier stands beside the tower it is the classifier's, as passes through the tower alone would
        explain another number than the model's.

        Raises:
            NotSupported: the network has no feature map to show.
        """
        if self.backbone is not None and getattr(self.backbone, "concepts", None) is None:
            try:
                return self.backbone.image_tower.depth - 1
            except NotSupported:
                pass
        return last_map(self._network(), images, self._forward)

    def _through_tower(self, leaf: Tensor, places: list[Place], seen: Observed, added: Tensor | None) -> Tensor:
        from binderclip.models.towers import Record, Recorder, Site

        if self.backbone is None:
            raise NotSupported(f"{type(self.model).__name__} has no transformer tower of an image-text model")
        tower = self.backbone.image_tower
        sites = {place: site_of(place, tower.depth) for place in places}
        record = Record()
        for name, layer in sites.values():
            record = record | Record(name, layers=[layer])
        recorder = Recorder(record, tower.depth)
        with self._graph(leaf) as shown:
            tokens = tower.embed(self._pixels(shown, added).to(self.backbone.dtype))
            last = tower.run(tokens, record=recorder)
            features = tower.project(tower.pool(last)).float()
        if not torch.is_grad_enabled():
            last, features = replace(last, x=last.x.detach()), features.detach()
        for place, (name, layer) in sites.items():
            seen.values[place] = recorder.values[Site(name, layer)]
            seen.spatial[place] = partial(tokens_to_grid, name=name, grid=tokens.grid, prefix=tokens.prefix)
        seen.tokens, seen.tower = last, tower
        return features if self.model is self.backbone else self.model.from_features(features)

    def _through_hooks(self, leaf: Tensor, names: list[str], seen: Observed, added: Tensor | None) -> Tensor:
        network = self._network() if names else None
        modules = dict(network.named_modules()) if network is not None else {}
        for name in names:
            if name not in modules:
                raise UsageError(f"{type(network).__name__} has no layer {name!r}; it has {self._named_layers()}")
        handles = [modules[name].register_forward_hook(_keeper(seen.values, name)) for name in names]
        try:
            outputs = self._forward(leaf, added)
        finally:
            for handle in handles:
                handle.remove()
        for name in names:
            if name not in seen.values:
                raise UsageError(f"submodule {name!r} did not run, or its output is no tensor")
            seen.spatial[name] = partial(to_grid, name=name, aspect=leaf.shape[-2] / leaf.shape[-1])
        return outputs

    def _pixels(self, images: Tensor, added: Tensor | None) -> Tensor:
        """The model's input: resized, moved, normalised."""
        fitted = self.fit(images)
        return self.preprocess.normalize(fitted if added is None else fitted + added)

    def _forward(self, images: Tensor, added: Tensor | None = None) -> Tensor:
        with self._graph(images) as leaf:
            outputs = self._outputs(leaf, added)
        return outputs if torch.is_grad_enabled() else outputs.detach()

    @contextmanager
    def _graph(self, images: Tensor) -> Iterator[Tensor]:
        """The images as a pass takes them: where somebody watches, with gradients also while none are wanted.

        Hooks that call `register_hook` or `retain_grad` on an output would fail in a pass without.
        """
        if torch.is_grad_enabled() or not self._watched():
            yield images
            return
        with torch.enable_grad():
            yield images.detach().requires_grad_()

    def _watched(self) -> bool:
        """Whether the network has forward hooks that are not ours."""
        network = self.model if self.backbone is None else self.backbone.visual
        parts = network.modules() if isinstance(network, nn.Module) else ()
        hooks = (hook for m in parts for kind in (m._forward_hooks, m._forward_pre_hooks) for hook in kind.values())
        return any(not str(getattr(hook, "__module__", "")).startswith("binderclip.") for hook in hooks)

    def _outputs(self, images: Tensor, added: Tensor | None) -> Tensor:
        if self.preprocess is None:
            shown = images if added is None else images + added
            try:
                outputs = self.model(shown)
            except (AttributeError, TypeError):
                refuse_image_text_module(self.model, "an attribution of a text")
                raise
            except (RuntimeError, AssertionError, ValueError) as error:
                refuse_image_text_module(self.model, "an attribution of a text")
                reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
                raise UsageError(
                    f"{type(self.model).__name__} does not take images {tuple(shown.shape)}: {reason}; give it its own "
                    "input size, or wrap it in models.classifier(...), which resizes"
                ) from error
            if not isinstance(outputs, Tensor) or outputs.ndim != 2:
                refuse_image_text_module(self.model, "an attribution of a text")
                shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
                raise UsageError(f"{type(self.model).__name__} must give one logit a class, (B, K), not {shape}")
            return outputs
        # Not through the model's own face: an image that is being optimised may leave [0, 1] for a while.
        pixels = self._pixels(images, added)
        if self.backbone is None:
            return self.model.module(pixels)
        features = self.backbone.encode_pixels(pixels)
        return features if self.model is self.backbone else self.model.from_features(features)

    def _named_layers(self, most: int = 12) -> str:
        """Names to choose from: the outermost submodules, then the ones below them, as many as fit."""
        network = self._network()
        names = [name for name, module in network.named_modules() if name and list(module.parameters(recurse=True))]
        names.sort(key=lambda name: name.count("."))
        shown = ", ".join(names[:most])
        return shown + (f" ... ({len(names)} in all, see named_modules())" if len(names) > most else "")

    def name_of(self, layer: nn.Module) -> str:
        """Name of a submodule of the network that is looked into.

        Raises:
            UsageError: it is none.
        """
        network = self._network()
        name = next((name for name, module in network.named_modules() if module is layer and name), None)
        if name is None:
            kind = type(layer).__name__
            raise UsageError(f"the layer {kind} is no part of {type(network).__name__}; it has {self._named_layers()}")
        return name

    def _network(self) -> nn.Module:
        if self.backbone is not None:
            concepts = getattr(self.backbone, "concepts", None)
            return self.backbone.visual if concepts is None else concepts
        if not isinstance(self.model, nn.Module):
            raise NotSupported(f"{type(self.model).__name__} is no torch module, so its layers cannot be seen")
        return self.model


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


def _full(value: Tensor) -> Tensor:
    """Half precisions as float32: what is added up must not be rounded at each step."""
    return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value


def _channels_last(value: Tensor) -> Tensor:
    return value.permute(0, 2, 3, 1)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Only what has to change is changed: for a single pass a walk over all modules would be felt."""
    training = [m for m in module.modules() if m.training]
    learning = [p for p in module.parameters() if p.requires_grad]
    try:
        if training:
            module.eval()
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True

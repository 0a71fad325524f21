"""Plain image classifiers in folders of binderclip's own format: a network, its classes, its preprocessing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.folders import read_folder, write_folder
from binderclip.models.image_text.classification import Classification
from binderclip.models.image_text.predictor import ModuleClassifier
from binderclip.models.image_text.preprocess import ImageLike, Preprocess, as_list
from binderclip.numeric import check_number

__all__ = ["ImageClassifier", "read_classifier"]


class ImageClassifier(ModuleClassifier):
    """A trained convolutional classifier of photographs; a `Predictor`, so attribution, attacks and probes take it.

    Args:
        module: a network of timm with `forward_features`, `forward_head` and `feature_info`.
        classes: names of its outputs.
        preprocess: pictures -> normalised input.
        arch: its name in timm, for `save`.
        name: it goes by.
        card: where the weights come from, and figures.
    """

    def __init__(
        self,
        module: nn.Module,
        classes: Sequence[str],
        preprocess: Preprocess,
        *,
        arch: str,
        name: str = "classifier",
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(module, classes, preprocess)
        self.arch, self.name, self.card = arch, name, dict(card or {})

    def extra_repr(self) -> str:
        return f"name={self.name!r}, arch={self.arch!r}, classes={len(self.classes)}"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.module.parameters()).device

    @torch.no_grad()
    def classify(
        self, images: ImageLike | Sequence[ImageLike], *, top: int | None = 5, batch_size: int = 64
    ) -> Classification:
        """The classes of pictures.

        Args:
            images: one or many: paths, PIL images, arrays, or float tensors in [0, 1].
            top: how many classes `top()` and `table()` give.
            batch_size: images that go through at once.

        Raises:
            UsageError: no image, or batch_size below 1. DataError: a picture that cannot be read.
        """
        keys = [str(image) if isinstance(image, (str, Path)) else str(i) for i, image in enumerate(as_list(images))]
        logits = torch.cat([self.module(part).float() for part in self._pixels(images, batch_size, None)])
        return Classification(list(self.classes), logits.softmax(-1), logits, keys=keys, shown=top)

    def encode_image(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        normalize: bool = False,
        batch_size: int = 64,
        size: int | tuple[int, int] | None = None,
    ) -> Float[Tensor, "N D"]:
        """The pooled features before the last layer.

        Args:
            images: as `classify` takes them; float tensors may require gradients.
            normalize: rows of length one.
            batch_size: images that go through at once.
            size: input side or (h, w) in pixels; None is the network's own.
        """
        net: Any = self.module
        rows = [
            net.forward_head(net.forward_features(part), pre_logits=True).float()
            for part in self._pixels(images, batch_size, size)
        ]
        features = torch.cat(rows)
        return nn.functional.normalize(features, dim=-1) if normalize else features

    def feature_maps(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        strides: Sequence[int] = (8, 16),
        batch_size: int = 32,
        size: int | tuple[int, int] | None = None,
    ) -> list[Float[Tensor, "N D h w"]]:
        """The deepest map of each stride; middle ones tell textures apart, late ones objects.

        Args:
            images: as `classify` takes them.
            strides: pixels a cell, of those the network has (Lite0: 2, 4, 8, 16, 32).
            batch_size: images that go through at once.
            size: input side or (h, w) in pixels; None is the network's own.

        Raises:
            UsageError: a stride that the network does not have.
        """
        net: Any = self.module
        stages = {int(entry["reduction"]): str(entry["module"]) for entry in net.feature_info}
        if unknown := [stride for stride in strides if stride not in stages]:
            raise UsageError(f"no map of stride {unknown[0]}; {self.name} has {', '.join(map(str, sorted(stages)))}")
        kept: dict[int, Tensor] = {}

        def keeper(stride: int) -> Any:
            def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                kept[stride] = output

            return keep

        modules = dict(net.named_modules())
        handles = [modules[stages[stride]].register_forward_hook(keeper(stride)) for stride in set(strides)]
        parts: list[list[Tensor]] = []
        try:
            for part in self._pixels(images, batch_size, size):
                net.forward_features(part)
                parts.append([kept[stride].float() for stride in strides])
        finally:
            for handle in handles:
                handle.remove()
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def _pixels(
        self, images: ImageLike | Sequence[ImageLike], batch_size: int, size: int | tuple[int, int] | None
    ) -> tuple[Float[Tensor, "B 3 h w"], ...]:
        check_number("batch_size", batch_size, least=1)
        first = next(self.module.parameters())
        return self.preprocess(images, size=size).to(first.device, first.dtype).split(batch_size)

    def save(self, folder: str | Path, *, dtype: str | torch.dtype = "float32") -> Path:
        """Write a model folder that `load_vision` opens.

        Raises:
            UsageError: `folder` is a file, or an unknown precision.
        """
        pixels = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.preprocess).items()}
        config = {"arch": self.arch, "preprocess": pixels, "classes": list(self.classes)}
        card = {"name": self.name, **self.card}
        return write_folder(
            folder, kind="classifier", config=config, state=self.module.state_dict(), card=card, dtype=dtype
        )


def read_classifier(folder: Path, name: str) -> ImageClassifier:
    """Open a folder that `ImageClassifier.save` wrote.

    Raises:
        CheckpointError: of another kind, incomplete, or weights that do not fit the network.
    """
    read = read_folder(folder, "classifier")
    arch, classes = str(read.config.get("arch")), read.config.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(label, str) for label in classes):
        raise CheckpointError(f"{name}: 'classes' in config.json must be a list of names, one for each output")
    try:
        module = timm.create_model(arch, pretrained=False, num_classes=len(classes))
        module.load_state_dict(read.state)
    except RuntimeError as error:
        raise CheckpointError(f"{name} does not fit {arch}: {str(error).splitlines()[0]}") from error
    given = read.config.get("preprocess", {})
    pixels: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return ImageClassifier(module.eval(), classes, Preprocess(**pixels), arch=arch, name=name, card=read.card)
